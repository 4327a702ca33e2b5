"""Memory that nobody uses any more goes back to the system."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import cache

#: Passes of a model after which freed memory goes back to the system. The pages come back one by one with the next
#: pass, which costs some 0.1 s: after every pass that was a sixth of a service's throughput, after so many it does not
#: show.
PASSES = 32

_passes = itertools.count(1)


def after_pass() -> None:
    """Count a pass of any model in this process, and now and then give back what passes left."""
    if next(_passes) % PASSES == 0:
        give_back()


def give_back() -> None:
    """Return what the C library keeps of freed memory; where it is not glibc's, nothing happens.

    Passes of the model on batches of ever other sizes leave holes between the blocks that live on, and glibc keeps
    them: the process would grow by a step with each rare size, for hours. Nothing in use is moved or freed.
    """
    _trim()(0)


@cache
def _trim() -> Callable[[int], object]:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS and musl have none, Windows has no library without a name
        return lambda keep: None
    trim.argtypes = [ctypes.c_size_t]
    trim.restype = ctypes.c_int
    return trim
