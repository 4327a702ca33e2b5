"""What an annotation file says, in one form for all formats: read, but not yet checked against classes and images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class RawBox(NamedTuple):
    """One box as its file says it.

    Attributes:
        class_name: of the file.
        xyxy_px: corners in pixels; may leave the image or have no area.
        crowd: marks a group or a box that is too hard: no target, and no false alarm where it is found.
        entry: place among the boxes of the file or folder, from 0.
        where: what a message calls it.
    """

    class_name: str
    xyxy_px: tuple[float, float, float, float]
    crowd: bool
    entry: int
    where: object


@dataclass(kw_only=True, slots=True)
class RawImage:
    """One image of an annotation file.

    Attributes:
        image_id: of the file, or its number from 1.
        path: of a file that exists.
        size: (height, width) in pixels.
        measured: whether `size` comes from the image itself.
        boxes: in the file's order.
        negative: classes known to be absent (LVIS).
        not_exhaustive: classes of which more may be there than have boxes (LVIS).
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
    """All that a set says.

    Attributes:
        format: coco, lvis, voc or yolo.
        source: file or folder that it was read from.
        folder: of the images.
        category_ids: class name -> id, in the file's order.
        declared: whether the file lists its classes; otherwise they are those of its boxes.
        images: in the file's order.
        frequencies: class name -> f, c or r: frequent, common or rare in training (LVIS).
        unused_parents: names of `category_ids` that only group others: no classes unless they are asked for.
        again: id of an image that the file lists again -> the id that it is kept under.
        own_ids: whether ids are numbers in place of the file's texts.
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
