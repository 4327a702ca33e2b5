"""Gives the newest frame of a camera or live stream, and drops those that came while the caller was busy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Newest(Generic[_Item]):
    """Reads a source in a thread and iterates over its items; of several that wait, only the newest is kept.

    Without it, a detector that is slower than the camera falls ever further behind.

    Args:
        items: the source; the iteration raises its errors.
        close: closes the source; called in the thread at its end, or after `stop`.
    """

    def __init__(self, items: Iterable[_Item], *, close: Callable[[], None]) -> None:
        self._items, self._close = items, close
        self._changed = threading.Condition()
        self._waiting: list[_Item] = []
        self._error: BaseException | None = None
        self._ended = self._stopped = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            try:
                for item in self._items:
                    with self._changed:
                        self._waiting = [item]
                        self._changed.notify()
                    if self._stopped:
                        break
            finally:
                self._close()
        except BaseException as error:
            self._error = error
        finally:  # also where closing fails: the caller waits for this
            with self._changed:
                self._ended = True
                self._changed.notify()

    def __iter__(self) -> Iterator[_Item]:
        while True:
            with self._changed:
                while not self._waiting and not self._ended:
                    # With a timeout, since on some systems Ctrl-C does not end a wait without one.
                    self._changed.wait(timeout=0.5)
                if not self._waiting:
                    break
                item = self._waiting.pop()
            yield item
        if self._error is not None:
            raise self._error

    def stop(self, patience: float) -> bool:
        """Ask the thread to end; returns whether it did within `patience` seconds."""
        self._stopped = True
        self._thread.join(patience)
        return not self._thread.is_alive()
