"""Box formats and overlaps.

Two formats, named in every variable that holds them: `cxcywh` (centre and size, 0..1 of the unpadded image)
and `xyxy_px` (two corners, pixels). Overlaps take corners in any one unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou, generalized_box_iou


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Centre and size to corners, [..., 4] to [..., 4], unit unchanged."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Corners to centre and size, [..., 4] to [..., 4], unit unchanged."""
    first, last = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(first + last) / 2, last - first], dim=-1)


def scale_to_pixels(boxes_cxcywh: Tensor, sizes_hw: Tensor | Sequence[int]) -> Tensor:
    """Relative centre-size boxes to corners in pixels.

    Args:
        boxes_cxcywh: [..., N, 4], 0..1 of the unpadded image.
        sizes_hw: (height, width) in pixels, shape [2] or [..., 2] with the leading dimensions of the boxes.

    Returns:
        [..., N, 4] corners (x1, y1, x2, y2), not clipped.
    """
    sizes = torch.as_tensor(sizes_hw, dtype=boxes_cxcywh.dtype, device=boxes_cxcywh.device)
    scale = torch.cat([sizes.flip(-1)] * 2, dim=-1)
    return cxcywh_to_xyxy(boxes_cxcywh) * scale.unsqueeze(-2)


def clip_to_image(boxes_xyxy_px: Tensor, size_hw: Sequence[int]) -> Tensor:
    """Corners [..., 4] in pixels limited to an image of (height, width)."""
    height, width = size_hw
    limit = boxes_xyxy_px.new_tensor([width, height, width, height])
    return boxes_xyxy_px.clamp(min=0).minimum(limit)


def pairwise_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Intersection over union of every pair: [N, 4] and [M, 4] to [N, M] in 0..1 (0 where both are empty)."""
    return torch.nan_to_num(box_iou(first_xyxy, second_xyxy), nan=0.0)


def batched_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """`pairwise_iou` for every image of a batch: [B, N, 4] and [B, M, 4] to [B, N, M], in plain operators."""
    first, second = first_xyxy.unsqueeze(2), second_xyxy.unsqueeze(1)
    lower = torch.maximum(first[..., :2], second[..., :2])
    upper = torch.minimum(first[..., 2:], second[..., 2:])
    sides = (upper - lower).clamp(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    areas = [(each[..., 2] - each[..., 0]) * (each[..., 3] - each[..., 1]) for each in (first, second)]
    return intersection / (areas[0] + areas[1] - intersection).clamp(min=torch.finfo(intersection.dtype).tiny)


def pairwise_giou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Generalized IoU (Rezatofighi et al., 2019) of every pair: [N, 4] and [M, 4] to [N, M] in -1..1."""
    return torch.nan_to_num(generalized_box_iou(first_xyxy, second_xyxy), nan=0.0)


def aligned_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Intersection over union of row i with row i: [N, 4] twice to [N] in 0..1 (0 where both are empty)."""
    lower = torch.maximum(first_xyxy[:, :2], second_xyxy[:, :2])
    upper = torch.minimum(first_xyxy[:, 2:], second_xyxy[:, 2:])
    intersection = (upper - lower).clamp(min=0).prod(dim=-1)
    union = box_area(first_xyxy) + box_area(second_xyxy) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)
