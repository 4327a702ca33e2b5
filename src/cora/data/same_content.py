"""Images that are there more than once: the same bytes under several names, or what Roboflow made of one."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from cora.data.coco import CocoDataset
from cora.data.photo_folder import original_name
from cora.data.problems import Problems

logger = logging.getLogger(__name__)

_TAIL_BYTES = 4096


def first_of_same(paths: Sequence[Path]) -> list[int]:
    """For every file the place of the first one with the same bytes; its own where there is none before.

    Only files of one size, and of one end, are read as a whole. One that cannot be read is like no other.
    """
    first = list(range(len(paths)))
    for of_size in _alike(range(len(paths)), lambda place: os.stat(paths[place]).st_size):
        for of_tail in _alike(of_size, lambda place: _tail(paths[place])):
            for same in _alike(of_tail, lambda place: _digest(paths[place])):
                for place in same:
                    first[place] = same[0]
    return first


def image_groups(paths: Sequence[Path]) -> list[list[int]]:
    """Places of images that belong together, in order of the first: copies, and what Roboflow made of one image."""
    leader = first_of_same(paths)

    def leader_of(place: int) -> int:
        while leader[place] != place:
            place = leader[place]
        return place

    of_original: dict[str, int] = {}
    for place, path in enumerate(paths):
        original = original_name(path.name)
        if original is not None:
            first, second = sorted((leader_of(of_original.setdefault(original, place)), leader_of(place)))
            leader[second] = first
    groups: dict[int, list[int]] = defaultdict(list)
    for place in range(len(paths)):
        groups[leader_of(place)].append(place)
    return list(groups.values())


def files_hash(paths: Iterable[Path]) -> str:
    """First 16 hex digits of the SHA-256 over names, sizes and ends of files.

    Whoever changes an image changes its size or its end, and nothing larger is read. One that cannot be read counts
    with its name alone, as images in shards do.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with suppress(OSError):
            digest.update(str(path.stat().st_size).encode() + _tail(path))
    return digest.hexdigest()[:16]


def tell_copies(source: Path, paths: Sequence[Path]) -> None:
    """A line in the log where images of a set have the bytes of another of it."""
    copies = Problems()
    for place, first in enumerate(first_of_same(paths)):
        if first != place:
            copies.add("images with the content of another", f"{paths[place].name}: {paths[first].name}")
    if copies:
        logger.warning("%s: %s; each keeps its own boxes", source, copies)


def tell_shared(learned: CocoDataset, measured: CocoDataset) -> None:
    """A line in the log where images to learn from are among those to measure on."""
    ours, theirs = ([record.path for record in one.records] for one in (learned, measured))
    first = first_of_same([*theirs, *ours])
    shared = [path for path, leader in zip(ours, first[len(theirs) :], strict=True) if leader < len(theirs)]
    if shared:
        logger.warning(
            "%s: %d of %d images to measure on are learned from, too (first: %s): new ones will give less",
            measured.images,
            len(shared),
            len(theirs),
            shared[0].name,
        )


def _alike(places: Iterable[int], key_of: Callable[[int], Hashable]) -> list[list[int]]:
    """Places that have a key in common with others, together."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for place in places:
        try:
            found[key_of(place)].append(place)
        except OSError:
            continue
    return [group for group in found.values() if len(group) > 1]


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
