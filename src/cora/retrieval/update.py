"""Updates an index to its folder: finds files that are new, changed, moved, copied or gone.

A file with the size and time of change that the index has for it counts as unchanged. All others are hashed, and only
contents that the index lacks go through the model. Results are stored every few seconds, so a run that was stopped, by
whatever means, resumes from there.
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
from cora.files import check_place, lock
from cora.images import read_image
from cora.retrieval.manifest import LOCK, RetrievalError
from cora.retrieval.regions import Regions
from cora.retrieval.store import PictureFile, RegionStore

Progress = Callable[[Sequence[str]], Iterable[str]]
FindRegions = Callable[[Image.Image], Regions]

_FLUSH_SECONDS = 10.0
_FLUSH_FILES = 256
_TIDY_FLUSHES = 100  # every write leaves small files; they are joined before they slow the run down


@dataclass(kw_only=True)
class UpdateReport:
    """The number of files by what a run did with them.

    Attributes:
        added: new files.
        changed: files whose content is new.
        removed: files of the index that are gone from the folder or can no longer be read.
        unchanged: files whose content is the same.
        twice: added and changed files whose content the index had already.
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
    """Add the images below `folder` that are new or changed to the index, and remove those that are gone.

    Args:
        store: the index, to which nobody else may write (`only_writer`).
        folder: its folder; images are searched for at all levels.
        find_regions: finds the regions of an RGB image.
        rehash: hash every file, also those with the same size and time of change.
        progress: wraps the list of files; called once.

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
    """The error of a folder without images; its index is left as it is, since a disk may not be mounted."""
    return ImageError(f"expected a folder with images, got none in or below {folder}; check the path")


def list_pictures(folder: Path, *, tell: bool = False) -> list[str]:
    """The images at all levels of a folder, by their endings: sorted paths below it, with forward slashes.

    Args:
        folder: folder to search.
        tell: log a line about skipped files.

    Raises:
        ImageError: it is not a folder, or cannot be listed.
    """
    if not folder.is_dir():
        raise ImageError(f"expected a folder with images, got {'a file' if folder.exists() else 'nothing'}: {folder}")

    images, problems = list_images(folder, tell=tell)
    if problems:
        raise ImageError(problems[0])
    return sorted(path.relative_to(folder).as_posix() for path in images)


def content_hash(path: Path) -> str:
    """A hash (BLAKE2b, 32 hex digits) of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


class _Run:
    """One pass over the files; results wait in `_files` and `_regions` until they are stored."""

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
                        stale.add(file)  # the regions in the index are those of its former content
                if len(self._files) >= _FLUSH_FILES or time.monotonic() - self._flushed > _FLUSH_SECONDS:
                    self._flush()
        finally:
            # Also where Ctrl-C ends the loop, so that no result is lost.
            self._flush()
        # Last, since the regions of a file that was moved are used for its new name.
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
        # Emptied first: a write that Ctrl-C breaks off must not be repeated.
        files, regions = self._files, self._regions
        self._files, self._regions = [], {}
        self.store.add(files, regions)
        self._flushes += 1
        if self._flushes % _TIDY_FLUSHES == 0:
            self.store.tidy()
        self._flushed = time.monotonic()


@contextmanager
def only_writer(place: Path) -> Iterator[None]:
    """Lock an index for writing; the system releases the lock whatever ends the process.

    Raises:
        RetrievalError: another process is writing to the index.
        CoraError: the place cannot be written to.
    """
    check_place(place, folder=True)
    place.mkdir(parents=True, exist_ok=True)
    with lock(place / LOCK) as held:
        if not held:
            raise RetrievalError(f"expected an index that no one is writing to, got {place} in use; wait for the other")
        yield
