"""The one place that writes files atomically: to a temporary file in the same folder, which is then renamed.

A reader, or a run that resumes after a kill, thus never meets half a file under the name of a result.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.errors import CoraError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

#: Comment in drawn images. It marks them as results, which a command may replace; other images are never replaced.
PICTURE_MARK = "drawn by cora"

#: Bytes; a disk with less is full.
_FULL = 2**20

#: Bytes at the start of a file that `content_of` looks at.
HEAD_BYTES = 4096

_FETCH = "fetch the file itself"
#: Where a mark stands, the mark, what people call such a file, and what to do where another one was meant.
_MARKS = (
    (0, b"version https://git-lfs", "a pointer of Git LFS", f"{_FETCH} with 'git lfs pull'"),
    (0, b"\xff\xd8\xff", "a JPEG image", ""),
    (0, b"\x89PNG\r\n", "a PNG image", ""),
    (0, b"GIF8", "a GIF image", ""),
    (0, b"BM", "a BMP image", ""),
    (8, b"CR\x02\0", "a camera's raw image", ""),
    (0, b"II*\0", "a TIFF image", ""),
    (0, b"MM\0*", "a TIFF image", ""),
    (8, b"WEBP", "a WebP image", ""),
    (0, b"\xff\x0a", "a JPEG XL image", ""),
    (4, b"JXL \r\n", "a JPEG XL image", ""),
    (0, b"8BPS", "a Photoshop image", ""),
    (0, b"v/1\x01", "an OpenEXR image", ""),
    (128, b"DICM", "a DICOM image", ""),
    (4, b"ftypcrx", "a camera's raw image", ""),
    (4, b"ftypavif", "an AVIF image", ""),
    (4, b"ftypheic", "an HEIC image", ""),
    (4, b"ftypmif1", "an HEIC image", ""),
    (4, b"ftyp", "a video", "'cora video' reads videos"),
    (0, b"\x1aE\xdf\xa3", "a video", "'cora video' reads videos"),
    (8, b"AVI ", "a video", "'cora video' reads videos"),
    (0, b"PK\x03\x04", "a ZIP archive or a PyTorch file", ""),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it"),
    (0, b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (0, b"Rar!", "a RAR archive", "unpack it"),
    (257, b"ustar", "a TAR archive", ""),
    (0, b"\x93NUMPY", "a NumPy array", ""),
    (0, b"\x89HDF", "an HDF5 file", ""),
    (0, b"%PDF", "a PDF", ""),
)


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
    from safetensors.torch import save_file

    text = None if metadata is None else dict(metadata)
    write_whole(path, lambda part: save_file(dict(tensors), part, metadata=text))


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file.

    Raises:
        SafetensorError: it is no such file.
        OSError: it cannot be read.
    """
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as content:
        return content.metadata() or {}, {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118


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
    if path.exists() and not path.is_file() and not path.is_dir():
        # A finished file would take its place, even that of /dev/stdout.
        raise CoraError(f"expected a file to write to, got a device or a pipe: {path}")
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

    The system lets go of it whatever ends the process. Where it has no such locks (Windows, some shared folders) this
    is always True.
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
        except OSError:  # a file system without locks
            pass
        # Who held it before may have removed it meanwhile: then another may hold a new file of this name.
        yield path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def content_of(head: bytes) -> tuple[str, str] | None:
    """What people call a file by how it begins, with its article, and what to do where another file was meant.

    Args:
        head: the first `HEAD_BYTES` of it.

    Returns:
        Name and advice, which is "" where the place that asks knows better; None for an unknown or empty file.
    """
    for place, mark, name, advice in _MARKS:
        if head[place : place + len(mark)] == mark:
            return name, advice
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:200].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page", _FETCH
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in head[:HEAD_BYTES].lower()):
        return "an SVG drawing", ""
    return None


def not_fetched(head: bytes) -> str:
    """What came in place of a file that was to be fetched, and what to do; "" where it may be the file itself.

    Args:
        head: the first `HEAD_BYTES` of the file.
    """
    if not head:
        return "got an empty file; get it again"
    name, advice = content_of(head) or ("", "")
    return f"got {name}; {advice}" if advice.startswith(_FETCH) else ""


_JSON_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "nothing"}


def json_kind(value: object) -> str:
    """What people call a value of JSON, with its article."""
    return _JSON_KINDS.get(type(value), "a number")


def json_fault(error: Exception) -> str:
    """What a file is, with its article, that `json.loads` could not read."""
    if not isinstance(error, json.JSONDecodeError):  # Python says of long numbers how a program allows them
        where = "nested too deep" if isinstance(error, RecursionError) else str(error).partition(";")[0]
        return f"text that cannot be read as JSON ({where})"
    if not error.doc.strip("\ufeff \t\r\n"):
        return "an empty file"
    line, rest = error.lineno, error.doc[error.pos :]
    if not error.doc[: error.pos].strip():
        return "text that cannot be read as JSON"
    where = f"it breaks off in line {line}" if not rest.strip() or "Unterminated" in error.msg else str(error)
    return f"text that cannot be read as JSON ({where})"


def found_instead(path: Path, error: Exception) -> str:
    """What a path has, with its article, where a file of text or JSON could not be read; to follow "got"."""
    if isinstance(error, OSError):
        return "a folder" if path.is_dir() else error.strerror or str(error)
    if isinstance(error, UnicodeDecodeError):
        return (content_of(head_of(path)) or ("bytes that are no text in UTF-8", ""))[0]
    return json_fault(error)


def head_of(path: Path) -> bytes:
    """The first `HEAD_BYTES` of a file, as `content_of` looks at them."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def shipped_text(name: str) -> str:
    """The text of a file of the package, by its path in it: "data/splits/coco.json"."""
    return resources.files("cora").joinpath(name).read_text(encoding="utf-8")


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
    """Turn a refusal of the disk into one line for people; other errors stay what they are."""
    try:
        yield
    except Exception as error:
        reason = _refused_by_disk(error, path.parent)
        if reason is None:
            raise
        raise CoraError(f"expected to write {path}, got {reason}; free or choose another place") from None


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


def drawn_by_cora(path: Path) -> bool:
    """Whether an image carries the mark of those that `write_picture` writes."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            found = picture.info.get("comment") or picture.info.get("Comment") or ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    text = found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)
    return text == PICTURE_MARK
