"""The one place that writes files atomically: to a temporary file in the same folder, which is then renamed.

A reader, or a run that resumes after a kill, thus never meets half a file under the name of a result.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.errors import CoraError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

#: Comment in drawn images. It marks them as results, which a command may replace; other images are never replaced.
PICTURE_MARK = "drawn by cora"


@contextmanager
def whole_file(
    path: Path, *, temporary: Path | None = None, durable: bool = False, keep_interrupted: bool = False
) -> Iterator[Path]:
    """Yield a temporary file that is renamed to `path` at the end of the block, or deleted after an error.

    Args:
        path: the result; its folder is made if needed.
        temporary: where to write, on the same disk, for a result that one process writes at a time. The next writer
            then replaces what a killed one left. By default the name is new and beside `path`.
        durable: wait until the content is on the disk, so that not even a power cut leaves a damaged file.
        keep_interrupted: Ctrl-C is no error; what was written until then is kept, unless that is nothing.

    Raises:
        CoraError: the file cannot be made or renamed (permission, full disk).
    """
    with _refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = temporary or _new_name(path)
        part.unlink(missing_ok=True)
    try:
        try:
            yield part
        except KeyboardInterrupt:
            if keep_interrupted:
                _finish(part, path, durable=durable, even_empty=False)
            raise
        _finish(part, path, durable=durable, even_empty=not keep_interrupted)
    finally:
        part.unlink(missing_ok=True)


def write_whole(
    path: Path, write: Callable[[Path], object], *, temporary: Path | None = None, durable: bool = False
) -> None:
    """Let `write` fill a temporary file, then rename it to `path`; the options are those of `whole_file`.

    Raises:
        CoraError: the file cannot be written (permission, full disk).
    """
    with whole_file(path, temporary=temporary, durable=durable) as part, _refusing(path):
        write(part)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        CoraError: the file cannot be written (permission, full disk).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def save(part: Path) -> None:
        try:
            save_file(dict(tensors), part, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:  # its name for a full disk, among others
            raise OSError(str(error)) from error

    write_whole(path, save)


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
    """Write a drawn image with `PICTURE_MARK`, whole or not at all: PNG where the name ends so, else JPEG.

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


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into one line for people."""
    try:
        yield
    except OSError as error:
        raise CoraError(
            f"expected to write {path}, got {error.strerror or error}; free or choose another place"
        ) from None


def _new_name(path: Path) -> Path:
    # The file goes again: mkstemp makes it private, and a result has the rights of any other new file.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix)
    os.close(handle)
    return Path(name)


def _finish(part: Path, path: Path, *, durable: bool, even_empty: bool) -> None:
    if not even_empty and not (part.exists() and part.stat().st_size):
        return
    with _refusing(path):
        if durable:
            with part.open("r+b") as file:
                os.fsync(file.fileno())
        part.replace(path)
