"""Frames of a camera or a live stream: the newest one, whatever was missed while the caller was busy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Newest(Generic[_Item]):
    """Iterates over what a source yields in a thread, of which only the latest item is kept.

    Without it a detector slower than the camera falls behind for as long as buffers last.

    Args:
        items: the source; its errors are raised here.
        close: called in the thread when the source is left, at its end or early.
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
                    # With a time limit, since an endless wait keeps Ctrl-C out on some systems.
                    self._changed.wait(timeout=0.5)
                if not self._waiting:
                    break
                item = self._waiting.pop()
            yield item
        if self._error is not None:
            raise self._error

    def stop(self, patience: float) -> bool:
        """Let the thread end; False if it did not within `patience` seconds."""
        self._stopped = True
        self._thread.join(patience)
        return not self._thread.is_alive()
