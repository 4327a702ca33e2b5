"""The kit's teacher in torch: MobileNetV2 1.0 (ImageNet, uint8 TFLite, Apache-2.0), dequantised, fully convolutional.

TFLite runs one 224 px crop at a time. Read into torch it runs on batches of any size and hands out its inner maps,
which is what dense distillation needs. The clamps of ReLU6 are kept; per-tensor quantisation noise is not simulated.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

#: (expansion, channels, repeats, stride) of MobileNetV2's stages (Sandler et al. 2018, table 2).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class TeacherMaps(NamedTuple):
    """What the teacher sees: maps [B, channels, H/stride, W/stride]."""

    stride8: Tensor  # 32 channels
    stride16: Tensor  # 96 channels
    stride32: Tensor  # 1280 channels, >= 0
    stride4: Tensor  # 24 channels


class SameConv(nn.Module):
    """Convolution with TensorFlow's "SAME" padding (asymmetric at stride 2), a bias, and ReLU6 if asked."""

    def __init__(self, weight: Tensor, bias: Tensor, *, stride: int, groups: int, relu: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.stride, self.groups, self.relu, self.even = stride, groups, relu, False

    def forward(self, x: Tensor) -> Tensor:
        k, s = self.weight.shape[-1], self.stride
        if k > 1:
            pads = [max((-(-n // s) - 1) * s + k - n, 0) for n in x.shape[-2:]]
            if pads[0] == pads[1] == k - 1:
                y = F.conv2d(x, self.weight, self.bias, s, k // 2, groups=self.groups)
                return F.hardtanh_(y, 0.0, 6.0) if self.relu else y
            (t, b), (le, r) = ((p // 2, p - p // 2) for p in pads)
            if self.even:
                t, b, le, r = b, t, r, le
            x = F.pad(x, (le, r, t, b))
        y = F.conv2d(x, self.weight, self.bias, s, groups=self.groups)
        return F.hardtanh_(y, 0.0, 6.0) if self.relu else y


class MobileNetV2Teacher(nn.Module):
    """Frozen MobileNetV2 of a quantised TFLite file; input RGB in -1..1, logits over 1,001 classes (0 = background)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        convolutions = _read_convolutions(path)
        self.stem = _conv(next(convolutions), stride=2)
        blocks: list[nn.Sequential] = []
        self.residual: list[bool] = []
        self.stage_of: list[int] = []
        channels_in = 32
        for stage, (expansion, channels, repeats, stride) in enumerate(STAGES):
            for i in range(repeats):
                layers = [] if expansion == 1 else [_conv(next(convolutions))]
                layers.append(_conv(next(convolutions), stride=stride if i == 0 else 1, depthwise=True))
                layers.append(_conv(next(convolutions), relu=False))
                blocks.append(nn.Sequential(*layers))
                self.residual.append(channels_in == channels and (i > 0 or stride == 1))
                self.stage_of.append(stage)
                channels_in = channels
        self.blocks = nn.ModuleList(blocks)
        # TensorFlow pads below and right, so every halving shifts the cells by half a cell. Padding above and left at
        # the fourth puts those of stride 16 where a CLIP ResNet has them: cell i is centred at pixel 16 i + 7.
        self.blocks[self.stage_of.index(3)][1].even = True
        self.last = _conv(next(convolutions))
        self.head = _conv(next(convolutions), relu=False)
        self.requires_grad_(False).eval()

    def maps(self, x: Tensor) -> TeacherMaps:
        """Inner maps of pixels [B, 3, H, W] in -1..1."""
        ends = self._run(self.stem(x), range(len(STAGES)))
        return TeacherMaps(stride8=ends[2], stride16=ends[4], stride32=self.last(ends[6]), stride4=ends[1])

    def last_stages(self, stride16: Tensor) -> Tensor:
        """Maps of stride 32 [B, 1280, H/2, W/2] from maps of stride 16 [B, 96, H, W]."""
        return self.last(self._run(stride16, range(5, len(STAGES)))[6])

    def _run(self, x: Tensor, stages: range) -> dict[int, Tensor]:
        ends: dict[int, Tensor] = {}
        for block, residual, stage in zip(self.blocks, self.residual, self.stage_of, strict=True):
            if stage in stages:
                x = x + block(x) if residual else block(x)
                ends[stage] = x
        return ends

    def logits(self, pooled: Tensor) -> Tensor:
        """Logits [n, 1000] of pooled stride-32 features [n, 1280], the background class dropped."""
        return F.linear(pooled, self.head.weight[:, :, 0, 0], self.head.bias)[:, 1:]


def pool_stride32(maps: Tensor, boxes: list[Tensor], side: int) -> Tensor:
    """Regions [n, channels, side, side] of the teacher's stride-32 maps; boxes xyxy in pixels, a list a map.

    Cell i is centred at pixel 32 i + 23, where RoIAlign expects 32 i + 15.5.
    """
    return roi_align(maps, [b - 7.5 for b in boxes], side, spatial_scale=1 / 32, aligned=True)


def _conv(weights: tuple[Tensor, Tensor], *, stride: int = 1, depthwise: bool = False, relu: bool = True) -> SameConv:
    weight, bias = weights
    if depthwise:
        weight = weight.transpose(0, 1).contiguous()
    return SameConv(weight, bias, stride=stride, groups=weight.shape[0] if depthwise else 1, relu=relu)


def _read_convolutions(path: Path):  # type: ignore[no-untyped-def]  # a generator of (weight OIHW, bias)
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    details = {t["index"]: t for t in interpreter.get_tensor_details()}

    def dequantised(index: int) -> Tensor:
        q = details[index]["quantization_parameters"]
        raw = interpreter.get_tensor(index).astype(np.float32)
        return torch.from_numpy((raw - q["zero_points"][0]) * q["scales"][0]).float()

    for op in interpreter._get_ops_details():
        if op["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            _, weight, bias = op["inputs"][:3]
            yield dequantised(weight).permute(0, 3, 1, 2).contiguous(), dequantised(bias)
