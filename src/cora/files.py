"""Results are written whole or not at all: to a temporary file in the same folder, then renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.errors import CoraError

if TYPE_CHECKING:
    from PIL import Image

#: Comment in drawn pictures: what tells them from photos, which no command may replace.
PICTURE_MARK = "drawn by cora"

#: Bytes; a disk with less is full.
_FULL = 2**20


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
    except Exception as error:
        reason = _refused_by_disk(error, path.parent)
        if reason is None:
            raise
        raise CoraError(f"expected to write {path}, got {reason}; free or choose another place") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _refused_by_disk(error: Exception, folder: Path) -> str | None:
    """Why the disk refused a file, in words; None where it did not."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # PyTorch and safetensors tell of a full disk in words of their own, with places in their sources.
    if "inline_container" in str(error) or "PytorchStreamWriter" in str(error) or "os error" in str(error):
        full = shutil.disk_usage(folder).free < _FULL
        return os.strerror(errno.ENOSPC) if full else "an error of the disk"
    return None


def check_place(path: Path, *, folder: bool) -> None:
    """Fail before the work, not after it: the path must be free for a file or folder, its place writable.

    Args:
        path: to write later; folders above it need not be there yet.
        folder: whether it is one.

    Raises:
        CoraError: something else is there, or writing is not allowed.
    """
    if path.exists() and path.is_dir() != folder:
        wanted, got = ("a folder", "a file") if folder else ("a file", "a folder")
        raise CoraError(f"expected {wanted} to write to, got {got}: {path}")
    place = path if folder else path.parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise CoraError(f"expected a place to write to, got a file where {path} needs a folder: {place}")
    try:
        # Asked by trying: rights alone do not tell of read-only disks and of what the system keeps for itself.
        handle, name = tempfile.mkstemp(dir=place, prefix=".cora-")
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        raise CoraError(
            f"expected a place to write to, got {error.strerror or error} in {place}; choose another for {path}"
        ) from None


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Hold a lock file as long as this lasts; gives False where another process holds it.

    The system lets go of it whatever ends the process; where it has no such locks (Windows) this is always True.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    with path.open("w") as file:
        # Workers that live on for a moment after their parent was killed must not hold it.
        os.register_at_fork(after_in_child=file.close)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        # Who held it before may have removed it meanwhile: then another may hold a new file of this name.
        yield path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


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
