"""Annotations as read from a file of any format, before they are checked against class names and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class RawBox(NamedTuple):
    """One box.

    Attributes:
        class_name: class name in the file.
        xyxy_px: corners in pixels; they may leave the image or enclose no area.
        crowd: whether it is around a crowd, or marked as difficult. Such a box is no training target, and a detection
            on it is neither right nor wrong.
        entry: index among all boxes of the file or folder.
        where: its name in messages.
        pseudo: whether a detector found it (`source` in files of `cora pseudo-label`), not a person.
    """

    class_name: str
    xyxy_px: tuple[float, float, float, float]
    crowd: bool
    entry: int
    where: object
    pseudo: bool = False


@dataclass(kw_only=True, slots=True)
class RawImage:
    """One image of an annotation file.

    Attributes:
        image_id: id in the file, or its number from 1.
        path: path of an existing file.
        size: (height, width) in pixels.
        measured: whether `size` was read from the image; otherwise it is what the annotations say.
        boxes: in the file's order.
        negative: names of classes that were looked for and are absent (LVIS).
        not_exhaustive: names of classes of which some objects may have no box (LVIS).
    """

    image_id: int
    path: Path
    size: tuple[int, int]
    measured: bool = False
    boxes: list[RawBox] = field(default_factory=list)
    negative: tuple[str, ...] = ()
    not_exhaustive: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RawAnnotations:
    """The annotations of a set of images.

    Attributes:
        format: coco, lvis, voc or yolo.
        source: file or folder of the annotations.
        folder: folder of the images.
        category_ids: class name -> id, in the file's order.
        images: in the file's order.
        declared: whether the file lists its classes; otherwise they are those of its boxes.
        frequencies: class name -> f, c or r: frequent, common or rare in training (LVIS).
        unused_parents: names in `category_ids` that only group others; they are classes only if a caller asks for them.
        again: id of a repeated image -> id of the first one.
        own_ids: whether the ids of the file are no whole numbers and were replaced by numbers.
    """

    format: str
    source: Path
    folder: Path
    category_ids: Mapping[str, int]
    images: list[RawImage]
    declared: bool = True
    frequencies: Mapping[str, str] = field(default_factory=dict)
    unused_parents: frozenset[str] = frozenset()
    again: Mapping[int, int] = field(default_factory=dict)
    own_ids: bool = False
