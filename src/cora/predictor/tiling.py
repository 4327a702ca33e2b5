"""Small objects: an image is looked at in overlapping tiles, and as a whole, and what was found is put together.

The idea is SAHI's (Akyon et al., *Slicing Aided Hyper Inference*, ICIP 2022). Its package and the slicer of
`supervision` are not used: both would become needed by plain detection, both work on arrays of their own, and neither
knows which sides of a box were cut by a tile, from which the merging here decides.
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

#: A side of a box this near to the edge of its tile, as a share of the tile's side, may have been cut by it.
_NEAR_EDGE = 0.01
#: The image towers halve their input five times.
_SMALLEST_TILE = 32
#: Boxes that are compared with all others at once: few enough for thousands of others to fit in memory.
_AT_ONCE = 256


def _is_grid(count: object) -> bool:
    return isinstance(count, tuple | list) and len(count) == 2 and all(type(n) is int and n >= 1 for n in count)


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How an image is divided: by the size of the tiles or by their number, and how the finds are put together.

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
            return _divide(length, self.size_px, _number_of(length, self.size_px, self.overlap))
        number = 1 if self.count is None else self.count[axis]
        return _divide(length, _side_of(length, number, self.overlap), number)


@dataclass(frozen=True)
class _Boxes:
    """Boxes [K, 4] xyxy with scores and labels [K], and the tile [K, 4] xyxy that each was seen in, in pixels."""

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
    """Find objects in the tiles of an image and in the whole of it.

    Args:
        predict: detections of every image of a list, in its order, all for the same names.
        image: RGB image.
        tiles: how it is divided.
        max_detections: boxes kept, best first; all if None.

    Returns:
        Boxes in pixels of the whole image, best first. Where there is but one tile: what `predict` says of it.
    """
    windows = tiles.windows(image.height, image.width)
    everything = (0, 0, image.width, image.height)
    if windows == [everything]:
        return predict([image])[0]
    parts = [image.crop(window) for window in windows]
    found = predict([*parts, image] if tiles.whole else parts)
    places = [*windows, everything] if tiles.whole else windows
    seen = [_shifted(detections, place) for place, detections in zip(places, found, strict=True)]
    if tiles.whole:
        seen = [*(_small(part, (image.height, image.width), tiles.largest) for part in seen[:-1]), seen[-1]]
    merged = _merge(_together(seen), (image.height, image.width), tiles)
    best = merged[merged.scores.argsort(descending=True, stable=True)[:max_detections]]
    return Detections(
        boxes_xyxy_px=best.boxes,
        scores=best.scores,
        labels=best.labels,
        class_names=found[0].class_names,
        image_size=(image.height, image.width),
    )


def suppress_between_classes(detections: Detections, iou: float, max_detections: int | None = None) -> Detections:
    """Without the boxes that overlap a better one, of any class, by more than `iou`; best first.

    Args:
        detections: of one image.
        iou: 0..1.
        max_detections: boxes kept, best first; all if None.
    """
    return detections[nms(detections.boxes_xyxy_px, detections.scores, iou)[:max_detections]]


def _merge(found: _Boxes, size_hw: tuple[int, int], tiles: Tiles) -> _Boxes:
    """One box for each object.

    A box of which a tile's edge may have cut a part is dropped where a box that was not cut shows the same where its
    tile could see; that one takes the better score of both. What is left of the cut ones suppress or join each other.
    """
    cut = _is_cut(found, size_hw)
    whole = found[_suppress(found, ~cut, tiles.iou)]
    pieces = found[_suppress(found, cut, tiles.iou)]
    whole, pieces = _drop_pieces(whole, pieces, tiles.iou)
    return _together([whole, _join(pieces, tiles.iou) if tiles.merge == "nmm" else pieces])


def _drop_pieces(whole: _Boxes, pieces: _Boxes, iou: float) -> tuple[_Boxes, _Boxes]:
    """Whole boxes with the best score of their pieces, and the pieces that are part of none."""
    scores = whole.scores.clone()
    apart = torch.ones(len(pieces), dtype=torch.bool)
    for start in range(0, len(whole) if len(pieces) else 0, _AT_ONCE):
        rows = torch.arange(start, min(start + _AT_ONCE, len(whole)))
        same = _same_object(whole[rows], pieces, iou)
        scores[rows] = torch.maximum(scores[rows], (same * pieces.scores).amax(dim=1))
        apart &= ~same.any(dim=0)
    return replace(whole, scores=scores), pieces[apart.nonzero()[:, 0]]


def _join(pieces: _Boxes, iou: float) -> _Boxes:
    """Pieces that agree where both their tiles see become one box around them, over and over, best first."""
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
            one = replace(one, boxes=_around(one.boxes, others.boxes), tiles=_around(one.tiles, others.tiles))
        joined.append(one)
    return _together(joined) if joined else pieces


def _side_of(length: int, number: int, overlap: float) -> int:
    """Side of the smallest tiles, `number` of which cover `length` with this overlap."""
    return min(length, math.ceil(length / (number - (number - 1) * overlap)))


def _number_of(length: int, side: int, overlap: float) -> int:
    """How many tiles of this side cover `length` with at least this overlap."""
    return 1 if length <= side else math.ceil((length - side) / max(1, math.floor(side * (1 - overlap)))) + 1


def _divide(length: int, side: int, number: int) -> list[tuple[int, int]]:
    """Starts and ends of tiles, evenly spread; the last one ends with the image."""
    side = min(side, length)
    step = (length - side) / max(1, number - 1)
    starts = dict.fromkeys(round(place * step) for place in range(number))
    return [(start, start + side) for start in starts]


def _shifted(detections: Detections, window: tuple[int, int, int, int]) -> _Boxes:
    left, top = window[:2]
    boxes = detections.boxes_xyxy_px + detections.boxes_xyxy_px.new_tensor([left, top, left, top])
    tile = boxes.new_tensor(window).expand(len(boxes), 4)
    return _Boxes(boxes, detections.scores, detections.labels, tile)


def _small(found: _Boxes, size_hw: tuple[int, int], largest: float) -> _Boxes:
    """The boxes of which no side is longer than this share of the image's."""
    height, width = size_hw
    shares = (found.boxes[:, 2:] - found.boxes[:, :2]) / found.boxes.new_tensor([width, height])
    return found[(shares.amax(dim=1) <= largest).nonzero()[:, 0]]


