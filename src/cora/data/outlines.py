"""Boxes around the outlines of COCO files: polygons and masks (run-length encoded, as numbers or compressed text)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cora.data.problems import is_number

XYWH = tuple[float, float, float, float]

#: Masks of more runs are ignored.
_MAX_RUNS = 10_000_000


def box_of_outline(outline: object) -> XYWH | None:
    """The box (x, y, width, height) in pixels around an outline; None for an unusable outline.

    Args:
        outline: polygons [[x, y, x, y, ...], ...], one such polygon, or {"size": [height, width], "counts": ...}.
    """
    if isinstance(outline, dict):
        return _box_of_mask(outline.get("size"), outline.get("counts"))
    if not isinstance(outline, list) or not outline:
        return None
    polygons = [outline] if all(map(is_number, outline)) else outline
    if not all(isinstance(p, list) and len(p) % 2 == 0 and len(p) >= 4 and all(map(is_number, p)) for p in polygons):
        return None
    return _box_of_points([x for p in polygons for x in p[0::2]], [y for p in polygons for y in p[1::2]])


def _box_of_points(xs: Sequence[float], ys: Sequence[float]) -> XYWH:
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _box_of_mask(size: object, counts: object) -> XYWH | None:
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and 0 < n < 2**24 for n in size)):
        return None
    runs = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or len(runs) > _MAX_RUNS or not all(isinstance(n, int) and n >= 0 for n in runs):
        return None
    height, width = size
    if sum(runs) > height * width:
        return None
    xs: list[float] = []
    ys: list[float] = []
    # Pixels are counted down the columns; a run that spans two columns has the full height.
    for start, length in _inside(runs):
        first, last = divmod(start, height), divmod(start + length - 1, height)
        xs += [first[0], last[0] + 1]
        ys += [0, height] if last[0] > first[0] else [first[1], last[1] + 1]
    return _box_of_points(xs, ys) if xs else None


def _inside(runs: Iterable[int]) -> Iterable[tuple[int, int]]:
    """First pixel and length of each run inside the mask; runs alternate, and the first is outside."""
    start, inside = 0, False
    for length in runs:
        if inside and length:
            yield start, length
        start, inside = start + length, not inside


def _unpacked(text: str) -> list[int] | None:
    """Run lengths of COCO's compressed text, which pycocotools calls `rleFrString`; None for another text.

    A number is a sequence of characters with 5 bits each, the lowest first. A sixth bit says that another follows; the
    highest bit of the last one is the sign. From the fourth number on it is the difference to the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs
