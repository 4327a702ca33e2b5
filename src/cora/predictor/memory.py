"""Return freed memory to the operating system."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import cache

#: Forward passes between two releases of memory. The next pass after a release takes about 0.1 s longer, for its page
#: faults. After every pass, that was a sixth of a service's throughput; after this many it is negligible.
PASSES = 32

_passes = itertools.count(1)


def after_pass() -> None:
    """Count a forward pass of any model in this process; every `PASSES` passes, release memory."""
    if next(_passes) % PASSES == 0:
        give_back()


def give_back() -> None:
    """Return freed memory of glibc's heap to the system (`malloc_trim`); with another C library, nothing happens.

    Batches of varying sizes fragment the heap, and glibc keeps the free parts: the process would grow for hours, a step
    with each new size. Memory in use is neither moved nor freed.
    """
    _trim()(0)


@cache
def _trim() -> Callable[[int], object]:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS and musl lack it; Windows cannot open a library without a name
        return lambda keep: None
    trim.argtypes = [ctypes.c_size_t]
    trim.restype = ctypes.c_int
    return trim