def _is_cut(found: _Boxes, size_hw: tuple[int, int]) -> Tensor:
    """[K] whether a side of the box lies at an edge of its tile that is no edge of the image."""
    height, width = size_hw
    edges = found.tiles.new_tensor([0, 0, width, height])
    sides = (found.tiles[:, 2:] - found.tiles[:, :2]).repeat(1, 2)
    near = (found.boxes - found.tiles).abs() <= (_NEAR_EDGE * sides).clamp(min=1)
    return (near & (found.tiles != edges)).any(dim=1)


def _suppress(found: _Boxes, among: Tensor, iou: float) -> Tensor:
    """Indices of the boxes that are the best of theirs, among those where the mask [K] is true."""
    index = among.nonzero()[:, 0]
    return index[batched_nms(found.boxes[index], found.scores[index], found.labels[index], iou)]


def _same_object(first: _Boxes, second: _Boxes, iou: float) -> Tensor:
    """[N, M] whether boxes have one label and overlap by more than `iou` within what both their tiles show."""
    low = torch.maximum(first.tiles[:, None, :2], second.tiles[None, :, :2])
    high = torch.minimum(first.tiles[:, None, 2:], second.tiles[None, :, 2:])
    ones = _limited(first.boxes[:, None], low, high)
    others = _limited(second.boxes[None], low, high)
    shared = _area(torch.maximum(ones[0], others[0]), torch.minimum(ones[1], others[1]))
    union = _area(*ones) + _area(*others) - shared
    return (shared > iou * union) & (first.labels[:, None] == second.labels)


def _limited(boxes: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return torch.maximum(boxes[..., :2], low), torch.minimum(boxes[..., 2:], high)


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(dim=-1)


def _around(one: Tensor, others: Tensor) -> Tensor:
    """[1, 4]: the smallest box around [1, 4] and [K, 4]."""
    boxes = torch.cat([one, others])
    return torch.cat([boxes[:, :2].amin(dim=0), boxes[:, 2:].amax(dim=0)])[None]


def _together(parts: Sequence[_Boxes]) -> _Boxes:
    return _Boxes(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.tiles for part in parts]),
    )
