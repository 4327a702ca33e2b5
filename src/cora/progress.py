"""Progress of long work where no bar can be drawn: a line at the start, every minute and at the end.

What is over within seconds says nothing: logs of short commands hold results alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

#: Seconds between two lines, and until the first one.
BETWEEN, FIRST = 60.0, 5.0


def _write(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()


class ProgressLines:
    """Says on standard error how far work is that takes longer than `FIRST`: done, in all, rate, time left.

    Args:
        title: of the work.
        total: how much there is to do; None where that is unknown.
        done: what an earlier run did.
        write: takes a whole line, its end included.
        clock: seconds, ever growing.

    Examples:
        >>> lines = ProgressLines("indexing", 300)  # so quick a loop is done before the first line
        >>> for number in range(300):
        ...     lines.update(number + 1)
        >>> lines.end()
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        done: int = 0,
        write: Callable[[str], object] = _write,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.total, self.done = title, total, done
        self._earlier = done
        self._loss: float | None = None
        self._write, self._clock = write, clock
        self._began = clock()
        self._said: float | None = None

    def update(self, done: int, *, loss: float | None = None) -> None:
        """Note what is done by now; says so where it is time for a line."""
        self.done = done
        if loss is not None:
            self._loss = loss
        now = self._clock()
        due = self._began + FIRST if self._said is None else self._said + BETWEEN
        if now >= due:
            self._said = now
            self._say(self._rate(now) + self._left(now) + self._told_loss())

    def end(self) -> None:
        """Say how it ended, once."""
        if self._said is None:
            return
        self._said, now = None, self._clock()
        stopped = ", stopped" if self.total is not None and self.done < self.total else ""
        self._say(f" in {span(now - self._began)}{self._rate(now)}{self._told_loss()}{stopped}")

    def _say(self, rest: str) -> None:
        of = "" if self.total is None else f" of {self.total}"
        self._write(f"cora: {self.title}: {self.done}{of}{rest}\n")

    def _rate(self, now: float) -> str:
        count, seconds = self.done - self._earlier, now - self._began
        if count <= 0 or seconds <= 0:
            return ""
        return f", {count / seconds:.1f} a second" if count >= seconds else f", {seconds / count:.1f} s each"

    def _left(self, now: float) -> str:
        count = self.done - self._earlier
        if self.total is None or count <= 0:
            return ""
        return f", {span((self.total - self.done) * (now - self._began) / count)} left"

    def _told_loss(self) -> str:
        return "" if self._loss is None else f", loss {self._loss:.4g}"


def span(seconds: float) -> str:
    """A time in words: seconds below two minutes, minutes below two hours, else hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
