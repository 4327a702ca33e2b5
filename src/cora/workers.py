"""Worker processes and Ctrl-C: only the process that a person started hears it, and its workers end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait


class StoppedError(Exception):
    """Raised in a worker process: nobody wants its results any more."""


@contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block; processes that are started in it never hear it.

    A terminal sends Ctrl-C to all of its processes. Workers would print a traceback each, most of all while they still
    import. Systems without signal masks (Windows) do not hold it back; there `obey_parent` ignores it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def obey_parent() -> None:
    """In a new worker process: ignore Ctrl-C, and end when the process that started this one has ended.

    A parent that was killed tells nobody, and workers would wait for work forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
