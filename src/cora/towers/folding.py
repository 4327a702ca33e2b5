"""How towers run fastest: the precision of the machine, batch norms folded into convolutions."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def inference_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Type that the tower runs in: "auto" is bfloat16 where the hardware multiplies it faster, else float32.

    Raises:
        ValueError: no such precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision: expected one of {', '.join(get_args(Precision))}, got {precision!r}")
    if precision != "auto":
        dtype: torch.dtype = getattr(torch, precision)
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_multiplies_bfloat16() else torch.float32


def fold_batch_norms(module: nn.Module) -> None:
    """Replace every batch norm that directly follows its convolution, in evaluation: w * gamma / sigma in its place.

    In open_clip's ResNets a convolution "conv1" is followed by "bn1"; in a downsampling branch the order of the
    sequence says which belong together.
    """
    for child in module.children():
        fold_batch_norms(child)
    children = dict(module.named_children())
    for name, follower in _followers(module, children):
        convolution, norm = children[name], children[follower]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(convolution, norm))
            setattr(module, follower, nn.Identity())


def _followers(module: nn.Module, children: dict[str, nn.Module]) -> list[tuple[str, str]]:
    if isinstance(module, nn.Sequential):
        names = list(children)
        return list(pairwise(names))
    pairs = ((name, name.replace("conv", "bn", 1)) for name in children if name.startswith("conv"))
    return [(name, norm) for name, norm in pairs if norm in children]


def _cpu_multiplies_bfloat16() -> bool:
    # Without such instructions bfloat16 is emulated, and slower than float32.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in checks if hasattr(torch.cpu, name))
