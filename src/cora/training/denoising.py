"""Denoising queries: noised ground-truth boxes as extra anchors that need no matching.

In the manner of contrastive denoising (DN-DETR, arXiv 2203.01305; DINO, arXiv 2203.03605): besides the anchors the
decoder gets several groups of extra queries. A group holds two copies of every box: a slightly moved one, which the
decoder must return to the box, and one moved further, which it must classify as "no object". Both carry the content
query of the box's class. With few images this teaches the decoder to refine boxes before the matching is stable. The
groups and the anchors are masked from each other, so inference is unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cora.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from cora.errors import TrainingError
from cora.localizer import LocalizerOutput
from cora.structures import Targets
from cora.training.losses import LossWeights, giou_loss, l1_loss, sigmoid_focal_loss

#: Sides below this fraction of the image have no logit worth learning.
MIN_SIDE = 1e-3


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """How many noised boxes and how far they move.

    Attributes:
        groups: copies of every box; fewer where `max_queries` would be passed.
        box_noise: corners of positives move by up to this share of half the box's sides, those of negatives
            by between this share and twice it.
        max_queries: bound on the extra queries of one image; images with more boxes use a random part of
            them.
    """

    groups: int = 5
    box_noise: float = 0.4
    max_queries: int = 200

    def __post_init__(self) -> None:
        if self.groups < 1 or self.max_queries < 2 or not 0 < self.box_noise <= 1:
            raise TrainingError(
                f"denoising needs groups >= 1, max_queries >= 2 and box_noise in 0..1, got {self.groups}, "
                f"{self.max_queries}, {self.box_noise}"
            )


@dataclass(frozen=True)
class DenoisingQueries:
    """Extra queries of a batch, M = groups * 2 * the most boxes of an image; positives first in every group.

    Attributes:
        anchors_cxcywh: [B, M, 4] noised boxes, 0..1.
        classes: [B, M] int64 class of the box a query was made from (0 where padded).
        boxes_cxcywh: [B, M, 4] that box.
        positive: [B, M] bool, must return to the box.
        negative: [B, M] bool, must say "no object". Queries that are neither are padding.
        group_size: queries of one group.
    """

    anchors_cxcywh: Tensor
    classes: Tensor
    boxes_cxcywh: Tensor
    positive: Tensor
    negative: Tensor
    group_size: int

    def attention_mask(self, anchors: int) -> Tensor:
        """[N + M, N + M] bool, True where query i must not see query j; the N anchors come first."""
        count = self.positive.shape[1]
        group = torch.arange(count, device=self.positive.device) // self.group_size
        group = torch.cat([torch.full((anchors,), -1, device=group.device), group])
        return group[:, None] != group[None, :]


def make_queries(targets: Sequence[Targets], config: DenoisingConfig) -> DenoisingQueries | None:
    """Draw denoising queries for a batch; None if no image has a box."""
    most = min(max((len(one) for one in targets), default=0), config.max_queries // 2)
    if most == 0:
        return None
    groups = max(1, min(config.groups, config.max_queries // (2 * most)))
    like = targets[0].boxes_cxcywh
    boxes = like.new_full((len(targets), most, 4), 0.5)
    classes = torch.zeros(len(targets), most, dtype=torch.int64, device=like.device)
    valid = torch.zeros_like(classes, dtype=torch.bool)
    for i, one in enumerate(targets):
        count = min(len(one), most)
        chosen = torch.randperm(len(one), device=like.device)[:count] if len(one) > most else slice(None)
        boxes[i, :count], classes[i, :count] = one.boxes_cxcywh[chosen], one.classes[chosen]
        valid[i, :count] = True
    boxes, classes, valid = (
        torch.cat([t, t], dim=1).repeat(1, groups, *[1] * (t.ndim - 2)) for t in (boxes, classes, valid)
    )
    is_positive = (torch.arange(2 * most * groups, device=like.device) // most % 2 == 0).expand_as(valid)
    return DenoisingQueries(
        anchors_cxcywh=_noised(boxes, is_positive, config.box_noise),
        classes=classes,
        boxes_cxcywh=boxes,
        positive=valid & is_positive,
        negative=valid & ~is_positive,
        group_size=2 * most,
    )


def denoising_sum(output: LocalizerOutput, noised: DenoisingQueries, weights: LossWeights) -> Tensor:
    """Sum of the weighted losses of all layers on denoising queries; these need no matching.

    Positives learn their box and "object", negatives "no object".
    """
    valid, positive = noised.positive | noised.negative, noised.positive
    wanted = noised.boxes_cxcywh[positive]
    total = output.objectness.new_zeros((), dtype=torch.float32)
    for objectness, boxes in zip(output.objectness, output.boxes_cxcywh, strict=True):
        focal = sigmoid_focal_loss(objectness[valid], positive[valid]).sum()
        found = boxes[positive]
        total = total + weights.objectness * focal
        total = total + weights.l1 * l1_loss(found, wanted) + weights.giou * giou_loss(found, wanted).sum()
    return total


def _noised(boxes_cxcywh: Tensor, is_positive: Tensor, noise: float) -> Tensor:
    half_sides = boxes_cxcywh[..., 2:].repeat(1, 1, 2) / 2
    share = torch.rand_like(boxes_cxcywh) + (~is_positive)[..., None]
    sign = torch.randint_like(boxes_cxcywh, 2) * 2 - 1
    corners = (cxcywh_to_xyxy(boxes_cxcywh) + sign * share * noise * half_sides).clamp(0, 1)
    # Negatives of a noise above 0.5 can turn a box inside out; order the corners again.
    low, high = (
        torch.minimum(corners[..., :2], corners[..., 2:]),
        torch.maximum(corners[..., :2], corners[..., 2:]),
    )
    moved = xyxy_to_cxcywh(torch.cat([low, high], dim=-1))
    return torch.cat([moved[..., :2], moved[..., 2:].clamp(min=MIN_SIDE)], dim=-1)
