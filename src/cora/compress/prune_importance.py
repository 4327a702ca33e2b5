"""Importance of every unit of a detector, measured on images; boxes or labels are not needed.

Channels and heads: |gradient x activation| (Molchanov et al., 2017, arXiv 1611.06440), which is to first order how far
the outputs move when an activation is set to zero, summed over places and images. The outputs are boxes, objectness and
class probabilities, summed with random signs, so that on average all of them count. The absolute value is taken before
the sum over places, which needs fewer images. Layers and blocks: how much the agreement with the whole detector drops
without them. Anchors: the objectness of their boxes that survive suppression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import batched_nms

from cora.boxes import cxcywh_to_xyxy
from cora.compress.arch_sizes import Architecture, head_width
from cora.compress.prune import ATTENTIONS, Importance, channels_of, cut, unit_sets
from cora.compress.prune_measure import agreement, detect_all
from cora.detector import Detector
from cora.errors import ModelError
from cora.regions import Vocabulary
from cora.towers import resnet_of

#: Boxes of an image whose class probabilities count among the outputs.
SCORED = 32
#: Boxes in 0..1 move less than probabilities do.
BOX_WEIGHT = 5.0

Report = Callable[[str, int, int], None]


def rank_units(
    detector: Detector,
    pictures: Sequence[Image.Image],
    vocabulary: Vocabulary,
    *,
    shrinking: Sequence[str],
    seed: int = 0,
    report: Report | None = None,
) -> dict[str, Tensor]:
    """Importance of the units of the sets that shrink, computed as the docstring of this module says.

    Args:
        detector: in evaluation mode.
        pictures: images of the kind that the model will see; some dozens are enough.
        vocabulary: of the detector, on its device.
        shrinking: names of sets of `unit_sets`.
        seed: of the random signs.
        report: called with (name of the step, images or units done, their number).

    Raises:
        ModelError: no image.
    """
    if not pictures:
        raise ModelError("importance: expected at least one image to measure it on, got none")
    tell = report or (lambda _step, _done, _total: None)
    wanted = set(shrinking)
    stacks = {name for name in wanted if name.endswith(".layers") or name in ("layer1", "layer2", "layer3", "layer4")}
    found: dict[str, Tensor] = {}
    if wanted - stacks:
        found |= _by_gradients(detector, pictures, vocabulary, seed, tell)
    if stacks:
        found |= _by_ablation(detector, pictures, vocabulary, sorted(stacks), tell)
    return {name: found[name] for name in wanted}


def _by_gradients(
    detector: Detector, pictures: Sequence[Image.Image], vocabulary: Vocabulary, seed: int, tell: Report
) -> dict[str, Tensor]:
    """Importance of channels, heads and anchors, from one forward and one backward pass per image."""
    generator = torch.Generator().manual_seed(seed)
    config, head = detector.config, head_width(detector.config)
    counts = unit_sets(config, Architecture.of(config))
    sums = {name: torch.zeros(count, dtype=torch.float64) for name, count in counts.items()}
    with _recorded(detector) as seen, torch.enable_grad():
        for done, picture in enumerate(pictures, start=1):
            anchors = _mixed_outputs(detector, picture, vocabulary, generator)
            if len(anchors) == len(sums["anchors"]):
                sums["anchors"] += anchors
            for name, activations in seen.items():
                width = channels_of(name, head)
                moved = [_by_unit((a.detach() * a.grad).abs(), width) for a in activations if a.grad is not None]
                if moved:
                    sums[name] += torch.stack(moved).sum(dim=0).cpu().double()
                activations.clear()
            tell("importance", done, len(pictures))
    return sums


def _mixed_outputs(
    detector: Detector, picture: Image.Image, vocabulary: Vocabulary, generator: torch.Generator
) -> Tensor:
    """Run the detector forward and backward on an image; returns the importance of its anchors [N]."""
    batch = detector.preprocessor([picture]).to(detector.device)
    batch.pixels.requires_grad_(True)  # the tower's weights are frozen: gradients need another way in
    c3, c4 = detector.encode(batch)
    memory = detector.encode_map(c3)
    matched = detector.pre_match(c4, detector.anchors(memory), vocabulary)
    decoded = detector.decode(memory, matched)
    boxes, objectness = decoded.boxes_cxcywh[-1], decoded.objectness[-1].sigmoid()
    best = objectness[0].topk(min(SCORED, objectness.shape[1])).indices
    probabilities = detector.classify(c3, boxes[:, best].detach(), vocabulary)
    certain = objectness.detach()[..., None]
    outputs = (objectness, BOX_WEIGHT * certain * boxes, certain[:, best] * probabilities)
    torch.stack([(output * _signs(output, generator)).sum() for output in outputs]).sum().backward()
    return _anchor_importance(boxes[0].detach(), objectness[0].detach(), matched.classes[0])


def _signs(output: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, output.shape, generator=generator).to(output)
    return 2 * drawn - 1


def _anchor_importance(boxes_cxcywh: Tensor, objectness: Tensor, classes: Tensor) -> Tensor:
    """Objectness [N] of the boxes [N, 4] that survive suppression within their class, 0 for the others."""
    kept = batched_nms(cxcywh_to_xyxy(boxes_cxcywh), objectness, classes, 0.5)
    return torch.zeros_like(objectness).index_copy(0, kept, objectness[kept]).cpu().double()


def _by_unit(moved: Tensor, width: int) -> Tensor:
    """Sum of maps [B, C, h, w] or tokens [..., C] over each unit of `width` channels: [C / width]."""
    channels = moved.sum(dim=(0, 2, 3)) if moved.ndim == 4 else moved.flatten(0, -2).sum(dim=0)
    by_unit: Tensor = channels.unflatten(0, (-1, width)).sum(dim=1)
    return by_unit


@contextmanager
def _recorded(detector: Detector) -> Iterator[dict[str, list[Tensor]]]:
    """Record the activations of every set of channels and heads; a backward pass adds their gradients."""
    seen: dict[str, list[Tensor]] = {}
    handles = []

    def keep(name: str, value: Tensor) -> None:
        if value.requires_grad:
            value.retain_grad()
            seen[name].append(value)

    def watch_input(name: str, module: nn.Module) -> None:
        seen.setdefault(name, [])
        handles.append(module.register_forward_pre_hook(lambda _module, inputs: keep(name, inputs[0])))

    def watch_output(name: str, module: nn.Module) -> None:
        seen.setdefault(name, [])
        handles.append(module.register_forward_hook(lambda _module, _inputs, output: keep(name, output)))

    net = resnet_of(detector.image_tower, "pruning").net
    for part in ("encoder", "decoder"):
        for index, layer in enumerate(getattr(detector.localizer, part).layers):
            watch_input(f"{part}.layers.{index}.ffn", layer.feed_forward.contract)
            for attention in ATTENTIONS[part]:
                watch_input(f"{part}.layers.{index}.{attention}", getattr(layer, attention).output)
    watch_input("stem.0", net.conv2)
    watch_input("stem.1", net.conv3)
    watch_input("stem.2", net.layer1)
    watch_input("pool.heads", net.attnpool.c_proj)
    for stage in range(1, 5):
        for index, block in enumerate(getattr(net, f"layer{stage}")):
            watch_input(f"layer{stage}.{index}.first", block.conv2)
            watch_input(f"layer{stage}.{index}.second", block.conv3)
            watch_output(f"layer{stage}.channels", block)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _by_ablation(
    detector: Detector, pictures: Sequence[Image.Image], vocabulary: Vocabulary, stacks: Sequence[str], tell: Report
) -> dict[str, Tensor]:
    """Importance of layers and blocks: 1 - agreement of the detector without it; infinite for the first of a stack."""
    sizes = Architecture.of(detector.config)
    counts = unit_sets(detector.config, sizes)
    whole = {name: torch.arange(count) for name, count in counts.items()}
    found = {name: torch.full((counts[name],), torch.inf, dtype=torch.float64) for name in stacks}
    removable = [(name, index) for name in stacks for index in range(1, counts[name])]
    reference = detect_all(detector, pictures, vocabulary)
    for done, (name, index) in enumerate(removable, start=1):
        left = torch.tensor([unit for unit in range(counts[name]) if unit != index])
        without = cut(detector, _one_less(sizes, name), {**whole, name: left})
        found[name][index] = 1 - (agreement(reference, detect_all(without, pictures, vocabulary)).value or 0.0)
        tell("layers", done, len(removable))
    return found


def _one_less(sizes: Architecture, stack: str) -> Architecture:
    if stack == "encoder.layers":
        return replace(sizes, enc_layers=sizes.enc_layers - 1)
    if stack == "decoder.layers":
        return replace(sizes, dec_layers=sizes.dec_layers - 1)
    layers = list(sizes.layers)
    layers[int(stack[5:]) - 1] -= 1
    return replace(sizes, layers=(layers[0], layers[1], layers[2], layers[3]))


@torch.no_grad()
def recalibrate(detector: Detector, pictures: Sequence[Image.Image]) -> None:
    """Measure the running statistics of the image tower's BatchNorms again, since they are of the whole tower.

    Args:
        detector: whose tower was cut; changed in place.
        pictures: images of the kind that the model will see.

    Raises:
        ModelError: no image.
    """
    if not pictures:
        raise ModelError("recalibration: expected at least one image, got none")
    net = resnet_of(detector.image_tower, "recalibration").net
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all images
        norm.train()
    for picture in pictures:
        detector.encode(detector.preprocessor([picture]).to(detector.device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def blocks_left(importance: Importance, layers: tuple[int, int, int, int], removed: int) -> tuple[int, int, int, int]:
    """Residual blocks of layer1..layer4 that are left when the `removed` least important of all go.

    Raises:
        ModelError: there are not so many; the first block of every stage stays.
    """
    every = [(float(value), stage) for stage in range(4) for value in importance[f"layer{stage + 1}"]]
    gone = sorted(one for one in every if one[0] != float("inf"))[:removed]
    if len(gone) < removed:
        raise ModelError(f"residual blocks: expected at most {len(gone)} to remove, got {removed}; the first ones stay")
    first, second, third, fourth = (
        count - sum(stage == number for _, stage in gone) for number, count in enumerate(layers)
    )
    return first, second, third, fourth
