"""NanoDet-Plus-m's weights out of ncnn's files, into `cora.towers.nanodet`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cora.towers.nanodet import GhostBlock, NanoDet, Separable, ShuffleBlock

_HALF = 0x01306B47


def read_convolutions(param: Path) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of all convolutions, in the order of the file; `X.ncnn.bin` lies beside `X.ncnn.param`."""
    content, start, found = param.with_suffix(".bin").read_bytes(), 0, []
    for line in param.read_text().splitlines()[2:]:
        words = line.split()
        if not words[0].startswith("Convolution"):
            continue
        options = dict(word.split("=", 1) for word in words[4:] if "=" in word)
        outputs, count, kernel = int(options["0"]), int(options["6"]), int(options["1"])
        flag = int.from_bytes(content[start : start + 4], "little")
        kind = np.dtype(np.float16 if flag == _HALF else np.float32)
        start += 4
        weight = np.frombuffer(content, kind, count, start).astype(np.float32)
        start += -(-count * kind.itemsize // 4) * 4
        bias = np.frombuffer(content, np.float32, outputs, start).copy()
        start += 4 * outputs
        found.append((torch.from_numpy(weight).view(outputs, -1, kernel, kernel), torch.from_numpy(bias)))
    if start != len(content):
        raise ValueError(f"{param}: expected {len(content)} bytes of weights, got {start} by its layers")
    return found


def in_file_order(net: NanoDet) -> list[nn.Conv2d]:
    """The network's convolutions in the order in which ncnn's file names them."""
    order: list[nn.Module | None] = [net.stem]
    for stage in net.stages:
        for block in stage:
            order += _shuffle(block)
    order += [net.laterals[2], net.laterals[1], *_ghost(net.top_down[0]), net.laterals[0], *_ghost(net.top_down[1])]
    for halve, block in zip(net.halve, net.bottom_up, strict=True):
        order += [*_separable(halve), *_ghost(block)]
    order += [*_separable(net.extra_in), *_separable(net.extra_out)]
    for layers in net.head_layers:
        order += _separable(layers[0])
    for layers, head in reversed(list(zip(net.head_layers, net.heads, strict=True))):
        order += [*_separable(layers[1]), head]
    return [each for each in order if isinstance(each, nn.Conv2d)]


def load_nanodet(param: Path) -> NanoDet:
    """The network with the weights of ncnn's files."""
    net = NanoDet()
    for layer, (weight, bias) in zip(in_file_order(net), read_convolutions(param), strict=True):
        if layer.weight.shape != weight.shape:
            raise ValueError(
                f"{param}: expected a weight of shape {list(layer.weight.shape)}, got {list(weight.shape)}"
            )
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(bias)  # type: ignore[union-attr]
    return net.eval()


def _shuffle(block: ShuffleBlock) -> list[nn.Module | None]:
    return [block.pass_depthwise, block.reduce, block.depthwise, block.pass_pointwise, block.expand]


def _ghost(block: GhostBlock) -> list[nn.Module | None]:
    shortcut = [block.shortcut_depthwise, block.shortcut_pointwise]
    return [block.primary1, block.cheap1, block.primary2, block.cheap2, *shortcut]


def _separable(block: Separable) -> list[nn.Module | None]:
    return [block.depthwise, block.pointwise]
