"""The published toy model as the tests see it: state dict, inputs, expected numbers."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cora.structures import ImageBatch, Targets
from tests.parity.archive import read_archive

DATA = Path(__file__).parent / "data"
TOKENS = "classifier.token_embedding.weight"
REPEATED = (
    ("backbone.0.layer4.", "backbone.0.body.layer4."),
    ("bbox_embed.", "transformer.decoder.bbox_embed."),
)

TOLERANCE = 1e-4
"""Largest allowed difference in float32, relative to the largest expected magnitude and to the norm."""


@dataclass(frozen=True)
class Toy:
    """All of it in float32.

    Attributes:
        state_dict: published names, complete.
        expected: numbers by published name.
        images: already normalised, [3, h, w], of different sizes.
        meta: class names, sizes, loss weights.
    """

    state_dict: dict[str, Tensor]
    expected: dict[str, Tensor]
    images: list[Tensor]
    meta: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.meta["categories"])

    @property
    def batch(self) -> ImageBatch:
        sizes = tuple((image.shape[1], image.shape[2]) for image in self.images)
        height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
        pixels = torch.zeros(len(sizes), 3, height, width)
        mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
        for index, (image, (h, w)) in enumerate(zip(self.images, sizes, strict=True)):
            pixels[index, :, :h, :w] = image
            mask[index, :h, :w] = False
        return ImageBatch(pixels=pixels, mask=mask, sizes=sizes, original_sizes=sizes)

    @property
    def targets(self) -> list[Targets]:
        return [
            Targets(
                boxes_cxcywh=self.expected[f"targets.{index}.boxes_cxcywh"],
                classes=self.expected[f"targets.{index}.labels"],
            )
            for index in range(len(self.images))
        ]


@cache
def load_toy() -> Toy:
    weights = {
        name: value.float() if value.is_floating_point() else value
        for name, value in read_archive(DATA / "weights.xz").items()
    }
    rows = weights.pop(f"{TOKENS}.rows")
    table = torch.zeros(49408, weights[TOKENS].shape[1])
    table[rows] = weights[TOKENS]
    weights[TOKENS] = table
    for copy, original in REPEATED:
        for name in [name for name in weights if name.startswith(original)]:
            weights[copy + name.removeprefix(original)] = weights[name]
    numbers = read_archive(DATA / "numbers.xz")
    images = [numbers.pop(f"inputs.image.{index}").float() for index in range(2)]
    return Toy(weights, numbers, images, json.loads((DATA / "meta.json").read_text()))


def assert_close(found: Tensor, expected: Tensor, *, tolerance: float = TOLERANCE) -> None:
    """Both the largest difference and the norm of the difference, relative to the expected tensor."""
    assert found.shape == expected.shape, f"expected shape {list(expected.shape)}, got {list(found.shape)}"
    difference = (found.detach() - expected).double()
    scale = expected.double()
    largest = float(difference.abs().max() / scale.abs().max())
    norm = float(difference.norm() / scale.norm())
    assert largest <= tolerance, f"largest relative difference {largest:.2e}"
    assert norm <= tolerance, f"relative norm of the difference {norm:.2e}"


def published_order(toy: Toy) -> Tensor:
    """[B, N] index of the learned anchor at each place of the published outputs (sorted by class)."""
    learned = toy.state_dict["query_embed.weight"]
    placed = toy.expected["anchors_sorted_logit"].transpose(0, 1)
    distance, order = torch.cdist(placed, learned.expand(len(placed), -1, -1)).min(dim=-1)
    assert float(distance.max()) == 0.0
    return order


def reorder(values: Tensor, order: Tensor) -> Tensor:
    """Rows of [B, N, ...] in the published order [B, N]."""
    return torch.stack([row[index] for row, index in zip(values, order, strict=True)])
