"""How far numbers that should be equal may lie apart: one table, by the type in which they were computed."""

from __future__ import annotations

import torch
from torch import Tensor

#: (relative, absolute) for numbers near 1: scores, embeddings, boxes as fractions of the image.
TOLERANCES = {
    torch.float32: (1e-4, 1e-5),
    torch.float16: (2e-3, 2e-3),
    torch.bfloat16: (2e-2, 3e-2),
}


def assert_near(found: Tensor, expected: Tensor, *, computed_in: torch.dtype | None = None) -> None:
    """The same up to rounding.

    Args:
        found: any shape, of the type of the expected numbers.
        expected: same shape.
        computed_in: type in which one of them was computed or stored, where it is coarser than their own.
    """
    rtol, atol = TOLERANCES[computed_in or expected.dtype]
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)
