"""Image tower of `nano`: a timm backbone with a projection into a text space, and optional parts for finding boxes.

Regions are pooled from the backbone's last map before its head. The head's convolution runs after the pooling, so that
the region prompt, which is added to the pooled cells, passes through a nonlinearity.

By default the localizer reads the backbone's maps. It reads maps that learned from boxes if the tower has one of these:

- A *box detector*: NanoDet, beside the backbone. The localizer starts from its boxes. Its class scores in a region add
  the text embeddings of these classes to the region's embedding.
- *Box stages*: copies of some stages of the backbone, trained on boxes. After them, the later stages run a second time,
  with the same frozen weights as for regions.

Without a box detector, the tower may have a *fine head*, which adds to a region's embedding what it computes from the
map of stride 16.

All maps that leave the tower are packed into one (`cora.pyramid`): first what the localizer reads, then, if that comes
from other layers, the backbone's last map.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from cora.boxes import batched_iou
from cora.pyramid import STRIDE, PyramidLayout
from cora.structures import DenseBoxes, FeatureMap, ImageBatch
from cora.towers import nanodet
from cora.towers.image_tower import ImageTower
from cora.towers.nanodet import NanoDet
from cora.towers.text_space import FineHead, TextSpaceHead

#: Normalisation that EfficientNet-Lite's weights expect, for RGB in 0..1; in 0..255 it is (RGB - 127) / 128.
PIXEL_MEAN, PIXEL_STD = 127 / 255, 128 / 255
#: K, the number of the box detector's boxes whose class scores count in region embeddings.
TOP_BOXES = 300
#: Stride of the map that the fine head reads, in pixels.
FINE_STRIDE = 16
#: Strides, in pixels of the image, of the detector's levels when it runs on the image at half the size. Its finest
#: level is left out: it would have stride 16, which the run at full size covers.
HALF_SIZE_STRIDES = (32, 64, 128)


@dataclass(frozen=True)
class TopBoxes:
    """The K best boxes of the box detector, best first.

    Attributes:
        boxes_xyxy: [B, K, 4] in 0..1 of the unpadded image.
        class_scores: [B, K, 80] in 0..1; zeros for boxes of padding.
    """

    boxes_xyxy: Tensor
    class_scores: Tensor


@dataclass(frozen=True)
class PackedMap(FeatureMap):
    """A packed map with the box detector's predictions from it, so that they are not computed again."""

    dense: nanodet.DensePredictions | None = None


