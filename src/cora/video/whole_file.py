"""A result appears under its name when it is finished, not before; one that was interrupted counts as finished."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cora.errors import CoraError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, renamed to it at the end; after an error it is deleted instead.

    Ctrl-C is no error here: what was written until then is kept. A temporary file that is empty at the end is deleted.

    Raises:
        CoraError: the place cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix)
    except OSError as error:
        raise CoraError(
            f"expected to write {path}, got {error.strerror or error}; free or choose another place"
        ) from None
    os.close(handle)
    temporary = Path(name)
    try:
        try:
            yield temporary
        except KeyboardInterrupt:
            _keep(temporary, path)
            raise
        _keep(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _keep(temporary: Path, path: Path) -> None:
    if temporary.stat().st_size == 0:
        return
    # mkstemp makes files private; a result has the rights of any other new file.
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    temporary.replace(path)
