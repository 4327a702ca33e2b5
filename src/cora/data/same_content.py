"""Copies of images: files of the same bytes, and the versions that Roboflow made from one image."""

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
    """For every file the index of the first file with the same bytes; its own index where it is the first.

    Only files of equal size and equal last bytes are read as a whole. A file that cannot be read equals no other.
    """
    first = list(range(len(paths)))
    for of_size in _alike(range(len(paths)), lambda place: os.stat(paths[place]).st_size):
        for of_tail in _alike(of_size, lambda place: _tail(paths[place])):
            for same in _alike(of_tail, lambda place: _digest(paths[place])):
                for place in same:
                    first[place] = same[0]
    return first


def image_groups(paths: Sequence[Path]) -> list[list[int]]:
    """Indices of images, grouped: copies and versions that Roboflow made from one image are in one group.

    Groups are in the order of their first image.
    """
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
    """First 16 hex digits of the SHA-256 over the names, sizes and last bytes of files.

    A change of an image nearly always changes its size or its last bytes, so the rest is not read. A file that cannot
    be read counts with its name alone, as images in shards do.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        with suppress(OSError):
            digest.update(str(path.stat().st_size).encode() + _tail(path))
    return digest.hexdigest()[:16]


def tell_copies(source: Path, paths: Sequence[Path]) -> None:
    """Warn where images of a set are copies of other images of it."""
    copies = Problems()
    for place, first in enumerate(first_of_same(paths)):
        if first != place:
            copies.add("images with the content of another", f"{paths[place].name}: {paths[first].name}")
    if copies:
        logger.warning("%s: %s; each keeps its own boxes", source, copies)


def tell_shared(learned: CocoDataset, measured: CocoDataset) -> None:
    """Warn where images to measure on are also among those to learn from."""
    training, held_out = ([record.path for record in one.records] for one in (learned, measured))
    first = first_of_same([*training, *held_out])
    shared = [leader for leader in first[len(training) :] if leader < len(training)]
    if shared:
        logger.warning(
            "%s: %d of %d images to measure on are learned from, too (first: %s): new ones will give less",
            measured.images,
            len(shared),
            len(held_out),
            training[shared[0]].name,
        )


def _alike(places: Iterable[int], key_of: Callable[[int], Hashable]) -> list[list[int]]:
    """Places grouped by their key; those that share it with no other are left out."""
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
