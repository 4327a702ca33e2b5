"""Non-maximum suppression for a graph: returns a mask of kept boxes, whose shape does not depend on values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import nms

from cora.boxes import batched_iou, cxcywh_to_xyxy
from cora.localizer import Proposals

#: (boxes xyxy [B, K, 4], scores [B, C, K], IoU threshold, least score) -> mask [B, C, K], 1 where a box is kept.
Suppress = Callable[[Tensor, Tensor, float, float], Tensor]

#: Scores of padded cells are below it, all others above.
LOWEST = -1e30

#: Steps of `kept_boxes_in_steps`: twice as many as the proposals of test images need (tests/export/test_kit.py).
STEPS = 32

# Boxes lie in -0.5..1.5, so that groups at this distance never overlap.
_APART = 4.0


def kept_boxes(boxes_xyxy: Tensor, scores: Tensor, iou: float, min_score: float) -> Tensor:
    """Greedy suppression within every image and class.

    Args:
        boxes_xyxy: [B, K, 4] of all classes, 0..1 of the image.
        scores: [B, C, K].
        iou: a box that overlaps a better one by more is dropped.
        min_score: only scores above it count.

    Returns:
        [B, C, K] in the type of the scores, 1 where a box is kept and 0 elsewhere.
    """
    classes, count = scores.shape[1:]
    image, label, box = (scores > min_score).nonzero().unbind(-1)
    group = image * classes + label
    # Doubles hold box and shift exactly, so that one call serves all groups.
    apart = boxes_xyxy[image, box].double() + (group * _APART).unsqueeze(-1)
    kept = nms(apart, scores[image, label, box].double(), iou)
    places = (group * count + box)[kept]
    mask = torch.zeros_like(scores).flatten()
    return mask.scatter(0, places, torch.ones_like(places, dtype=scores.dtype)).view(scores.shape)


# For ONNX the whole is one operator, which `onnx_file` translates to NonMaxSuppression.
kept_boxes_operator: Suppress = torch.library.custom_op("cora::kept_boxes", mutates_args=())(kept_boxes)


@kept_boxes_operator.register_fake  # type: ignore[attr-defined, untyped-decorator]
def _(boxes_xyxy: Tensor, scores: Tensor, iou: float, min_score: float) -> Tensor:
    return torch.empty_like(scores)


def kept_boxes_in_steps(boxes_xyxy: Tensor, scores: Tensor, iou: float, min_score: float) -> Tensor:
    """`kept_boxes` in plain tensor operations, for runtimes without an operator for suppression and without loops.

    Rule: a box is kept unless a kept box of higher score overlaps it. Every step applies the rule to all boxes once,
    starting with all of them kept. After n steps the result is right, except at the end of a chain of more than n boxes
    each of which would suppress the next.
    """
    count = scores.shape[-1]
    number = torch.arange(count, device=scores.device)
    others, own = scores.unsqueeze(-2), scores.unsqueeze(-1)
    before = (others > own) | ((others == own) & (number < number.unsqueeze(1)))
    overlap = (batched_iou(boxes_xyxy, boxes_xyxy) > iou).unsqueeze(1)
    suppressing = (overlap & before).to(scores.dtype)  # [B, C, K, K], of each box by the others
    candidates = (scores > min_score).to(scores.dtype)
    kept = candidates
    for _ in range(STEPS):
        free = (suppressing @ kept.unsqueeze(-1)).squeeze(-1) < 0.5
        kept = candidates * free.to(scores.dtype)
    return kept


def best_proposals(
    proposals: Proposals, count: int, *, suppress: Suppress, iou: float = 0.7, considered: int | None = None
) -> Tensor:
    """`Proposals.best` without a loop over images: the `count` best boxes [B, count, 4], suppressed ones last."""
    if considered is not None:
        proposals = _likeliest(proposals, considered)
    scores = proposals.objectness.masked_fill(~proposals.inside, -torch.inf)
    kept = suppress(cxcywh_to_xyxy(proposals.boxes_cxcywh), scores.unsqueeze(1), iou, LOWEST).squeeze(1)
    cells = scores.shape[1]
    order = scores.topk(cells, dim=1).indices
    # Kept boxes come before suppressed ones, padding comes last; within each the order stays. Whole numbers below
    # 2^24 are exact in float32.
    backwards = cells - 1 - torch.arange(cells, device=scores.device, dtype=scores.dtype)
    inside = proposals.inside.gather(1, order).to(scores.dtype)
    rank = (kept.gather(1, order) + inside) * cells + backwards
    ranked = order.gather(1, rank.topk(cells, dim=1).indices)
    there = proposals.inside.sum(dim=1, keepdim=True)
    index = ranked.gather(1, torch.arange(count, device=scores.device) % there)
    return torch.gather(proposals.boxes_cxcywh, 1, index.unsqueeze(-1).expand(-1, -1, 4))


def _likeliest(proposals: Proposals, count: int) -> Proposals:
    """The `count` cells of highest objectness, best first; filled up with padding where there are fewer."""
    scores = proposals.objectness.masked_fill(~proposals.inside, -torch.inf)
    # Filled up before, so that their number is a constant of the graph.
    objectness, places = F.pad(scores, (0, count), value=-torch.inf).topk(count, dim=1)
    cells = places.remainder(torch.full_like(places, scores.shape[1])).unsqueeze(-1)
    return Proposals(
        boxes_cxcywh=proposals.boxes_cxcywh.gather(1, cells.expand(-1, -1, 4)),
        objectness=objectness,
        centres=proposals.centres.gather(1, cells.expand(-1, -1, 2)),
        inside=objectness > LOWEST,
    )


def select_in_graph(
    boxes_cxcywh: Tensor, scores: Tensor, *, suppress: Suppress, iou: float, min_score: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`select_detections` for a batch, filled up to a constant number.

    Args:
        boxes_cxcywh: [B, K, 4], 0..1 of the unpadded image.
        scores: [B, K, C].
        suppress: how boxes are suppressed.
        iou: per-class suppression threshold.
        min_score: only scores above it count.
        max_detections: M.

    Returns:
        Boxes [B, M, 4] cxcywh, scores [B, M] in descending order, labels [B, M] int64; where there are fewer than
        M, scores of 0 and labels of -1 follow.
    """
    by_class = scores.transpose(1, 2)
    kept = suppress(cxcywh_to_xyxy(boxes_cxcywh), by_class, iou, min_score)
    count = boxes_cxcywh.shape[1]
    # The filling is there even where boxes and classes are too few.
    values, places = F.pad((by_class * kept).flatten(1), (0, max_detections)).topk(max_detections, dim=1)
    boxes = torch.gather(boxes_cxcywh, 1, (places % count).unsqueeze(-1).expand(-1, -1, 4))
    labels = torch.where(values > 0, places // count, -1)
    return boxes, values, labels
