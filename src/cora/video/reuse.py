"""Detects frames that hardly differ from an earlier one, whose objects can then be reused."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Cells along the longer side. A cell averages out noise; an object that is smaller than a cell may be overlooked.
_CELLS = 64


class ChangeGate:
    """Compares each frame with the last one on which the detector ran.

    Both are averaged to a grid of grey cells, 64 on the longer side, and the cell that changed most decides: a small
    object that moves counts as much as a large one. Since the comparison is not with the previous frame, slow changes
    add up.

    Args:
        threshold: grey levels, 0..255; larger changes count. With 0 or less, every frame counts as changed.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._known: NDArray[np.float32] | None = None

    def changed(self, picture: Image.Image) -> bool:
        """Whether to run the detector on this image; if so, later images are compared with it."""
        if self.threshold <= 0:
            return True
        cells = grey_cells(picture)
        if self._known is not None and largest_change(self._known, cells) <= self.threshold:
            return False
        self._known = cells
        return True


def grey_cells(picture: Image.Image) -> NDArray[np.float32]:
    """Mean grey levels [h, w] in 0..255 of square cells, 64 on the longer side (fewer in tiny images)."""
    factor = min(1.0, _CELLS / max(picture.size))
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return np.asarray(picture.convert("F").resize(size, Image.Resampling.BOX), dtype=np.float32)


def largest_change(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The largest difference between cells of two grids [h, w]; infinite if their sizes differ."""
    return float(np.abs(one - other).max()) if one.shape == other.shape else float("inf")
