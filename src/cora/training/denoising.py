"""Contrastive denoising (DN-DETR, arXiv 2203.01305; DINO, arXiv 2203.03605): noised boxes as extra queries.

In training the decoder gets groups of extra queries. A group has two queries for every ground-truth box: a positive,
whose anchor is the box moved slightly, and a negative, whose anchor is the box moved further. The decoder must refine
the positive to the box, and give the negative a low objectness. The content of both is the embedding of the box's
class. These queries need no matching. With few images, they teach the decoder to refine boxes before the matching is
stable. An attention mask separates the groups from each other and from the normal queries, so inference is unchanged.
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

#: Shortest side of a noised box, as a share of the image; smaller ones would have extreme logits.
MIN_SIDE = 1e-3


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """The number of denoising queries and the noise of their boxes.

    Attributes:
        groups: groups of queries; fewer if they would exceed `max_queries`.
        box_noise: each corner coordinate of a positive moves by up to this share of half the box's side, that of a
            negative by one to two times this share; above 0, at most 1.
        max_queries: largest number of denoising queries of an image. An image with more than max_queries / 2 boxes
            uses a random subset of them.
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
    """The M denoising queries of each image of a batch.

    M = groups * group_size, group_size = 2 * (largest number of boxes of an image). A group has its positives first.

    Attributes:
        anchors_cxcywh: [B, M, 4] noised boxes, 0..1.
        classes: [B, M] int64 class of the query's ground-truth box; 0 for padding.
        boxes_cxcywh: [B, M, 4] the query's ground-truth box, 0..1.
        positive: [B, M] bool, queries that are to be refined to their box.
        negative: [B, M] bool, queries that are background. Queries that are neither are padding.
        group_size: queries in one group.
    """

    anchors_cxcywh: Tensor
    classes: Tensor
    boxes_cxcywh: Tensor
    positive: Tensor
    negative: Tensor
    group_size: int

    def attention_mask(self, anchors: int) -> Tensor:
        """[N + M, N + M] bool, True where query i may not attend to query j; the N queries of `anchors` come first."""
        count = self.positive.shape[1]
        group = torch.arange(count, device=self.positive.device) // self.group_size
        group = torch.cat([torch.full((anchors,), -1, device=group.device), group])
        return group[:, None] != group[None, :]


def make_queries(targets: Sequence[Targets], config: DenoisingConfig) -> DenoisingQueries | None:
    """Draw the denoising queries of a batch; None if no image has a box."""
    most = min(max((len(one) for one in targets), default=0), config.max_queries // 2)
    if most == 0:
        return None
    groups = max(1, min(config.groups, config.max_queries // (2 * most)))
    first = targets[0].boxes_cxcywh  # for its type and device
    boxes = first.new_full((len(targets), most, 4), 0.5)
    classes = torch.zeros(len(targets), most, dtype=torch.int64, device=first.device)
    valid = torch.zeros_like(classes, dtype=torch.bool)
    for i, one in enumerate(targets):
        count = min(len(one), most)
        chosen = torch.randperm(len(one), device=first.device)[:count] if len(one) > most else slice(None)
        boxes[i, :count], classes[i, :count] = one.boxes_cxcywh[chosen], one.classes[chosen]
        valid[i, :count] = True
    boxes, classes, valid = (
        torch.cat([t, t], dim=1).repeat(1, groups, *[1] * (t.ndim - 2)) for t in (boxes, classes, valid)
    )
    is_positive = (torch.arange(2 * most * groups, device=first.device) // most % 2 == 0).expand_as(valid)
    return DenoisingQueries(
        anchors_cxcywh=_noised(boxes, is_positive, config.box_noise),
        classes=classes,
        boxes_cxcywh=boxes,
        positive=valid & is_positive,
        negative=valid & ~is_positive,
        group_size=2 * most,
    )


def denoising_sum(output: LocalizerOutput, noised: DenoisingQueries, weights: LossWeights) -> Tensor:
    """Sum of the weighted losses of all layers on the denoising queries `noised`: a scalar in float32.

    Positives have a focal, an L1 and a GIoU loss, negatives a focal loss only.
    """
    valid, positive = noised.positive | noised.negative, noised.positive
    target_boxes = noised.boxes_cxcywh[positive]
    total = output.objectness.new_zeros((), dtype=torch.float32)
    for objectness, boxes in zip(output.objectness, output.boxes_cxcywh, strict=True):
        focal = sigmoid_focal_loss(objectness[valid], positive[valid]).sum()
        refined = boxes[positive]
        total = total + weights.objectness * focal + weights.l1 * l1_loss(refined, target_boxes)
        total = total + weights.giou * giou_loss(refined, target_boxes).sum()
    return total


def _noised(boxes_cxcywh: Tensor, is_positive: Tensor, noise: float) -> Tensor:
    """Move the corners of boxes [B, M, 4] at random; `noise` is `DenoisingConfig.box_noise`."""
    half_sides = boxes_cxcywh[..., 2:].repeat(1, 1, 2) / 2
    share = torch.rand_like(boxes_cxcywh) + (~is_positive)[..., None]
    sign = torch.randint_like(boxes_cxcywh, 2) * 2 - 1
    corners = (cxcywh_to_xyxy(boxes_cxcywh) + sign * share * noise * half_sides).clamp(0, 1)
    # With a noise above 0.5 the corners of a negative can cross.
    low, high = (
        torch.minimum(corners[..., :2], corners[..., 2:]),
        torch.maximum(corners[..., :2], corners[..., 2:]),
    )
    moved = xyxy_to_cxcywh(torch.cat([low, high], dim=-1))
    return torch.cat([moved[..., :2], moved[..., 2:].clamp(min=MIN_SIDE)], dim=-1)
