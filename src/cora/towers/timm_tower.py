"""A timm backbone with a learned way into a text space as image tower, alone or with a network for boxes beside it.

The backbone's last map before its head is what regions are pooled from; the head's convolution follows the pooling, so
that a prompt added to the pooled cells passes a nonlinearity. What the localizer reads may come from a network of its
own:

- a detector that was trained on boxes (NanoDet). Its boxes are where the localizer starts, and what it sees in a box,
  as a mean of its classes' text embeddings, shares in the region's embedding;
- some stages of the backbone a second time ("box stages"), which learned from boxes. The stages behind them run a
  second time, too, with the frozen weights.

What the map of stride 16 says of a region may share in its embedding, too ("fine head").
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

#: What EfficientNet-Lite's weights expect: (RGB of 0..255 - 127) / 128, as mean and deviation of RGB in 0..1.
PIXEL_MEAN, PIXEL_STD = 127 / 255, 128 / 255
#: Cells of the detector, best first, that a region asks what is in it.
WITNESSES = 300
#: Stride of the map that the fine head reads, in pixels.
FINE_STRIDE = 16
#: Strides of the detector's second look, in pixels of the image; what its finest level would find, the first look sees.
SECOND_LOOK = (32, 64, 128)


@dataclass(frozen=True)
class Witnesses:
    """What the detector beside the backbone saw, best first.

    Attributes:
        boxes_xyxy: [B, K, 4] in 0..1 of the unpadded image.
        classes: [B, K, 80] scores in 0..1.
    """

    boxes_xyxy: Tensor
    classes: Tensor


@dataclass(frozen=True)
class TowerMap(FeatureMap):
    """A packed map that remembers what the detector beside the backbone said of it."""

    dense: nanodet.Dense | None = None


class TimmTower(ImageTower):
    """Frozen timm backbone, its way into the text space, and a detector beside it if there is one.

    Args:
        net: backbone with `conv_stem`, `bn1`, `blocks`, `conv_head`, `bn2` (EfficientNets), of stride 32.
        taps: places in `blocks` after which a map is read; the last one is pooled.
        text_space: head behind the pooled regions.
        detector: NanoDet, or None.
        box_stages: places in `blocks`, one after the other, that the localizer has weights of its own for; not beside
            a detector.
        fine: head that reads regions from the map of stride 16, or None; not beside a detector.
        looks: 1, or 2 for a second look of the detector at half the size.
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
        self.strides = nanodet.STRIDES + SECOND_LOOK * (looks > 1)
        self.deep_channels = int(self.net.conv_head.in_channels)
        own = {str(place): copy.deepcopy(self.net.blocks[place]) for place in box_stages}
        self.box_stages, self.fine = nn.ModuleDict(own) if own else None, fine
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
        """Width D of the text space."""
        return int(self.text_space.contract.out_features)

    @property
    def c3_channels(self) -> int:
        """Channels of the packed map."""
        return self.layout.packed_channels + (0 if self.box_trunk is None else self.deep_channels)

    @property
    def positions(self) -> Tensor:
        """[S*S, C] zeros: nothing but the prompt is added to the cells."""
        weight = self.text_space.expand.weight
        return weight.new_zeros(self.pool_size**2, self.deep_channels)

    def for_inference(self, dtype: torch.dtype) -> TimmTower:
        """A copy with batch norms folded, channels last; the detector stays in float32, where it places boxes."""
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
        """The packed map [B, C3, H/32, W/32], as C3 and as C4; sides of the batch are multiples of 32."""
        packed, dense = self.encode(pixels)
        one = TowerMap(features=packed, mask=mask[:, :: self.stride, :: self.stride], dense=dense)
        return one, one

    def encode(self, pixels: Tensor) -> tuple[Tensor, nanodet.Dense | None]:
        """Normalised pixels [B, 3, H, W] to the packed map, and what the detector says of every cell."""
        forked, early = self._stages(self._stem(pixels), range(self._fork))
        maps = early + self._stages(forked, range(self._fork, len(self.net.blocks)))[1]
        if self.detector is not None:
            dense = self._look(pixels, self.detector)
            return torch.cat([self.layout.pack(dense.levels), maps[-1].to(dense.levels[0].dtype)], dim=1), dense
        if self.box_stages is None:
            return self.layout.pack(maps), None
        return torch.cat([self.layout.pack(early + self._box_maps(forked)), maps[-1]], dim=1), None

    @property
    def _fork(self) -> int:
        """The first stage that runs once for regions and once for boxes; the number of stages if none does."""
        return len(self.net.blocks) if self.box_stages is None else min(int(place) for place in self.box_stages)

    def _stem(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.net.bn1(self.net.conv_stem(pixels.to(self.dtype)))
        return features

    def _stages(self, features: Tensor, places: range, own: nn.ModuleDict | None = None) -> tuple[Tensor, list[Tensor]]:
        """What leaves the last of the stages, and the maps of those that are taps; stages in `own` are taken there."""
        maps = []
        for place in places:
            stage = self.net.blocks[place] if own is None or str(place) not in own else own[str(place)]
            features = stage(features)
            if place in self.taps:
                maps.append(features)
        return features, maps

    def _box_maps(self, forked: Tensor) -> list[Tensor]:
        """The maps for boxes behind the fork."""
        return self._stages(forked, range(self._fork, len(self.net.blocks)), self.box_stages)[1]

    @property
    def box_trunk(self) -> nn.Module | None:
        """The detector beside the backbone, or its box stages."""
        return self.box_stages if self.detector is None else self.detector

    def box_map(self, batch: ImageBatch) -> FeatureMap:
        """The packed map without the backbone's last one.

        Raises:
            TypeError: the tower has no network for boxes.
        """
        mask = batch.mask[:, :: self.stride, :: self.stride]
        if self.detector is not None:
            dense = self._look(batch.pixels, self.detector)
            return TowerMap(features=self.layout.pack(dense.levels), mask=mask, dense=dense)
        if self.box_stages is None:
            return super().box_map(batch)
        with torch.no_grad():
            forked, early = self._stages(self._stem(batch.pixels), range(self._fork))
        return TowerMap(features=self.layout.pack(early + self._box_maps(forked)), mask=mask)

    def _look(self, pixels: Tensor, detector: NanoDet) -> nanodet.Dense:
        """What the detector says of an image, normalised for the backbone, and of the same image at half the size."""
        pixels = pixels.float() * (255 * PIXEL_STD) + 255 * PIXEL_MEAN
        levels = detector.pyramid(pixels)
        if len(self.strides) > len(levels):
            levels = levels + detector.pyramid(F.avg_pool2d(pixels, 2))[-len(SECOND_LOOK) :]
        return self._read(levels, detector)

    def _read(self, levels: tuple[Tensor, ...], detector: NanoDet) -> nanodet.Dense:
        """What the heads say of the levels of all looks, reaches in pixels of the image."""
        count = len(nanodet.STRIDES)
        first = detector.read(levels[:count])
        if len(levels) == count:
            return first
        second = detector.read(levels[count:])
        return nanodet.Dense(
            levels=levels,
            class_logits=torch.cat([first.class_logits, second.class_logits], dim=1),
            reach=torch.cat([first.reach, 2 * second.reach], dim=1),
        )

    def deep(self, packed: Tensor) -> Tensor:
        """The backbone's last map [B, C, h, w] out of the packed one: what regions are pooled from."""
        return packed[:, -self.deep_channels :].to(self.dtype)

    def head(self, cells: Tensor) -> Tensor:
        """Cells of regions [R, C, S, S], prompted, to what the text space's head reads [R, features]."""
        pooled: Tensor = self.net.bn2(self.net.conv_head(cells)).mean(dim=(2, 3))
        return pooled

    def fine_map(self, packed: Tensor) -> Tensor | None:
        """The map [B, C, 2 h, 2 w] of stride 16 that the fine head reads regions from; None without one."""
        if self.fine is None:
            return None
        return self.layout.unpack(packed)[[stride for stride, _ in self.layout.levels].index(FINE_STRIDE)]

    def embed(self, pooled: Tensor, seen: Tensor | None, fine: Tensor | None = None) -> Tensor:
        """Unit embeddings [R, D] of regions.

        Args:
            pooled: [R, features] of `head`.
            seen: [R, 80] what the detector saw in them, if there is one.
            fine: [R, C, bins, bins] their cells of `fine_map`, if there is one.
        """
        embeddings: Tensor = self.text_space(pooled).float()
        if self.fine is not None and fine is not None:
            embeddings = embeddings + self.fine(fine).float()
        if seen is not None:
            embeddings = embeddings + self.detector_weight * self.seen_embeddings(seen)
        return F.normalize(embeddings, dim=-1)

    def seen_embeddings(self, seen: Tensor) -> Tensor:
        """Mean of the classes' text embeddings by squared score, of length sqrt(best score): [..., 80] to [..., D]."""
        squares = seen.float().square()
        shares = squares / squares.sum(-1, keepdim=True).clamp(min=1e-9)
        direction = F.normalize(shares @ self.detector_embeddings.float(), dim=-1)
        return seen.float().amax(-1, keepdim=True).sqrt() * direction

    def dense(self, c3: FeatureMap) -> nanodet.Dense | None:
        """What the detector says of every cell of a packed map; remembered where the tower made the map."""
        if self.detector is None:
            return None
        if isinstance(c3, TowerMap) and c3.dense is not None:
            return c3.dense
        return self._read(self.layout.unpack(c3.features.float()), self.detector)

    def boxes(self, c3: FeatureMap) -> DenseBoxes | None:
        """The detector's boxes as a start for the localizer's."""
        dense = self.dense(c3)
        if dense is None:
            return None
        centres = torch.cat([_centres(level, stride) for level, stride in zip(dense.levels, self.strides, strict=True)])
        centres = centres.to(dense.reach.device) / STRIDE
        objectness = dense.class_logits.amax(-1).float()
        return DenseBoxes(dense.reach / STRIDE, centres.expand(objectness.shape[0], -1, -1), objectness)

    def witnesses(self, c3: FeatureMap) -> Witnesses | None:
        """The cells of the detector that saw most, with their boxes and class scores; None without a detector."""
        dense, boxes = self.dense(c3), self.boxes(c3)
        if dense is None or boxes is None:
            return None
        inside = torch.cat([~mask.flatten(1) for mask in self.layout.unpack_mask(c3.mask)], dim=1)
        objectness = boxes.objectness.masked_fill(~inside, -torch.inf)
        # Filled up, so that their number is a constant of a traced graph; cells that come twice change nothing.
        filled = F.pad(objectness, (0, WITNESSES), value=-torch.inf)
        best = filled.topk(WITNESSES, dim=1).indices
        best = best.remainder(torch.full_like(best, inside.shape[1])).unsqueeze(-1)
        reach = boxes.reach.gather(1, best.expand(-1, -1, 4))
        centres = boxes.centres.gather(1, best.expand(-1, -1, 2))
        corners = torch.cat([centres - reach[..., :2], centres + reach[..., 2:]], dim=-1)
        extents = c3.extents_hw.flip(-1).repeat(1, 2).unsqueeze(1)
        scores = dense.class_logits.gather(1, best.expand(-1, -1, nanodet.CLASSES)).float().sigmoid()
        seen = inside.to(scores.dtype).unsqueeze(-1).gather(1, best)  # nothing in the padding
        return Witnesses((corners / extents).clamp(0, 1), scores * seen)


def seen_in(boxes_xyxy: Tensor, witnesses: Witnesses) -> Tensor:
    """What a detector saw in boxes [B, N, 4]: for each class the best score * IoU^2 of its cells, [B, N, 80]."""
    weights = batched_iou(boxes_xyxy, witnesses.boxes_xyxy).square()
    return (weights.unsqueeze(-1) * witnesses.classes.unsqueeze(1)).amax(dim=2)


def tap_levels(net: Any, taps: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """(stride, channels) of the maps behind some of a timm EfficientNet's stages."""
    by_module = {entry["module"]: entry for entry in net.feature_info}
    entries = [by_module[f"blocks.{tap}"] for tap in taps]
    return tuple((int(entry["reduction"]), int(entry["num_chs"])) for entry in entries)


class HalvingConv(nn.Conv2d):
    """TensorFlow's "same" padding of a convolution of stride 2 for maps of even sides: known without the sizes."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, h, w] to [B, C', h / 2, w / 2]."""
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
                setattr(module, child_name, _halving(child))
    return net


def _halving(convolution: nn.Conv2d) -> HalvingConv:
    if convolution.stride != (2, 2) or convolution.kernel_size[0] != convolution.kernel_size[1]:
        raise ValueError(f"timm backbone: expected padding of halving convolutions only, got {convolution}")
    halving = HalvingConv(
        convolution.in_channels,
        convolution.out_channels,
        int(convolution.kernel_size[0]),
        stride=2,
        groups=convolution.groups,
        bias=convolution.bias is not None,
    )
    halving.load_state_dict(convolution.state_dict())
    return halving


def fold_timm_norms(module: nn.Module) -> None:
    """Fold every batch norm of a timm EfficientNet into the convolution before it; its activation stays."""
    children = dict(module.named_children())
    for child in children.values():
        fold_timm_norms(child)
    names = list(children)
    for before, after in pairwise(names):
        convolution, norm = children[before], children[after]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, before, _folded(convolution, norm))
            setattr(module, after, nn.Sequential(norm.drop, norm.act))  # type: ignore[arg-type]


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    # In place: timm's padding layers are subclasses that must stay.
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    convolution.weight.mul_(scale[:, None, None, None])
    bias = norm.bias - norm.running_mean * scale
    convolution.bias = nn.Parameter(bias if convolution.bias is None else bias + convolution.bias * scale)
    return convolution


def _centres(level: Tensor, stride: int) -> Tensor:
    """(x, y) in pixels [h * w, 2] of a level's cells, as NanoDet counts them: their upper left corners."""
    height, width = level.shape[-2:]
    y = torch.arange(height, dtype=torch.float32, device=level.device)[:, None].expand(height, width)
    x = torch.arange(width, dtype=torch.float32, device=level.device)[None].expand(height, width)
    return torch.stack([x, y], dim=-1).flatten(0, 1) * stride
