"""Only the newest item counts; errors and ends arrive; the thread can be stopped."""

import threading
import time
from collections.abc import Iterator

import pytest

from cora.video.newest import Newest


def test_busy_callers_miss_items_but_not_the_last() -> None:
    first_taken, all_made, closed = threading.Event(), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        first_taken.wait(5)
        yield from range(1, 6)
        all_made.set()

    newest = Newest(items(), close=closed.set)
    got = []
    for item in newest:
        got.append(item)
        if item == 0:
            first_taken.set()
            all_made.wait(5)
    assert got == [0, 5]
    assert closed.wait(5)


def test_error_of_the_source_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("unplugged")

    newest = Newest(items(), close=lambda: None)
    with pytest.raises(OSError, match="unplugged"):
        list(newest)


def test_error_of_closing_ends_the_iteration() -> None:
    def close() -> None:
        raise OSError("device gone")

    items = iter(Newest([1], close=close))
    assert next(items) == 1
    with pytest.raises(OSError, match="device gone"):
        next(items)


def test_stop_ends_an_endless_source() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        while True:
            time.sleep(0.001)
            yield 1

    newest = Newest(items(), close=closed.set)
    next(iter(newest))
    assert newest.stop(patience=5)
    assert closed.is_set()


def test_silent_source_is_left_to_its_thread() -> None:
    release = threading.Event()

    def items() -> Iterator[int]:
        release.wait(5)
        yield 1

    newest = Newest(items(), close=lambda: None)
    assert not newest.stop(patience=0.01)
    release.set()
    assert newest.stop(patience=5)
