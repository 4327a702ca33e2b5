"""Box formats and overlaps.

Two formats, named in every variable that holds them: `cxcywh` (centre and size, 0..1 of the unpadded image)
and `xyxy_px` (two corners, pixels). Overlaps take corners in any one unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Centre and size to corners, [..., 4] to [..., 4], unit unchanged."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Corners to centre and size, [..., 4] to [..., 4], unit unchanged."""
    first, last = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(first + last) / 2, last - first], dim=-1)


def xywh_to_xyxy(boxes_xywh_px: Sequence[Sequence[float]]) -> Tensor:
    """COCO's corner and size to two corners: [T, 4] float64, exact enough that thresholds hold after a file."""
    boxes = torch.tensor(boxes_xywh_px, dtype=torch.float64).reshape(-1, 4)
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


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


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """Width times height, [..., 4] to [...], in the unit of the boxes, squared."""
    sides = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return sides[..., 0] * sides[..., 1]


def pairwise_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Intersection over union of every pair: [N, 4] and [M, 4] to [N, M] in 0..1 (0 where both are empty)."""
    return torch.nan_to_num(box_iou(first_xyxy, second_xyxy), nan=0.0)


def overlap_area(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Area that boxes share: [..., 4] and [..., 4], broadcast, to [...] in the unit of the boxes, squared."""
    lower = torch.maximum(first_xyxy[..., :2], second_xyxy[..., :2])
    upper = torch.minimum(first_xyxy[..., 2:], second_xyxy[..., 2:])
    sides = (upper - lower).clamp(min=0)
    return sides[..., 0] * sides[..., 1]  # not `prod`, which is slow over two numbers


def batched_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """`pairwise_iou` for every image of a batch: [B, N, 4] and [B, M, 4] to [B, N, M], in plain operators."""
    return _iou(first_xyxy.unsqueeze(2), second_xyxy.unsqueeze(1))


def pairwise_giou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Generalized IoU (Rezatofighi et al., 2019) of every pair: [N, 4] and [M, 4] to [N, M] in -1..1."""
    return torch.nan_to_num(generalized_box_iou(first_xyxy, second_xyxy), nan=0.0)


def aligned_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Intersection over union of row i with row i: [..., 4] twice to [...] in 0..1 (0 where both are empty)."""
    return _iou(first_xyxy, second_xyxy)


def _iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """IoU of boxes [..., 4] and [..., 4], broadcast; plain operators, which exported graphs need."""
    shared = overlap_area(first_xyxy, second_xyxy)
    union = box_area(first_xyxy) + box_area(second_xyxy) - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)
