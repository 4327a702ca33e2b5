"""Finds images by paths, folders and patterns, and chooses output files for them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cora.data.listing import list_images, name_problem
from cora.errors import ImageError
from cora.files import drawn_by_cora

#: Greatest length of a file name made from an address; signed links are longer than a file name may be.
_LONGEST_STEM = 100


@dataclass(frozen=True)
class Sources:
    """The images of a list of sources.

    Attributes:
        paths: paths of the images, each once, in the order of the sources.
        problems: a message for every source without an image, and for every folder that cannot be read.
    """

    paths: tuple[Path, ...]
    problems: tuple[str, ...]


def find_images(sources: Iterable[str], *, beside: int = 0) -> Sources:
    """Find the images of sources: files, the images directly in folders, and the files that match patterns.

    A warning reports what is skipped in a folder.

    Args:
        sources: paths and patterns.
        beside: number of images that the command has from elsewhere. With some, all sources may be without an image.

    Raises:
        ImageError: no source has an image, and there is none from elsewhere.
    """
    paths: list[Path] = []
    problems: list[str] = []
    for source in sources:
        path = Path(source)
        # os.path, since Path's methods raise for a text that is longer than a file name may be.
        if os.path.isdir(source):
            found, unreadable = list_images(path, deep=False)
            problem = (
                "; ".join(unreadable) or f"expected a folder with images, got none directly in {source}; name the files"
            )
        elif os.path.exists(source):
            found, problem = [path], ""
        elif glob.has_magic(source):
            found = sorted(p for p in map(Path, glob.glob(source, recursive=True)) if p.is_file())
            problem = f"expected files, got none that match {source}; check the pattern"
        else:
            found, problem = [], f"expected an image file, got no file at {source}; check the path"
        name_problems = {path: name_problem(str(path)) for path in found}
        paths += [path for path in found if not name_problems[path]]
        problems += [text for text in name_problems.values() if text] if found else [problem]
    if problems and not paths and not beside:
        raise ImageError(problems[0])
    return Sources(tuple(dict.fromkeys(paths)), tuple(problems))


def output_names(sources: Sequence[Path | str], folder: Path, suffix: str) -> dict[Path | str, Path]:
    """Choose a file in `folder` for every path or URL: none twice, no source, and no image that others made."""
    taken = {source.resolve() for source in sources if isinstance(source, Path)}
    targets: dict[Path | str, Path] = {}
    for source in sources:
        stem = source.stem if isinstance(source, Path) else _stem_of_url(source)
        number, target = 1, folder / f"{stem}{suffix}"
        while target.resolve() in taken or (target.exists() and not drawn_by_cora(target)):
            number += 1
            target = folder / f"{stem}-{number}{suffix}"
        taken.add(target.resolve())
        targets[source] = target
    return targets


def _stem_of_url(url: str) -> str:
    try:
        return Path(urlsplit(url).path).stem[:_LONGEST_STEM] or "image"
    except ValueError:  # not an address, which is reported when it is read
        return "image"
