"""Teaches nano names of regions: its way into the text space, then its region prompt.

Command: python recipes/nano/names.py --start runs/nano/nano_start.safetensors --maps runs/nano/maps_nano \\
    --kit ../shared/kit --voc VOC --nyu NYU --output runs/nano/nano_names.safetensors
The strict model: the same with `--start runs/nano/ovcoco_start.safetensors --maps runs/nano/maps_ovcoco --strict`.

Regions are true boxes, jittered copies of them and boxes that are found: by NanoDet, or, strict, by the model's own
proposals. A residual network of width 512 learns to move ImageNet's answer to the name of the box, against
cross-entropy over the names of the image's data set; a KL term over LVIS's 1,203 names holds what was known before
(strict: of boxes that hold no base object). The strict model's fine head learns with it. Then the prompt learns the
same with the rest frozen. What the KL term and dropout are for: without them the network knows its training regions by
heart within a minute, and names of novel classes fall.

Numbers: on the held-out images of coco_more, share of boxes named right (novel / other COCO classes; 30 indoor classes)
    no training            65.3 / 69.3; 37.5      strict, 65 names: novel 30.2, base 13.7
    after this file        64.5 / 75.7; 60.9      strict, 65 names: novel 24.5, base 68.2
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from heads import DROPOUT, LearningHead
from maps import read_map, views_of
from sources import Source, base_only, everything
from torch import Tensor, nn
from torch.nn import functional as F

from cora.boxes import cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from cora.detector import Detector, load
from cora.names import spoken_name
from cora.roi_align import roi_align
from cora.structures import FeatureMap
from cora.towers import TimmTower
from cora.towers.timm_tower import box_class_scores

JITTER, COPIES, PROPOSALS = 0.08, 2, 16
#: Share of a region's evidence by NanoDet that training takes away, so that the network learns from the backbone, too.
EVIDENCE_DROPOUT, FINE_DROPOUT, BATCH = 0.3, 0.2, 1024


@dataclass
class Regions:
    """Pooled regions of one data set.

    Attributes:
        cells: [R, C, S, S] float16, before the prompt.
        seen: [R, 80] float16 what NanoDet saw in them; zeros without it.
        fine: [R, C', b, b] float16 what the fine head reads; without one [R, 0, 1, 1].
        labels: [R] int64, -1 for none.
        names: what labels point into.
    """

    cells: Tensor
    seen: Tensor
    fine: Tensor
    labels: Tensor
    names: tuple[str, ...]


@torch.no_grad()
def pool(detector: Detector, sources: list[Source], folder: Path, *, strict: bool) -> Regions:
    """Regions of all images of a data set."""
    tower, generator = tower_of(detector), torch.Generator().manual_seed(0)
    cells, seen, fine, labels = [], [], [], []
    for source in sources:
        packed = read_map(folder, source)[None].float()
        c3 = FeatureMap(packed, torch.zeros(1, *packed.shape[2:], dtype=torch.bool))
        top_boxes = tower.top_boxes(c3)
        boxes = [source.boxes_xyxy] + [jitter(source.boxes_xyxy, generator) for _ in range(COPIES)]
        mine = [source.labels] * (COPIES + 1)
        if strict or top_boxes is not None:
            best = _proposed(detector, c3) if top_boxes is None else top_boxes.boxes_xyxy[0]
            found, names = _confident(best, source, generator)
            boxes.append(found)
            mine.append(names)
        corners = torch.cat(boxes)
        if not len(corners):
            continue
        pooled = roi_align(
            tower.deep(packed).float(), xyxy_to_cxcywh(corners)[None], c3.extents_hw, bins=tower.pool_size
        )
        fine.append(_fine_cells(tower, c3, corners))
        cells.append(pooled[0].half())
        labels.append(torch.cat(mine))
        nothing = torch.zeros(len(corners), 80)
        seen.append((nothing if top_boxes is None else box_class_scores(corners[None], top_boxes)[0]).half())
    return Regions(torch.cat(cells), torch.cat(seen), torch.cat(fine), torch.cat(labels), sources[0].names)


def _proposed(detector: Detector, c3: FeatureMap) -> Tensor:
    """Anchors [K, 4] xyxy in 0..1 that the model proposes, best first."""
    return cxcywh_to_xyxy(detector.anchors(detector.encode_map(c3))[0])


def _fine_cells(tower: TimmTower, c3: FeatureMap, corners: Tensor) -> Tensor:
    fine = tower.fine_map(c3.features)
    if fine is None or tower.fine is None:
        return torch.zeros(len(corners), 0, 1, 1, dtype=torch.float16)
    boxes = xyxy_to_cxcywh(corners)[None]
    return roi_align(fine, boxes, 2 * c3.extents_hw, bins=tower.fine.bins)[0].half()


def learn_text_space(
    detector: Detector, data: list[Regions], lvis: Tensor, *, epochs: float, kl: float, share: float, strict: bool
) -> None:
    """Train the residual network, and a fine head, on regions without prompt; `share` 0..1 of the first is kept."""
    tower = tower_of(detector)
    head, scale = tower.text_space, detector.config.tower.logit_scale
    features = [_features(tower, one.cells) for one in data]
    text, fine = LearningHead(head, features[0], dropout=DROPOUT, fresh=True), None
    if tower.fine is not None:
        fine = LearningHead(tower.fine, data[0].fine[:50_000], dropout=FINE_DROPOUT, fresh=True)
    parts = nn.ModuleList(part for part in (text, fine) if part is not None)
    optimiser = torch.optim.AdamW(parts.parameters(), lr=1e-3, weight_decay=0.05)
    names = [detector.vocabulary_encoder.encode(list(one.names)).embeddings.clone() for one in data]
    weights = [class_weights(one.labels, len(one.names)) for one in data]
    steps = int(epochs * sum(len(one.labels) for one in data) / BATCH)
    for step, (which, chosen) in enumerate(_batches(data, steps)):
        one, pooled = data[which], features[which][chosen].float()
        known = zero_shot(head, pooled)
        evidence = _evidence(tower, one.seen[chosen])
        learned = text(pooled)
        if fine is not None:
            learned = learned + fine(one.fine[chosen])
        dropped = evidence * (torch.rand(len(evidence), 1) > EVIDENCE_DROPOUT)
        regions = F.normalize(known + dropped + learned, dim=-1)
        loss = _loss(regions, one.labels[chosen], names[which], weights[which], scale)
        held = one.labels[chosen] < 0 if strict else torch.ones(len(chosen), dtype=torch.bool)
        loss = loss + kl * drift(regions[held], F.normalize(known + evidence, dim=-1)[held], lvis, scale)
        take_step(optimiser, loss, 1e-3, step / steps)
        if step % 50 == 0:
            print(f"text space {step}/{steps}: {float(loss.detach()):.3f}", flush=True)
    text.store(share)
    if fine is not None:
        fine.store()


def learn_prompt(detector: Detector, data: list[Regions], lvis: Tensor, *, steps: int, kl: float = 0.5) -> None:
    """Train the region prompt with all else frozen."""
    tower, scale = tower_of(detector).for_inference(torch.bfloat16), detector.config.tower.logit_scale
    prompt = torch.zeros_like(detector.prompt.offset, requires_grad=True)
    optimiser = torch.optim.AdamW([prompt], lr=3e-3, weight_decay=1e-4)
    names = [detector.vocabulary_encoder.encode(list(one.names)).embeddings.clone() for one in data]
    for step, (which, chosen) in enumerate(_batches(data, steps, 384)):
        one = data[which]
        keep = torch.rand(len(chosen), 1) > EVIDENCE_DROPOUT
        seen = None if tower.detector is None else one.seen[chosen] * keep
        cells, fine = one.cells[chosen], one.fine[chosen] if tower.fine is not None else None
        regions = _embed(tower, cells, seen, fine, prompt)
        with torch.no_grad():
            before = _embed(tower, cells, seen, fine, torch.zeros_like(prompt))
        loss = _loss(regions, one.labels[chosen], names[which], None, scale) + kl * drift(regions, before, lvis, scale)
        take_step(optimiser, loss, 3e-3, step / steps)
        if step % 50 == 0:
            print(f"prompt {step}/{steps}: {float(loss.detach()):.3f}", flush=True)
    with torch.no_grad():
        detector.prompt.offset.copy_(prompt)


def _embed(tower: TimmTower, cells: Tensor, seen: Tensor | None, fine: Tensor | None, prompt: Tensor) -> Tensor:
    added = prompt.T.reshape(1, -1, tower.pool_size, tower.pool_size)
    prompted = (cells.float() + added).to(tower.dtype).contiguous(memory_format=torch.channels_last)
    return tower.embed(tower.head(prompted), seen, fine)


@torch.no_grad()
def _features(tower: TimmTower, cells: Tensor) -> Tensor:
    fast = tower.for_inference(torch.bfloat16)
    parts = (part.to(fast.dtype).contiguous(memory_format=torch.channels_last) for part in cells.split(BATCH))
    return torch.cat([fast.head(part).half() for part in parts])


@torch.no_grad()
def zero_shot(head: nn.Module, pooled: Tensor) -> Tensor:
    shares, classes = head.classifier(pooled).softmax(-1).topk(10, dim=-1)  # type: ignore[operator]
    return F.normalize((shares.unsqueeze(-1) * head.label_embeddings[classes]).sum(1), dim=-1)  # type: ignore[index]


@torch.no_grad()
def _evidence(tower: TimmTower, seen: Tensor) -> Tensor:
    if tower.detector is None:
        return torch.zeros(len(seen), tower.embed_dim)
    return tower.detector_weight * tower.class_score_embeddings(seen)


def _loss(regions: Tensor, labels: Tensor, names: Tensor, weights: Tensor | None, scale: float) -> Tensor:
    named = labels >= 0
    return F.cross_entropy(scale * regions[named] @ names.T, labels[named], weight=weights)


def drift(regions: Tensor, before: Tensor, names: Tensor, scale: float) -> Tensor:
    if not len(regions):
        return regions.sum()  # a small last batch may hold none
    after = (scale * regions @ names.T).log_softmax(-1)
    return F.kl_div(after, (scale * before @ names.T).softmax(-1), reduction="batchmean")


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights [classes] of a loss, larger for rarer classes, with mean 1 over the labels [R]; -1 is no class."""
    named = labels[labels >= 0]
    weights = torch.bincount(named, minlength=classes).clamp(min=1).float().rsqrt()
    return weights / weights[named].mean()


def _batches(data: list[Regions], steps: int, size: int = BATCH) -> list[tuple[int, Tensor]]:
    generator, found = torch.Generator().manual_seed(0), []
    while len(found) < steps:
        epoch = [
            (which, chosen)
            for which, one in enumerate(data)
            for chosen in torch.randperm(len(one.labels), generator=generator).split(size)
            if bool((one.labels[chosen] >= 0).any())
        ]
        found += [epoch[place] for place in torch.randperm(len(epoch), generator=generator).tolist()]
    return found[:steps]


def take_step(optimiser: torch.optim.Optimizer, loss: Tensor, rate: float, progress: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * 0.5 * (1 + float(np.cos(np.pi * progress)))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def jitter(boxes: Tensor, generator: torch.Generator) -> Tensor:
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = boxes + torch.randn(boxes.shape, generator=generator) * JITTER * sides
    return torch.cat([torch.minimum(moved[:, :2], moved[:, 2:] - 0.005), moved[:, 2:]], dim=1).clamp(0, 1)


def _confident(boxes: Tensor, source: Source, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Found boxes that clearly are, or clearly are not, one of the true boxes, with its label or -1."""
    best = boxes[:40]
    if len(source.labels):
        overlap, nearest = pairwise_iou(best, source.boxes_xyxy).max(dim=1)
        labels = torch.where(overlap >= 0.6, source.labels[nearest], -1)
    else:
        overlap, labels = torch.zeros(len(best)), torch.full((len(best),), -1)
    clear = ((overlap >= 0.6) | (overlap < 0.3)).nonzero()[:, 0]
    drawn = clear[torch.randperm(len(clear), generator=generator)[:PROPOSALS]]
    return best[drawn], labels[drawn]


def tower_of(detector: Detector) -> TimmTower:
    assert isinstance(detector.image_tower, TimmTower)
    return detector.image_tower


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("start", "maps", "kit", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--voc", type=Path)
    parser.add_argument("--nyu", type=Path)
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = load(options.start)
    groups = base_only(options.kit) if options.strict else everything(options.kit, options.voc, options.nyu)
    wanted = ("coco", "voc") if options.strict else ("coco", "partial", "voc", "nyu")
    if options.strict:
        groups = {name: [view for one in images for view in views_of(one)] for name, images in groups.items()}
    if not options.strict:
        tower_of(model).detector_weight.data.fill_(5.0)
    regions = [pool(model, groups[name], options.maps, strict=options.strict) for name in wanted]
    listed = json.loads((options.kit / "clip_rn50_text/names.json").read_text())["lvis"]
    distinct = list(dict.fromkeys(spoken_name(name) for name in listed))
    others = model.vocabulary_encoder.encode(distinct).embeddings.clone()
    settings = {"epochs": 3.0, "kl": 1.0, "share": 1.0} if options.strict else {"epochs": 1.3, "kl": 0.2, "share": 0.8}
    learn_text_space(model, regions, others, strict=options.strict, **settings)
    learn_prompt(model, regions, others, steps=200)
    model.save(options.output)
