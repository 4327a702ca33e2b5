"""Finds the images that an annotation file names, also where a file's name on the disk differs from it."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import parse_qs, unquote, urlsplit

from cora.data.listing import walk_images
from cora.data.problems import Problems, check_folder, listed
from cora.images import IMAGE_SUFFIXES

#: What annotation tools put before the name of an uploaded file: hexadecimal digits.
_UPLOAD = re.compile(r"(?=[0-9a-f]*\d)[0-9a-f]{4,36}-(?=.)")
#: How Roboflow renames a.jpg: a_jpg.rf.0123456789abcdef.jpg.
_ROBOFLOW = re.compile(r"(.+)_(?:jpe?g|png|bmp|webp|tiff?|heic|avif|mpo)\.rf\.[0-9a-z]{6,}")
#: Folders of the parts of a set: images of two parts differ, even where they have one name.
_PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class PhotoFolder:
    """The folder that the file names of an annotation file are relative to; no name reaches a file outside it.

    A name without a file of exactly that name may stand for an image with a similar one: in another folder, written as
    a path of another system or as an address, with or without the prefix of an upload, in other case, or with another
    ending. It is found where it fits one image only, and no other name fits that image.

    Args:
        folder: of the images. It is listed once, so that looking up an image directly in it needs no disk access.
        names: names that will be looked up, as far as they are known.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, folder: Path, names: Iterable[object] = ()) -> None:
        check_folder(folder)
        self.folder = folder
        with os.scandir(folder) as entries:
            self.names = frozenset(entry.name for entry in entries if entry.is_file())
        self._index: _Index | None = None
        self._paths: dict[str, Path | str] = {}
        self._owners: dict[Path, str] = {}
        self.settle(names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._exact(name) is not None

    def path(self, name: str) -> Path | None:
        """The path of a file of this name, existing or not; None for a name that leaves the folder."""
        # Windows' rules know both slashes and drive letters, and files travel between systems.
        parts = PureWindowsPath(name)
        if not parts.parts or parts.drive or parts.root or ".." in parts.parts or "\0" in name:
            return None
        return self.folder.joinpath(*parts.parts)

    def find(self, name: object, bad: Problems, repairs: Problems) -> Path | None:
        """The path of the image that `name` stands for, or None after its problem was counted in `bad`.

        An image whose file has another name is counted in `repairs`.
        """
        if not isinstance(name, str):
            bad.add("file names that are no text", name)
            return None
        if name not in self._paths:
            self.settle([name])
        found = self._paths[name]
        if isinstance(found, str):
            bad.add(*self._missing(name, found))
            return None
        if found != self.path(name):
            repairs.add("images found under another name", f"{name}: {found.relative_to(self.folder).as_posix()}")
        return found

    def _missing(self, name: str, why: str) -> tuple[str, str]:
        """Kind and example of the problem of a name without an image; `why`: images that it may stand for, listed."""
        if why:
            return "file names that more than one image fits, or that fit one image together", f"{name}: {why}"
        path = self.path(name)
        if path is None:
            return "file names that leave the image folder", name
        above = self.folder.absolute().parent
        if _is_file(above / path.relative_to(self.folder)):
            return "missing image files", f"{name}: is the image folder the one above, {above}?"
        return "missing image files", name

    def settle(self, names: Iterable[object]) -> None:
        """Look up names together: first those of existing files, then what images the others may stand for."""
        texts = [name for name in dict.fromkeys(n for n in names if isinstance(n, str)) if name not in self._paths]
        others = []
        for name in texts:
            if (path := self._exact(name)) is None:
                others.append(name)
            else:
                self._paths[name] = path
                self._owners[path] = name
        nearly = {name: self._nearly(name) for name in others}
        wanted = Counter(found[0] for found in nearly.values() if len(found) == 1)
        for name, found in nearly.items():
            if len(found) == 1 and wanted[found[0]] == 1 and found[0] not in self._owners:
                self._paths[name] = found[0]
                self._owners[found[0]] = name
            else:
                self._paths[name] = listed(path.relative_to(self.folder).as_posix() for path in found)

    def _exact(self, name: str) -> Path | None:
        path = self.path(name)
        return path if path is not None and (name in self.names or _is_file(path)) else None

    def _nearly(self, name: str) -> list[Path]:
        """Images that a name without a file may stand for."""
        parts = _plain_parts(name)
        if not parts or "\0" in name:
            return []
        if self._index is None:
            self._index = _Index(self.folder)
        for candidates in self._index.candidates(parts[-1]):
            fitting = [path for path in candidates if not self._other_part(parts, path)]
            if fitting:
                return _most_alike(fitting, parts)
        return []

    def _other_part(self, parts: Sequence[str], path: Path) -> bool:
        """Whether the folders of an image and of a name belong to different parts of a set, say train and val."""
        named = {_PARTS[part.lower()] for part in parts[:-1] if part.lower() in _PARTS}
        there = (self.folder.absolute().name, *path.relative_to(self.folder).parts[:-1])
        found = {_PARTS[part.lower()] for part in there if part.lower() in _PARTS}
        return bool(named and found) and not named & found


class _Index:
    """All images of a folder and its subfolders, by their names."""

    def __init__(self, folder: Path) -> None:
        entries = walk_images(str(folder), passed_over=Problems())
        paths = [Path(entry.path) for entry in entries if not entry.problem]
        self.by_name, self.by_bare_name, self.by_stem = (defaultdict[str, list[Path]](list) for _ in range(3))
        for path in paths:
            self.by_name[name_of_file(path.name)].append(path)
            self.by_bare_name[bare_name(path.name)].append(path)
            self.by_stem[name_of_file(path.stem)].append(path)

    def candidates(self, name: str) -> Iterable[list[Path]]:
        """Lists of images that `name` may stand for, the likeliest list first."""
        yield self.by_name.get(name_of_file(name), [])
        # Either the name or the file has an addition of a tool: two different additions belong to two images.
        bare = bare_name(name)
        yield self.by_name.get(bare, []) if bare != name_of_file(name) else []
        yield [
            path
            for path in self.by_bare_name.get(name_of_file(name), [])
            if name_of_file(path.name) != name_of_file(name)
        ]
        stem = PurePosixPath(name).stem if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES else name
        yield self.by_stem.get(name_of_file(stem), [])


def _plain_parts(name: str) -> list[str]:
    """The parts of a path of any system, or of an address."""
    if "://" in name:
        address = urlsplit(name)
        # Label Studio's local files: /data/local-files/?d=folder/a.jpg
        name = parse_qs(address.query).get("d", [address.path])[0]
    elif "?d=" in name:
        name = name.partition("?d=")[2]
    parts = unquote(name).replace("\\", "/").split("/")
    return [part.strip() for part in parts if part.strip() not in ("", ".", "..")]


def _most_alike(paths: list[Path], parts: Sequence[str]) -> list[Path]:
    """The paths that share the most folders with a name, counted from the file upwards."""

    def shared(path: Path) -> int:
        pairs = zip(reversed(path.parts[:-1]), reversed(parts[:-1]), strict=False)
        return sum(1 for _ in takewhile(lambda pair: name_of_file(pair[0]) == name_of_file(pair[1]), pairs))

    most = max(map(shared, paths))
    best = [path for path in paths if shared(path) == most]
    same_case = [path for path in best if path.name == parts[-1]]
    return same_case or best


def name_of_file(name: str) -> str:
    """A file name for comparison: case-folded, and composed, since macOS stores an accent as a separate character."""
    return unicodedata.normalize("NFC", name).casefold()


def original_name(name: str) -> str | None:
    """Name, without its ending, of the image that Roboflow made this file from; None for a file of another origin."""
    found = _ROBOFLOW.fullmatch(PurePosixPath(name_of_file(name)).stem)
    return None if found is None else found[1]


def bare_name(name: str) -> str:
    """A file name for comparison, without what an upload or Roboflow added to it."""
    path = PurePosixPath(name_of_file(name))
    stem = _UPLOAD.sub("", path.stem, count=1) if _UPLOAD.match(path.stem) else path.stem
    found = _ROBOFLOW.fullmatch(stem)
    return (found[1] if found else stem) + path.suffix


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have: too long, or not encodable
        return False
