"""The text space of nano: CLIP RN50 text embeddings, centred and reduced to 512 dimensions.

    t = normalise(P (e - mu))

`e` is a unit CLIP text embedding [1024], `mu` the mean of all given ones (2,283 names: LVIS, COCO, ImageNet)
and `P` the projection onto their 512 leading principal components, without whitening. Nothing is lost: the
text transformer is 512 wide, so its embeddings span no more. Centring matters: raw CLIP embeddings share a
large common direction, the median cosine between two names is 0.66. Both towers of nano aim at `t`, the image
tower by distillation and the text tower by regression.

Command: python recipes/nano/text_space.py --kit ../shared/kit --output runs/nano/text_space.npz

It takes three seconds.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

GROUPS = ("imagenet", "lvis", "coco")
DIMENSIONS = 512


@dataclass(frozen=True)
class TextSpace:
    """Names and targets of each group (`imagenet`, `lvis`, `coco`), and the map that made them.

    names: lists of names as the kit spells them; targets: [n, 512] float32, unit norm; mu: [1024];
    projection: [512, 1024].
    """

    names: dict[str, list[str]]
    targets: dict[str, Tensor]
    mu: Tensor
    projection: Tensor

    def project(self, embeddings: Tensor) -> Tensor:
        """Map CLIP text embeddings [n, 1024] (unit norm) into the space: [n, 512], unit norm."""
        return F.normalize((embeddings - self.mu) @ self.projection.T, dim=-1)


def text_space(embeddings_npz: Path, names_json: Path, *, dimensions: int = DIMENSIONS) -> TextSpace:
    """Build the space from the kit's two files; equal input gives equal signs and order of components."""
    with np.load(embeddings_npz) as archive:
        raw = {group: torch.from_numpy(archive[group].astype(np.float64)) for group in GROUPS}
    listed = json.loads(Path(names_json).read_text(encoding="utf-8"))
    names: dict[str, list[str]] = {group: list(listed[group]) for group in GROUPS}
    for group in GROUPS:
        if len(names[group]) != len(raw[group]):
            raise ValueError(f"{group}: expected one embedding per name, got {len(raw[group])} for {len(names[group])}")
    every = F.normalize(torch.cat([raw[group] for group in GROUPS]), dim=-1)
    mu = every.mean(dim=0)
    _, _, components = torch.linalg.svd(every - mu, full_matrices=False)
    projection = components[:dimensions]
    # An SVD leaves the sign of each component open: the entry of largest magnitude is made positive.
    largest = projection.gather(1, projection.abs().argmax(dim=1, keepdim=True))
    space = TextSpace(names=names, targets={}, mu=mu.float(), projection=(projection * largest.sign()).float())
    for group in GROUPS:
        space.targets[group] = space.project(F.normalize(raw[group], dim=-1).float())
    return space


def kit_text_space(kit: Path) -> TextSpace:
    """The space of the kit's folder `clip_rn50_text`."""
    folder = Path(kit) / "clip_rn50_text"
    return text_space(folder / "embeddings_fp16.npz", folder / "names.json")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write nano's text space: mu, P and the targets of each group.")
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    space = kit_text_space(arguments.kit)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"mu": space.mu.numpy(), "P": space.projection.numpy()}
    arrays |= {group: space.targets[group].numpy() for group in GROUPS}
    np.savez(arguments.output, **arrays)  # type: ignore[arg-type]
    print({name: array.shape for name, array in arrays.items()})


if __name__ == "__main__":
    main()
