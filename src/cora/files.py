"""Results are written whole or not at all: to a temporary file in the same folder, then renamed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.errors import CoraError

if TYPE_CHECKING:
    from PIL import Image

#: Comment in drawn pictures: what tells them from photos, which no command may replace.
PICTURE_MARK = "drawn by cora"


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


def write_picture(path: Path, picture: Image.Image, *, quality: int = 92) -> None:
    """Write a drawn picture with `PICTURE_MARK`, whole or not at all: PNG where the name ends so, else JPEG.

    Raises:
        CoraError: the file cannot be written (permission, full disk).
    """
    if path.suffix.lower() == ".png":
        from PIL.PngImagePlugin import PngInfo

        said = PngInfo()
        said.add_text("Comment", PICTURE_MARK)
        write_whole(path, lambda file: picture.save(file, format="PNG", pnginfo=said))
    else:
        write_whole(path, lambda file: picture.save(file, format="JPEG", quality=quality, comment=PICTURE_MARK))
