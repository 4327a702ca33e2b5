"""What commands show: tables and texts on standard output; bars, and problems in a line each, on standard error."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cora.progress import BETWEEN, FIRST, ProgressLines, span

_T = TypeVar("_T")

_PIPE_WIDTH = 160  # a table in a pipe has no window to fit


def output_console() -> Console:
    """Standard output; in a pipe wide enough for a table."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    return console


def error_console() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)


class Bars:
    """Progress of one or more pieces of work on standard error: bars that are gone afterwards, or lines in a log.

    Args:
        hidden: show nothing, for what is done at once.

    Attributes:
        console: where other lines may be written meanwhile.
    """

    def __init__(self, *, hidden: bool = False) -> None:
        self.console = error_console()
        self._hidden = hidden
        self._lines: dict[str, ProgressLines] = {}
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=hidden or not self.console.is_terminal,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        for lines in self._lines.values():
            lines.end()
        self._lines.clear()

    def update(self, title: str, done: int, total: int | None, *, earlier: int = 0) -> None:
        """Show that `done` of `total` are done; `earlier`: of these, what was done before this run."""
        if self._hidden:
            return
        if self.console.is_terminal:
            self._progress.start()  # only now: bars catch what is meanwhile written to standard output
            if title not in self._tasks:
                self._tasks[title] = self._progress.add_task(title, total=total)
            self._progress.update(self._tasks[title], completed=done, total=total)
            if total is not None and done >= total:
                self._progress.refresh()
                self._progress.remove_task(self._tasks.pop(title))
            return
        if title not in self._lines:
            self._lines[title] = ProgressLines(title, total, done=earlier)
        self._lines[title].update(done)
        if total is not None and done >= total:
            self._lines.pop(title).end()

    def track(self, items: Sequence[_T], title: str) -> Iterator[_T]:
        """The items, shown as they are taken."""
        if not items:
            return
        self.update(title, 0, len(items))
        for done, item in enumerate(items, start=1):
            yield item
            self.update(title, done, len(items))


def tracked(items: Sequence[_T], title: str) -> Iterator[_T]:
    """The items, with progress on standard error as they are taken."""
    with Bars() as bars:
        yield from bars.track(items, title)


@contextmanager
def progress_report(*, show: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """A report (step, done, of all) that shows progress on standard error."""
    with Bars(hidden=not show) as bars:
        yield bars.update


@contextmanager
def working(title: str) -> Iterator[None]:
    """Show that something goes on that does not say how far it is: in a log after seconds, every minute, at the end."""
    console = error_console()
    if console.is_terminal:
        with console.status(title):
            yield
        return
    began, over, told = time.monotonic(), threading.Event(), False

    def remind() -> None:
        nonlocal told
        while not over.wait(BETWEEN if told else FIRST):
            told = True
            say(console, f"cora: {title}: {span(time.monotonic() - began)} so far")

    thread = threading.Thread(target=remind, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if told:
        say(console, f"cora: {title}: done in {span(time.monotonic() - began)}")


@contextmanager
def quiet(*names: str | None) -> Iterator[None]:
    """Inside the block, loggers of other programs (None: the root) pass errors only."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def stop_signal(*numbers: signal.Signals) -> Iterator[threading.Event]:
    """An event set by the first of these signals; the second acts as usual. Main thread only."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    former = {number: signal.getsignal(number) for number in numbers}

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, former[signal.Signals(number)])

    for number in former:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def say(console: Console, text: str) -> None:
    """A line as it is, however long: names and paths with brackets are no markup."""
    console.print(Text(text), soft_wrap=True)


def counted(count: int, noun: str, verb: tuple[str, str] = ("", "")) -> str:
    """A number of things in words, with a verb for one and for several: 1 box is, 2 boxes are."""
    plural = "es" if noun.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{count} {noun}{plural * (count != 1)} {verb[count != 1]}".rstrip()


IS, WAS = ("is", "are"), ("was", "were")


def report(console: Console, message: str, kind: str = "error") -> None:
    """One line about a problem, in the form of all lines of this program."""
    say(console, f"cora: {kind}: {' '.join(message.split())}")


def number_table(*titles: str, words: int = 1, title: str | None = None) -> Table:
    """A table whose columns after the first `words` hold numbers, which stand at the right."""
    table = Table(*titles, title=title, title_justify="left")
    for column in table.columns[words:]:
        column.justify = "right"
    return table
