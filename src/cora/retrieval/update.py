"""Bring an index in step with its folder: what is new, changed, moved, there twice, or gone.

A file whose size and time of change are those in the index is taken as unchanged; of every other the bytes are hashed,
and only contents that the index lacks go through the model. Results are stored every few seconds, so a run that is
stopped, by whatever means, goes on where it was.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from cora.data.listing import list_images
from cora.errors import ImageError
from cora.files import lock
from cora.images import read_image
from cora.retrieval.manifest import LOCK, RetrievalError
from cora.retrieval.regions import Regions
from cora.retrieval.store import PictureFile, RegionStore

Progress = Callable[[Sequence[str]], Iterable[str]]
FindRegions = Callable[[Image.Image], Regions]

_FLUSH_SECONDS = 10.0
_FLUSH_FILES = 256
_TIDY_FLUSHES = 100  # every write leaves small files; so many are joined before they slow the rest down


@dataclass(kw_only=True)
class UpdateReport:
    """What a run did, in files.

    Attributes:
        added: new ones, `twice` included.
        changed: known ones with another content.
        removed: ones that are gone from the folder.
        unchanged: ones that were left alone.
        twice: added or changed ones whose content the index had already.
        problems: one message for every file that could not be read.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    twice: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = {
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "unchanged": self.unchanged,
            "with the content of another": self.twice,
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f"Images: {told or 'none'}."


def update(
    store: RegionStore,
    folder: Path,
    find_regions: FindRegions,
    *,
    rehash: bool = False,
    progress: Progress = iter,
) -> UpdateReport:
    """Index what is new or changed below `folder` and forget what is gone.

    Args:
        store: the index, which no one else may be writing to (`only_writer`).
        folder: its folder; images are found in all levels of it.
        find_regions: regions of an RGB image.
        rehash: hash every file, also those that look unchanged.
        progress: wraps the list of files.

    Raises:
        ImageError: there is no image in the folder.
        RetrievalError: the index cannot be read or written.
    """
    files = list_pictures(folder, tell=True)
    if not files:
        raise no_pictures(folder)
    store.drop_orphans()
    return _Run(store, folder, find_regions, rehash).go(files, progress)


def no_pictures(folder: Path) -> ImageError:
    """The error of a folder without images. An index of it is left as it is: a disk may not be mounted."""
    return ImageError(f"expected a folder with images, got none in or below {folder}; check the path")


def list_pictures(folder: Path, *, tell: bool = False) -> list[str]:
    """Images in all levels of a folder, by their endings: paths below it with forward slashes, in order.

    With `tell` a line of the log says what is passed over.

    Raises:
        ImageError: it is no folder, or cannot be listed.
    """
    if not folder.is_dir():
        raise ImageError(f"expected a folder with images, got {'a file' if folder.exists() else 'nothing'}: {folder}")

    images, problems = list_images(folder, tell=tell)
    if problems:
        raise ImageError(problems[0])
    return sorted(path.relative_to(folder).as_posix() for path in images)


def content_hash(path: Path) -> str:
    """32 hex digits of the bytes of a file (BLAKE2b)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


class _Run:
    """One pass over the files; what is found waits in `_files` and `_regions` until it is stored."""

    def __init__(self, store: RegionStore, folder: Path, find_regions: FindRegions, rehash: bool) -> None:
        self.store = store
        self.folder = folder
        self.find_regions = find_regions
        self.rehash = rehash
        self.known = store.pictures()
        self.contents = {one.content for one in self.known.values()}
        self.report = UpdateReport()
        self._files: list[PictureFile] = []
        self._regions: dict[str, Regions] = {}
        self._flushes = 0
        self._flushed = time.monotonic()

    def go(self, files: Sequence[str], progress: Progress) -> UpdateReport:
        stale = self.known.keys() - set(files)
        try:
            for file in progress(files):
                try:
                    self._index(file)
                except ImageError as error:
                    self.report.problems.append(str(error))
                    if file in self.known:
                        stale.add(file)  # what the index has is of bytes that are no longer there
                if len(self._files) >= _FLUSH_FILES or time.monotonic() - self._flushed > _FLUSH_SECONDS:
                    self._flush()
        finally:
            # Also where Ctrl-C ends the loop: what is computed is not lost.
            self._flush()
        # Last, since a file that was moved leaves its regions to the new name.
        self.store.remove(stale)
        self.report.removed = len(stale)
        self.store.drop_orphans()
        self.store.tidy()
        return self.report

    def _index(self, file: str) -> None:
        path, before = self.folder / file, self.known.get(file)
        try:
            file.encode()
            status = path.stat()
            looks_same = before is not None and (before.size, before.mtime_ns) == (status.st_size, status.st_mtime_ns)
            if looks_same and not self.rehash:
                self.report.unchanged += 1
                return
            content = content_hash(path)
        except UnicodeEncodeError:
            raise ImageError(f"expected a file name in UTF-8, got {file!r}; rename the file") from None
        except OSError as error:
            raise ImageError(f"expected a readable file, got {error.strerror or error}: {path}") from None
        if content not in self.contents:
            self._regions[content] = self.find_regions(read_image(path))
            self.contents.add(content)
        elif before is None or before.content != content:
            self.report.twice += 1
        if before is None:
            self.report.added += 1
        elif before.content != content:
            self.report.changed += 1
        else:
            self.report.unchanged += 1
        self._files.append(PictureFile(file, content, status.st_size, status.st_mtime_ns))

    def _flush(self) -> None:
        # Let go of first: a write that Ctrl-C broke off must not be made twice.
        files, regions = self._files, self._regions
        self._files, self._regions = [], {}
        self.store.add(files, regions)
        self._flushes += 1
        if self._flushes % _TIDY_FLUSHES == 0:
            self.store.tidy()
        self._flushed = time.monotonic()


@contextmanager
def only_writer(place: Path) -> Iterator[None]:
    """Hold the place of an index for writing; the system lets go of it whatever ends the process.

    Raises:
        RetrievalError: another process holds it.
    """
    place.mkdir(parents=True, exist_ok=True)
    with lock(place / LOCK) as held:
        if not held:
            raise RetrievalError(f"expected an index that no one is writing to, got {place} in use; wait for the other")
        yield
