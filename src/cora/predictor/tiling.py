"""Tiled inference for small objects: detect in overlapping tiles and in the whole image, and merge the detections.

The idea is SAHI's (Akyon et al., *Slicing Aided Hyper Inference*, ICIP 2022). Its package and the slicer of
`supervision` are not used: they would be required dependencies and convert every result, and they do not know which
sides of a box a tile cut off, on which the merging here is based.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms, nms

from cora.errors import OptionError
from cora.structures import Detections

Predict = Callable[[list[Image.Image]], list[Detections]]

#: A side of a box this close to the edge of its tile, as a fraction of the tile's side, counts as cut off.
_NEAR_EDGE = 0.01
#: The image towers halve their input five times.
_SMALLEST_TILE = 32
#: Boxes that are compared with all others at once; bounds the memory.
_AT_ONCE = 256


def _is_grid(count: object) -> bool:
    return isinstance(count, tuple | list) and len(count) == 2 and all(type(n) is int and n >= 1 for n in count)


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How to divide an image, by the size or the number of tiles, and how to merge the detections.

    Attributes:
        size_px: height and width of a tile in pixels of the image; smaller images are one tile.
        count: (rows, columns) of tiles, instead of their size.
        overlap: share of a tile's side, at least, that its neighbour covers, too: 0 to below 0.9.
        whole: look at the whole image, too; without it objects larger than a tile are lost.
        largest: with `whole`, a tile's boxes that are longer than this share of the image's side are left to the whole
            image, which shows such objects better; above 0 to 1.
        merge: "nms" keeps one of several boxes of an object; "nmm" also joins pieces of an object that no tile and not
            the whole image showed at once.
        iou: boxes of one class that overlap more, where both tiles see, are of one object; 0..1.

    Raises:
        OptionError: both or neither of `size_px` and `count`, or a value out of range.

    Examples:
        >>> tiles = Tiles(size_px=512)
        >>> cora.load("nano").predict("coffee.jpg", ["cup"], tiles=tiles, score=0.5).names[0]
        'cup'
    """

    size_px: int | None = None
    count: tuple[int, int] | None = None
    overlap: float = 0.2
    whole: bool = True
    largest: float = 0.2
    merge: Literal["nms", "nmm"] = "nmm"
    iou: float = 0.5

    def __post_init__(self) -> None:
        if (self.size_px is None) == (self.count is None):
            raise OptionError(f"tiles: expected either size_px or count, got {self.size_px} and {self.count}")
        if self.size_px is not None and not (isinstance(self.size_px, int) and self.size_px >= _SMALLEST_TILE):
            raise OptionError(f"tiles: expected a size of at least {_SMALLEST_TILE} pixels, got {self.size_px!r}")
        if self.count is not None and not _is_grid(self.count):
            raise OptionError(f"tiles: expected a count of (rows, columns), each at least 1, got {self.count!r}")
        for name in ("overlap", "iou", "largest"):
            if isinstance(value := getattr(self, name), bool) or not isinstance(value, Real):
                raise OptionError(f"tiles: expected a number as {name}, got {value!r}")
        if not 0 <= self.overlap < 0.9:
            raise OptionError(f"tiles: expected an overlap from 0 to below 0.9, got {self.overlap}")
        if self.merge not in ("nms", "nmm"):
            raise OptionError(f'tiles: expected merge "nms" or "nmm", got {self.merge!r}')
        if not 0 <= self.iou <= 1:
            raise OptionError(f"tiles: expected an iou in 0..1, got {self.iou}")
        if not 0 < self.largest <= 1:
            raise OptionError(f"tiles: expected a largest above 0 to 1, got {self.largest}")

    def windows(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """Tiles of an image, row by row; together they cover it.

        Args:
            height: of the image in pixels.
            width: of the image in pixels.

        Returns:
            (left, top, right, bottom) of each tile in whole pixels.

        Examples:
            >>> Tiles(count=(1, 2), overlap=0.2).windows(90, 180)
            [(0, 0, 100, 90), (80, 0, 180, 90)]
        """
        rows, columns = (self._along(length, axis) for axis, length in enumerate((height, width)))
        return [(left, top, right, bottom) for top, bottom in rows for left, right in columns]

    def _along(self, length: int, axis: int) -> list[tuple[int, int]]:
        if self.size_px is not None:
            return _divide(length, self.size_px, _tile_count(length, self.size_px, self.overlap))
        number = 1 if self.count is None else self.count[axis]
        return _divide(length, _tile_side(length, number, self.overlap), number)


@dataclass(frozen=True)
class _Boxes:
    """Boxes [K, 4] xyxy with scores and labels [K], and the tile [K, 4] xyxy of each, all in pixels of the image."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    tiles: Tensor

    def __len__(self) -> int:
        return self.scores.shape[0]

    def __getitem__(self, index: Tensor) -> _Boxes:
        return _Boxes(self.boxes[index], self.scores[index], self.labels[index], self.tiles[index])


def predict_tiled(
    predict: Predict, image: Image.Image, *, tiles: Tiles, max_detections: int | None = None
) -> Detections:
    """Detect objects in the tiles of an image and in the whole image.

    Args:
        predict: returns the detections of each image in a list, all for the same class names.
        image: RGB image.
        tiles: how to divide it.
        max_detections: most boxes, best first; None for all.

    Returns:
        Boxes in pixels of the whole image, best first. If there is only one tile, the output of `predict` for it.
    """
    windows = tiles.windows(image.height, image.width)
    everything = (0, 0, image.width, image.height)
    if windows == [everything]:
        return predict([image])[0]
    parts = [image.crop(window) for window in windows]
    found = predict([*parts, image] if tiles.whole else parts)
    places = [*windows, everything] if tiles.whole else windows
    seen = [_to_image(detections, place) for place, detections in zip(places, found, strict=True)]
    if tiles.whole:
        seen = [*(_without_large(part, (image.height, image.width), tiles.largest) for part in seen[:-1]), seen[-1]]
    merged = _merge(_concatenate(seen), (image.height, image.width), tiles)
    best = merged[merged.scores.argsort(descending=True, stable=True)[:max_detections]]
    return Detections(
        boxes_xyxy_px=best.boxes,
        scores=best.scores,
        labels=best.labels,
        class_names=found[0].class_names,
        image_size=(image.height, image.width),
    )


def suppress_between_classes(detections: Detections, iou: float, max_detections: int | None = None) -> Detections:
    """Class-agnostic NMS: drop boxes whose IoU with a better one of any class is above `iou`; best first.

    Args:
        detections: of one image.
        iou: 0..1.
        max_detections: boxes kept, best first; all if None.
    """
    return detections[nms(detections.boxes_xyxy_px, detections.scores, iou)[:max_detections]]


def _merge(found: _Boxes, size_hw: tuple[int, int], tiles: Tiles) -> _Boxes:
    """Merge boxes of tiles to one box per object.

    *Cut* boxes touch an edge of their tile that is not an edge of the image; the others are *whole*. A cut box is
    dropped if a whole box agrees with it in the overlap of their tiles; the whole box gets the better score of the two.
    With "nmm", the remaining cut boxes of one object are joined.
    """
    cut = _is_cut(found, size_hw)
    whole = found[_suppress(found, ~cut, tiles.iou)]
    pieces = found[_suppress(found, cut, tiles.iou)]
    whole, pieces = _drop_pieces(whole, pieces, tiles.iou)
    return _concatenate([whole, _merge_pieces(pieces, tiles.iou) if tiles.merge == "nmm" else pieces])


def _drop_pieces(whole: _Boxes, pieces: _Boxes, iou: float) -> tuple[_Boxes, _Boxes]:
    """Whole boxes with the best score of their pieces (cut boxes), and the pieces that belong to no whole box."""
    scores = whole.scores.clone()
    apart = torch.ones(len(pieces), dtype=torch.bool)
    for start in range(0, len(whole) if len(pieces) else 0, _AT_ONCE):
        rows = torch.arange(start, min(start + _AT_ONCE, len(whole)))
        same = _same_object(whole[rows], pieces, iou)
        scores[rows] = torch.maximum(scores[rows], (same * pieces.scores).amax(dim=1))
        apart &= ~same.any(dim=0)
    return replace(whole, scores=scores), pieces[apart.nonzero()[:, 0]]


def _merge_pieces(pieces: _Boxes, iou: float) -> _Boxes:
    """Merge pieces of one object to their enclosing box, greedily from the best, until no further piece agrees."""
    pieces = pieces[pieces.scores.argsort(descending=True, stable=True)]
    waiting = torch.ones(len(pieces), dtype=torch.bool)
    joined = []
    for place in range(len(pieces)):
        if not waiting[place]:
            continue
        one = pieces[torch.tensor([place])]
        waiting[place] = False
        while (same := _same_object(one, pieces, iou)[0] & waiting).any():
            waiting &= ~same
            others = pieces[same.nonzero()[:, 0]]
            one = replace(one, boxes=_enclosing(one.boxes, others.boxes), tiles=_enclosing(one.tiles, others.tiles))
        joined.append(one)
    return _concatenate(joined) if joined else pieces


def _tile_side(length: int, number: int, overlap: float) -> int:
    """Side of the smallest tiles, `number` of which cover `length` with this overlap."""
    return min(length, math.ceil(length / (number - (number - 1) * overlap)))


def _tile_count(length: int, side: int, overlap: float) -> int:
    """How many tiles of this side cover `length` with at least this overlap."""
    return 1 if length <= side else math.ceil((length - side) / max(1, math.floor(side * (1 - overlap)))) + 1


def _divide(length: int, side: int, number: int) -> list[tuple[int, int]]:
    """Starts and ends of tiles, evenly spread; the last one ends with the image."""
    side = min(side, length)
    step = (length - side) / max(1, number - 1)
    starts = dict.fromkeys(round(place * step) for place in range(number))
    return [(start, start + side) for start in starts]


def _to_image(detections: Detections, window: tuple[int, int, int, int]) -> _Boxes:
    left, top = window[:2]
    boxes = detections.boxes_xyxy_px + detections.boxes_xyxy_px.new_tensor([left, top, left, top])
    tile = boxes.new_tensor(window).expand(len(boxes), 4)
    return _Boxes(boxes, detections.scores, detections.labels, tile)


def _without_large(found: _Boxes, size_hw: tuple[int, int], largest: float) -> _Boxes:
    """Boxes whose width and height are at most this fraction of the image's."""
    height, width = size_hw
    shares = (found.boxes[:, 2:] - found.boxes[:, :2]) / found.boxes.new_tensor([width, height])
    return found[(shares.amax(dim=1) <= largest).nonzero()[:, 0]]


def _is_cut(found: _Boxes, size_hw: tuple[int, int]) -> Tensor:
    """[K] bool: whether a side of the box is at an edge of its tile that is not an edge of the image."""
    height, width = size_hw
    edges = found.tiles.new_tensor([0, 0, width, height])
    sides = (found.tiles[:, 2:] - found.tiles[:, :2]).repeat(1, 2)
    near = (found.boxes - found.tiles).abs() <= (_NEAR_EDGE * sides).clamp(min=1)
    return (near & (found.tiles != edges)).any(dim=1)


def _suppress(found: _Boxes, among: Tensor, iou: float) -> Tensor:
    """Indices that NMS within each class keeps, among the boxes where the mask [K] is True."""
    index = among.nonzero()[:, 0]
    return index[batched_nms(found.boxes[index], found.scores[index], found.labels[index], iou)]


def _same_object(first: _Boxes, second: _Boxes, iou: float) -> Tensor:
    """[N, M] bool: whether boxes have the same label and, clipped to the overlap of their tiles, an IoU above `iou`."""
    low = torch.maximum(first.tiles[:, None, :2], second.tiles[None, :, :2])
    high = torch.minimum(first.tiles[:, None, 2:], second.tiles[None, :, 2:])
    ones = _clip(first.boxes[:, None], low, high)
    others = _clip(second.boxes[None], low, high)
    shared = _area(torch.maximum(ones[0], others[0]), torch.minimum(ones[1], others[1]))
    union = _area(*ones) + _area(*others) - shared
    return (shared > iou * union) & (first.labels[:, None] == second.labels)


def _clip(boxes: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return torch.maximum(boxes[..., :2], low), torch.minimum(boxes[..., 2:], high)


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(dim=-1)


def _enclosing(one: Tensor, others: Tensor) -> Tensor:
    """[1, 4]: the box that encloses [1, 4] and [K, 4]."""
    boxes = torch.cat([one, others])
    return torch.cat([boxes[:, :2].amin(dim=0), boxes[:, 2:].amax(dim=0)])[None]


def _concatenate(parts: Sequence[_Boxes]) -> _Boxes:
    return _Boxes(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.tiles for part in parts]),
    )
