"""Sources, class lists and outputs of the commands: found and checked before any work."""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cora.apps.kinds import drawn_by_cora
from cora.errors import ImageError, VocabularyError
from cora.images import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Sources:
    """What a list of sources stands for.

    Attributes:
        paths: the pictures, each once, in the order given.
        problems: one message for every source that stands for nothing.
    """

    paths: tuple[Path, ...]
    problems: tuple[str, ...]


def find_images(sources: Iterable[str]) -> Sources:
    """Files as they are, folders for the pictures directly in them, patterns for the files that match.

    Raises:
        ImageError: there is only one source, or none of them stands for anything.
    """
    paths: list[Path] = []
    problems: list[str] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            problem = f"expected a folder with images, got none directly in {source}; name the files"
        elif path.exists():
            found, problem = [path], ""
        elif glob.has_magic(source):
            found = sorted(p for p in map(Path, glob.glob(source, recursive=True)) if p.is_file())
            problem = f"expected files, got none that match {source}; check the pattern"
        else:
            found, problem = [], f"expected an image file, got no file at {source}; check the path"
        paths += found
        if not found:
            problems.append(problem)
    if not paths:
        raise ImageError(problems[0])
    return Sources(tuple(dict.fromkeys(paths)), tuple(problems))


def parse_classes(text: str) -> list[str]:
    """Names from "cat, remote control" or from @FILE with a name a line, whose empty lines do not count.

    Raises:
        VocabularyError: the file cannot be read, or there is no name in it.
    """
    if not text.startswith("@"):
        return [name.strip() for name in text.split(",")] if text.strip() else []
    path = Path(text[1:])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise VocabularyError(
            f"expected a file of class names, got {error.strerror or error}: {path}; check the path"
        ) from None
    except UnicodeDecodeError:
        raise VocabularyError(f"expected class names in UTF-8, got other bytes: {path}; save it as UTF-8") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise VocabularyError(f"expected one class name a line, got none in {path}; write some into it")
    return names


def output_names(paths: Sequence[Path], folder: Path, suffix: str) -> dict[Path, Path]:
    """A file in `folder` for every path: never the same twice, never one of the paths, never a picture of others."""
    taken = {path.resolve() for path in paths}
    targets: dict[Path, Path] = {}
    for path in paths:
        number, target = 1, folder / f"{path.stem}{suffix}"
        while target.resolve() in taken or (target.exists() and not drawn_by_cora(target)):
            number += 1
            target = folder / f"{path.stem}-{number}{suffix}"
        taken.add(target.resolve())
        targets[path] = target
    return targets