class TimmTower(ImageTower):
    """Frozen timm backbone with a projection into the text space, and the optional parts of the module's docstring.

    Args:
        net: backbone with `conv_stem`, `bn1`, `blocks`, `conv_head`, `bn2` (EfficientNets), of stride 32.
        taps: indices into `blocks` of the stages whose output is read as a feature map; regions are pooled from the
            last one.
        text_space: projects pooled regions into the text space.
        detector: box detector, or None.
        box_stages: consecutive indices into `blocks` of the stages that are copied for boxes; not with a detector.
        fine: head that embeds regions from the map of stride 16, or None; not with a detector.
        looks: how often the detector runs on an image: 1, or 2 to run it on the image at half the size, too.
        pool_size: S, side of the grid that a region is pooled to.
    """

    stride = STRIDE
    net: Any  # timm's networks declare no types

    def __init__(
        self,
        *,
        net: nn.Module,
        taps: tuple[int, ...],
        text_space: TextSpaceHead,
        detector: NanoDet | None,
        box_stages: tuple[int, ...] = (),
        fine: FineHead | None = None,
        looks: int = 1,
        pool_size: int,
    ) -> None:
        super().__init__()
        self.net, self.taps, self.text_space, self.detector, self.pool_size = net, taps, text_space, detector, pool_size
        self.strides = nanodet.STRIDES + HALF_SIZE_STRIDES * (looks > 1)
        self.deep_channels = int(self.net.conv_head.in_channels)
        copies = {str(index): copy.deepcopy(self.net.blocks[index]) for index in box_stages}
        self.box_stages, self.fine = nn.ModuleDict(copies) if copies else None, fine
        if detector is None:
            self.layout = PyramidLayout(tap_levels(net, taps))
        else:
            self.layout = PyramidLayout(tuple((stride, nanodet.WIDTH) for stride in self.strides))
            self.register_buffer("detector_embeddings", torch.zeros(nanodet.CLASSES, self.embed_dim))
            self.detector_embeddings: Tensor
            self.detector_weight = nn.Parameter(torch.tensor(3.0))
        self.freeze()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of the maps."""
        return self.text_space.expand.weight.dtype

    @property
    def embed_dim(self) -> int:
        """Width D of the embeddings."""
        return int(self.text_space.contract.out_features)

    @property
    def c3_channels(self) -> int:
        """Channels of the packed map."""
        return self.layout.packed_channels + (0 if self.box_trunk is None else self.deep_channels)

    @property
    def positions(self) -> Tensor:
        """[S*S, C] zeros: a timm backbone has no positional table, so only the prompt is added to the cells."""
        weight = self.text_space.expand.weight
        return weight.new_zeros(self.pool_size**2, self.deep_channels)

    def for_inference(self, dtype: torch.dtype) -> TimmTower:
        """A copy with batch norms folded, channels last, in `dtype`; the detector stays in float32 for exact boxes."""
        copied = copy.deepcopy(self)
        with torch.no_grad():
            fold_timm_norms(copied.net)
            if copied.box_stages is not None:
                fold_timm_norms(copied.box_stages)
                copied.box_stages.to(dtype)
        for part in (copied.net, copied.text_space, copied.fine):
            if part is not None:
                part.to(dtype)
        return copied.freeze().to(memory_format=torch.channels_last)

    def maps(self, pixels: Tensor, mask: Tensor) -> tuple[FeatureMap, FeatureMap]:
        """The packed map [B, C3, H/32, W/32], both as C3 and as C4; H and W are multiples of 32."""
        packed, dense = self.encode(pixels)
        packed_map = PackedMap(features=packed, mask=mask[:, :: self.stride, :: self.stride], dense=dense)
        return packed_map, packed_map

    def encode(self, pixels: Tensor) -> tuple[Tensor, nanodet.DensePredictions | None]:
        """Normalised pixels [B, 3, H, W] to the packed map and the detector's predictions, None without a detector."""
        shared, early = self._run(self._stem(pixels), range(self._fork))
        maps = early + self._run(shared, range(self._fork, len(self.net.blocks)))[1]
        if self.detector is not None:
            dense = self._detect(pixels, self.detector)
            return torch.cat([self.layout.pack(dense.levels), maps[-1].to(dense.levels[0].dtype)], dim=1), dense
        if self.box_stages is None:
            return self.layout.pack(maps), None
        return torch.cat([self.layout.pack(early + self._box_maps(shared)), maps[-1]], dim=1), None

    @property
    def _fork(self) -> int:
        """Index of the first stage that runs twice, for regions and for boxes; the number of stages if none does."""
        return len(self.net.blocks) if self.box_stages is None else min(int(index) for index in self.box_stages)

    def _stem(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.net.bn1(self.net.conv_stem(pixels.to(self.dtype)))
        return features

    def _run(self, features: Tensor, stages: range, copies: nn.ModuleDict | None = None) -> tuple[Tensor, list[Tensor]]:
        """Run stages, from `copies` if they are in it: the output of the last one, and those of the taps."""
        maps = []
        for index in stages:
            stage = self.net.blocks[index] if copies is None or str(index) not in copies else copies[str(index)]
            features = stage(features)
            if index in self.taps:
                maps.append(features)
        return features, maps

    def _box_maps(self, shared: Tensor) -> list[Tensor]:
        """Maps for the localizer from the fork on, through the box stages."""
        return self._run(shared, range(self._fork, len(self.net.blocks)), self.box_stages)[1]

    @property
    def box_trunk(self) -> nn.Module | None:
        """The box detector, or the box stages."""
        return self.box_stages if self.detector is None else self.detector

    def box_map(self, batch: ImageBatch) -> FeatureMap:
        """The packed map without the backbone's last map.

        Raises:
            TypeError: the tower has neither a box detector nor box stages.
        """
        mask = batch.mask[:, :: self.stride, :: self.stride]
        if self.detector is not None:
            dense = self._detect(batch.pixels, self.detector)
            return PackedMap(features=self.layout.pack(dense.levels), mask=mask, dense=dense)
        if self.box_stages is None:
            return super().box_map(batch)
        with torch.no_grad():
            shared, early = self._run(self._stem(batch.pixels), range(self._fork))
        return PackedMap(features=self.layout.pack(early + self._box_maps(shared)), mask=mask)

    def _detect(self, pixels: Tensor, detector: NanoDet) -> nanodet.DensePredictions:
        """Run the detector on pixels that are normalised for the backbone and, with two looks, on half the size."""
        pixels = pixels.float() * (255 * PIXEL_STD) + 255 * PIXEL_MEAN
        levels = detector.pyramid(pixels)
        if len(self.strides) > len(levels):
            levels = levels + detector.pyramid(F.avg_pool2d(pixels, 2))[-len(HALF_SIZE_STRIDES) :]
        return self._apply_heads(levels, detector)

    def _apply_heads(self, levels: tuple[Tensor, ...], detector: NanoDet) -> nanodet.DensePredictions:
        """The heads' predictions from the levels of one look or two, with distances in pixels of the image."""
        count = len(nanodet.STRIDES)
        full_size = detector.apply_heads(levels[:count])
        if len(levels) == count:
            return full_size
        half_size = detector.apply_heads(levels[count:])
        return nanodet.DensePredictions(
            levels=levels,
            class_logits=torch.cat([full_size.class_logits, half_size.class_logits], dim=1),
            reach=torch.cat([full_size.reach, 2 * half_size.reach], dim=1),
        )

    def deep(self, packed: Tensor) -> Tensor:
        """The backbone's last map [B, C, h, w], from which regions are pooled: the last channels of the packed map."""
        return packed[:, -self.deep_channels :].to(self.dtype)

    def head(self, cells: Tensor) -> Tensor:
        """Pooled cells plus prompt [R, C, S, S] to pooled features [R, features], the input of `text_space`."""
        pooled: Tensor = self.net.bn2(self.net.conv_head(cells)).mean(dim=(2, 3))
        return pooled

    def fine_map(self, packed: Tensor) -> Tensor | None:
        """The map of stride 16 [B, C, 2 h, 2 w] for the fine head, from the packed map [B, C3, h, w]; None without."""
        if self.fine is None:
            return None
        return self.layout.unpack(packed)[[stride for stride, _ in self.layout.levels].index(FINE_STRIDE)]

    def embed(self, pooled: Tensor, class_scores: Tensor | None, fine: Tensor | None = None) -> Tensor:
        """Unit embeddings [R, D] of regions.

        Args:
            pooled: [R, features] from `head`.
            class_scores: [R, 80] from `box_class_scores`, 0..1; None without a detector.
            fine: [R, C, bins, bins] cells pooled from `fine_map`; None without a fine head.
        """
        embeddings: Tensor = self.text_space(pooled).float()
        if self.fine is not None and fine is not None:
            embeddings = embeddings + self.fine(fine).float()
        if class_scores is not None:
            embeddings = embeddings + self.detector_weight * self.class_score_embeddings(class_scores)
        return F.normalize(embeddings, dim=-1)

    def class_score_embeddings(self, class_scores: Tensor) -> Tensor:
        """The detector's term of region embeddings: class scores [..., 80] in 0..1 to [..., D].

        The direction is the mean of the classes' text embeddings weighted by squared score, the length is the square
        root of the best score.
        """
        squares = class_scores.float().square()
        weights = squares / squares.sum(-1, keepdim=True).clamp(min=1e-9)
        direction = F.normalize(weights @ self.detector_embeddings.float(), dim=-1)
        return class_scores.float().amax(-1, keepdim=True).sqrt() * direction

    def dense(self, c3: FeatureMap) -> nanodet.DensePredictions | None:
        """The detector's predictions at every cell: those kept in a `PackedMap`, else computed from the packed map."""
        if self.detector is None:
            return None
        if isinstance(c3, PackedMap) and c3.dense is not None:
            return c3.dense
        return self._apply_heads(self.layout.unpack(c3.features.float()), self.detector)

    def boxes(self, c3: FeatureMap) -> DenseBoxes | None:
        """The detector's boxes at every cell, from which the localizer starts; None without a detector."""
        dense = self.dense(c3)
        if dense is None:
            return None
        centres = [_cell_centres(level, stride) for level, stride in zip(dense.levels, self.strides, strict=True)]
        centres_xy = torch.cat(centres).to(dense.reach.device) / STRIDE
        objectness = dense.class_logits.amax(-1).float()
        return DenseBoxes(dense.reach / STRIDE, centres_xy.expand(objectness.shape[0], -1, -1), objectness)

    def top_boxes(self, c3: FeatureMap) -> TopBoxes | None:
        """The detector's boxes of highest objectness in each image, without suppression; None without a detector."""
        dense, boxes = self.dense(c3), self.boxes(c3)
        if dense is None or boxes is None:
            return None
        inside = torch.cat([~mask.flatten(1) for mask in self.layout.unpack_mask(c3.mask)], dim=1)
        objectness = boxes.objectness.masked_fill(~inside, -torch.inf)
        # Padded, so that K is a constant of a traced graph. Padding stands for cells that may be chosen already; a box
        # that comes twice changes no maximum in `box_class_scores`.
        padded = F.pad(objectness, (0, TOP_BOXES), value=-torch.inf)
        best = padded.topk(TOP_BOXES, dim=1).indices
        best = best.remainder(torch.full_like(best, inside.shape[1])).unsqueeze(-1)  # [B, K, 1] indices of cells
        reach = boxes.reach.gather(1, best.expand(-1, -1, 4))
        centres = boxes.centres.gather(1, best.expand(-1, -1, 2))
        boxes_xyxy = torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], dim=-1)
        extents = c3.extents_hw.flip(-1).repeat(1, 2).unsqueeze(1)
        scores = dense.class_logits.gather(1, best.expand(-1, -1, nanodet.CLASSES)).float().sigmoid()
        in_image = inside.to(scores.dtype).unsqueeze(-1).gather(1, best)
        return TopBoxes((boxes_xyxy / extents).clamp(0, 1), scores * in_image)


