"""Gives the strict model a second look at the decoder's boxes (`BoxRefinement`): tighter boxes, better ranked.

Command: python recipes/nano/refinement.py --start runs/nano/ovcoco_labels.safetensors --kit ../shared/kit \\
    --run runs/nano/refinement --output runs/nano/ovcoco.safetensors

Everything else stays frozen. The refinement learns from boxes that the model finds in images with boxes of the base
classes: to judge the fit of those that overlap an object, and to correct those that overlap it well. It learns nothing
from boxes without an object, since what has no box here may be an object of a novel class.

The cells in and around the boxes are pooled once and kept in `--run`, 0.4 s an image; after a stop the command goes on
there. Learning takes a minute.

Numbers: on the held-out images of coco_more, 65 names, AP50 novel / base 17.4 / 23.0 before, 21.6 / 25.4 after.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from names import take_step
from safetensors.torch import load_file
from sources import ALL, Source, base_only, part_of
from torch import Tensor, nn
from torch.nn import functional as F

from cora.boxes import cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from cora.detector import Detector, load
from cora.errors import ModelError
from cora.files import write_safetensors
from cora.images import read_image
from cora.localizer import BoxRefinement
from cora.localizer.refinement import CHANNELS, SCALES, corrected, finest_map, pool_cells
from cora.training.losses import giou_loss

#: Hidden width; boxes of an image, at random.
HIDDEN, BOXES = 64, 48
#: IoU from which a box learns its fit, and from which it is corrected.
FIT_IOU, CORRECTION_IOU = 0.1, 0.4
#: Boxes of a step; steps; rate; steps until it is whole; weights of the correction and of AdamW; dropout.
BATCH, STEPS, RATE, WARM_STEPS, CORRECTION, WEIGHT_DECAY, DROPOUT = 512, 3000, 1.5e-3, 50, 2.0, 0.05, 0.2


@dataclass
class Boxes:
    """Boxes that the model finds, and what it sees there.

    Attributes:
        cells: [R, len(SCALES), C, BINS, BINS] float16.
        boxes_cxcywh: [R, 4] in 0..1.
        targets_cxcywh: [R, 4] the object that each overlaps most.
        overlaps: [R] IoU with it.
    """

    cells: Tensor
    boxes_cxcywh: Tensor
    targets_cxcywh: Tensor
    overlaps: Tensor


@torch.inference_mode()
def pool(detector: Detector, sources: list[Source], names: list[str], folder: Path) -> None:
    """Find boxes in each image and pool the cells in and around them, into one file an image."""
    tower, vocabulary = detector.image_tower.for_inference(torch.float32), detector.vocabulary_encoder.encode(names)
    detector, generator = detector.with_parts(image_tower=tower), torch.Generator().manual_seed(0)
    for number, source in enumerate(sources):
        path = folder / f"{source.key}.safetensors"
        if path.exists():
            continue
        seen = detector.see(detector.preprocessor([read_image(source.path)]))
        matched = detector.pre_match(seen.prepared, seen.anchors_cxcywh, vocabulary)
        found = detector.decode(seen.memory, matched).boxes_cxcywh[-1]
        boxes = found[:, torch.randperm(found.shape[1], generator=generator)[:BOXES]]
        whole = finest_map(seen.memory)
        cells = pool_cells(seen.memory, [whole] * len(SCALES), boxes)[0]
        write_safetensors(path, {"cells": cells.half().contiguous(), "boxes_cxcywh": boxes[0].contiguous()})
        if number % 100 == 0:
            print(f"pooled {number}/{len(sources)} images", flush=True)


def read(sources: list[Source], folder: Path) -> Boxes:
    """Boxes of all images that overlap an object."""
    parts = []
    for source in sources:
        content = load_file(folder / f"{source.key}.safetensors")
        overlaps, nearest = pairwise_iou(cxcywh_to_xyxy(content["boxes_cxcywh"]), source.boxes_xyxy).max(dim=1)
        kept = overlaps >= FIT_IOU
        targets = xyxy_to_cxcywh(source.boxes_xyxy)[nearest[kept]]
        parts.append((content["cells"][kept], content["boxes_cxcywh"][kept], targets, overlaps[kept]))
    return Boxes(*(torch.cat(part) for part in zip(*parts, strict=True)))


class LearningRefinement(nn.Module):
    """A refinement with standardised cells and dropout; `store` gives it weights for cells as they are.

    Args:
        refinement: learns.
        sample: [R, len(SCALES), C, BINS, BINS], whose means and deviations are to be 0 and 1 for each channel.
    """

    def __init__(self, refinement: BoxRefinement, sample: Tensor) -> None:
        super().__init__()
        self.refinement = refinement
        cells = sample.float().transpose(1, 2).flatten(3)  # [R, C, len(SCALES), BINS^2]
        self.mean, self.deviation = cells.mean((0, 3)).T, cells.std((0, 3)).T + 1e-2  # [len(SCALES), C]

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `BoxRefinement.judge`, from cells [R, len(SCALES), C, BINS, BINS]."""
        standard = (cells.float().flatten(3) - self.mean[..., None]) / self.deviation[..., None]
        reduced = torch.einsum("skc,rscb->rskb", self._reduce(), standard)
        return self.refinement.judge(F.dropout(reduced.flatten(1), DROPOUT, self.training))

    def _reduce(self) -> Tensor:
        """Weights [len(SCALES), CHANNELS, C] of the reduction."""
        return self.refinement.reduce.weight.view(len(SCALES), CHANNELS, -1)

    @torch.no_grad()
    def store(self) -> None:
        """Move mean and deviation into the weights."""
        weights = self._reduce() / self.deviation[:, None]
        constant = torch.einsum("skc,sc->sk", weights, self.mean)
        first = self.refinement.first
        per_channel = first.weight.view(len(first.weight), len(SCALES), CHANNELS, -1).sum(-1)
        first.bias -= torch.einsum("hsk,sk->h", per_channel, constant)
        self.refinement.reduce.weight.copy_(weights.flatten(0, 1))


