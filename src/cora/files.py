"""Results are written whole or not at all: to a temporary file in the same folder, then renamed."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cora.errors import CoraError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: no half-written file has the name.

    Raises:
        CoraError: the file cannot be written (permission, full disk).
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        # mkstemp makes files private; a result has the rights of any other new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise CoraError(
            f"expected to write {path}, got {error.strerror or error}; free or choose another place"
        ) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        CoraError: the file cannot be written (permission, full disk).
    """
    write_whole(path, lambda file: file.write_text(content, encoding="utf-8"))


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """Write a JSON file, whole or not at all; `indent=None` is for large ones.

    Raises:
        CoraError: the file cannot be written (permission, full disk).
    """
    write_text(path, json.dumps(content, indent=indent) + "\n")