def box_class_scores(boxes_xyxy: Tensor, top_boxes: TopBoxes) -> Tensor:
    """Class scores of boxes [B, N, 4] from the detector's: for each class, the maximum of score * IoU^2, [B, N, 80]."""
    weights = batched_iou(boxes_xyxy, top_boxes.boxes_xyxy).square()
    return (weights.unsqueeze(-1) * top_boxes.class_scores.unsqueeze(1)).amax(dim=2)


def tap_levels(net: Any, taps: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(stride in pixels, channels) of the outputs of some stages of a timm EfficientNet, given by index."""
    by_module = {entry["module"]: entry for entry in net.feature_info}
    entries = [by_module[f"blocks.{tap}"] for tap in taps]
    return tuple((int(entry["reduction"]), int(entry["num_chs"])) for entry in entries)


class SamePaddingConv(nn.Conv2d):
    """TensorFlow's "same" padding for stride 2 and maps of even sides; it is constant, unlike timm's `Conv2dSame`."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, h, w], h and w even, to [B, C', h / 2, w / 2]."""
        before = (int(self.kernel_size[0]) - 2) // 2
        after = int(self.kernel_size[0]) - 2 - before
        return F.conv2d(
            F.pad(input, (before, after, before, after)), self.weight, self.bias, self.stride, 0, 1, self.groups
        )


def build_backbone(name: str) -> nn.Module:
    """An untrained timm backbone without its classifier, for images whose sides are multiples of 32."""
    net: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    for module in list(net.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, Conv2dSame):
                setattr(module, child_name, _with_constant_padding(child))
    return net


def _with_constant_padding(convolution: nn.Conv2d) -> SamePaddingConv:
    if convolution.stride != (2, 2) or convolution.kernel_size[0] != convolution.kernel_size[1]:
        raise ValueError(f"timm backbone: expected padding of halving convolutions only, got {convolution}")
    replacement = SamePaddingConv(
        convolution.in_channels,
        convolution.out_channels,
        int(convolution.kernel_size[0]),
        stride=2,
        groups=convolution.groups,
        bias=convolution.bias is not None,
    )
    replacement.load_state_dict(convolution.state_dict())
    return replacement


def fold_timm_norms(module: nn.Module) -> None:
    """Fold every batch norm of a timm EfficientNet into the convolution before it.

    timm's `BatchNormAct2d` includes the activation, which stays in its place.
    """
    children = dict(module.named_children())
    for child in children.values():
        fold_timm_norms(child)
    names = list(children)
    for before, after in pairwise(names):
        convolution, norm = children[before], children[after]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, before, _fold(convolution, norm))
            setattr(module, after, nn.Sequential(norm.drop, norm.act))  # type: ignore[arg-type]


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    # In place, so that subclasses such as `SamePaddingConv` stay.
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    convolution.weight.mul_(scale[:, None, None, None])
    bias = norm.bias - norm.running_mean * scale
    convolution.bias = nn.Parameter(bias if convolution.bias is None else bias + convolution.bias * scale)
    return convolution


def _cell_centres(level: Tensor, stride: int) -> Tensor:
    """Centres [h * w, 2] (x, y) in pixels of a level's cells; for NanoDet these are the cells' upper left corners."""
    height, width = level.shape[-2:]
    y = torch.arange(height, dtype=torch.float32, device=level.device)[:, None].expand(height, width)
    x = torch.arange(width, dtype=torch.float32, device=level.device)[None].expand(height, width)
    return torch.stack([x, y], dim=-1).flatten(0, 1) * stride
