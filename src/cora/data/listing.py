"""Lists the images of a folder, in the same way for all commands, and reports what it skips."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from cora.data.problems import Problems
from cora.images import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

#: Endings of image files of formats that cannot be read.
OTHER_IMAGES = frozenset(
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2", ".srw"),
        *(".ai", ".dcm", ".eps", ".exr", ".hdr", ".jxl", ".pdf", ".psd", ".svg", ".xcf"),
    )
)
_VIDEOS = frozenset((".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".webm", ".wmv"))


class Entry(NamedTuple):
    """An image file, or a folder that cannot be read, with the reason in `problem`."""

    path: str
    problem: str = ""


def is_hidden(name: str) -> bool:
    """Whether a name is that of a hidden file, as operating systems create them (`._a.jpg`, `.DS_Store`)."""
    return name.startswith(".")


def name_problem(name: str) -> str:
    """Why a result cannot hold this file name, which is not in UTF-8; "" if it can."""
    # Python reads bytes that are no UTF-8 as surrogates.
    odd = any("\ud800" <= letter <= "\udfff" for letter in name)
    return f"expected a file name in UTF-8, got {name!a}; rename it" if odd else ""


def walk_images(
    folder: str,
    *,
    deep: bool = True,
    suffixes: Collection[str] = IMAGE_SUFFIXES,
    exclude: str = "",
    passed_over: Problems,
) -> Iterator[Entry]:
    """The images of a folder, sorted by name. Symbolic links to files are followed, those to folders are not.

    Args:
        folder: folder to list.
        deep: whether to list its subfolders, too.
        suffixes: endings of image files, in lower case.
        exclude: path of a folder to leave out.
        passed_over: counts what is skipped: hidden files and folders, images that cannot be read, videos, folders.
    """
    try:
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield Entry(folder, f"expected a readable folder, got {error.strerror or error}: {folder}")
        return
    for entry in inside:
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.is_dir():
            if entry.path == exclude:
                continue
            if is_hidden(entry.name) or entry.is_symlink():
                passed_over.add("hidden folders" if is_hidden(entry.name) else "linked folders", entry.name)
            elif deep:
                yield from walk_images(entry.path, suffixes=suffixes, exclude=exclude, passed_over=passed_over)
            else:
                passed_over.add("folders, whose images have to be named", entry.name)
        elif suffix in suffixes:
            if is_hidden(entry.name):
                passed_over.add("hidden files", entry.name)
            else:
                yield Entry(entry.path)
        elif suffix in OTHER_IMAGES:
            passed_over.add("files of kinds that cannot be read", entry.name)
        elif suffix in _VIDEOS:
            passed_over.add("videos, which 'cora video' reads", entry.name)


def list_images(folder: Path, *, deep: bool = True, tell: bool = True) -> tuple[list[Path], list[str]]:
    """The images of a folder, and a message for every folder that cannot be read.

    With `tell`, a warning reports what is skipped.
    """
    passed_over = Problems()
    entries = list(walk_images(str(folder), deep=deep, passed_over=passed_over))
    if tell:
        tell_passed_over(folder, passed_over)
    return [Path(entry.path) for entry in entries if not entry.problem], [e.problem for e in entries if e.problem]


def files_ending(folder: Path, suffix: str, *, deep: bool = False) -> list[Path]:
    """Files of a folder with this ending, in any case, sorted by name; hidden files are left out."""
    found = folder.rglob("*") if deep else folder.glob("*")
    return sorted(p for p in found if p.suffix.lower() == suffix and not is_hidden(p.name) and p.is_file())


def tell_passed_over(folder: object, passed_over: Problems) -> None:
    """Warn about what was skipped in a folder, if anything was."""
    if passed_over:
        logger.warning("%s: skipped %s", folder, passed_over)
