"""Reports the errors of quantizers in one line, and hides their progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rich

from cora.errors import CoraError, ModelError


@contextmanager
def running(tool: str) -> Iterator[None]:
    """Run a third-party tool without its progress bars on rich's console.

    Raises:
        ModelError: the tool fails; the message has the first 200 characters of its own.
    """
    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    except CoraError:
        raise
    except Exception as error:  # the exceptions of such tools share no base
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"INT8: expected a graph that {tool} quantizes, got: {reason}; try --mode dynamic or another --backend"
        ) from error
    finally:
        console.quiet = before