def learn(learning: LearningRefinement, data: Boxes, *, steps: int = STEPS) -> None:
    """Train a refinement on boxes that overlap an object."""
    optimiser = torch.optim.AdamW(learning.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        chosen = torch.randint(len(data.overlaps), (BATCH,), generator=generator)
        overlaps, boxes = data.overlaps[chosen], data.boxes_cxcywh[chosen]
        fit, shift, stretch = learning(data.cells[chosen])
        close = overlaps >= CORRECTION_IOU
        moved = corrected(boxes[close], shift[close], stretch[close])
        loss = F.binary_cross_entropy_with_logits(fit, overlaps)
        loss = loss + CORRECTION * giou_loss(moved, data.targets_cxcywh[chosen][close]).mean()
        take_step(optimiser, loss, RATE * min(1, (step + 1) / WARM_STEPS), step / steps)
        if step % 100 == 0:
            print(f"step {step}/{steps}: {float(loss.detach()):.3f}", flush=True)


def refined(detector: Detector, data: Boxes, *, steps: int = STEPS) -> Detector:
    """The detector with a refinement that has learned."""
    refinement = BoxRefinement(dim=detector.config.localizer.dim, hidden=HIDDEN)
    refinement.reset_parameters()
    learning = LearningRefinement(refinement, data.cells[:: max(1, len(data.cells) // 20_000)]).train()
    learn(learning, data, steps=steps)
    learning.store()
    detector.localizer.refinement = refinement.eval()
    localizer = replace(detector.config.localizer, refinement=HIDDEN)
    detector.config = replace(detector.config, localizer=localizer)
    return detector


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("start", "kit", "run", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--part", default=ALL, help="pool one part of the images only, as 0/2 and 1/2 in two processes")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = load(options.start)
    if model.config.localizer.refinement:
        raise ModelError(f"{options.start}: expected a model without refinement, got one that has it")
    groups = base_only(options.kit)
    images = groups["coco"] + groups["voc"]
    split = json.loads((options.kit / "coco_ovd_mini/class_split.json").read_text())
    pool(model, part_of(images, options.part), [*split["base"], *split["novel"]], options.run)
    if options.part == ALL:
        refined(model, read(images, options.run)).save(options.output)
