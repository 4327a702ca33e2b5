"""Faster inference of towers: the fastest precision of the machine, and batch norms folded into convolutions."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def inference_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype for a precision; "auto" chooses the fastest.

    For "auto" this is bfloat16 on GPUs and CPUs with bfloat16 arithmetic, float16 on other GPUs, else float32.

    Raises:
        ValueError: unknown precision.
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
    """Fold every batch norm into the convolution before it: weights are multiplied by gamma / sigma.

    Which norm follows a convolution is derived from names, as in open_clip's ResNets ("conv1", "bn1"), or from the
    order in an `nn.Sequential`, as in their downsampling branches.
    """
    for child in module.children():
        fold_batch_norms(child)
    children = dict(module.named_children())
    for convolution_name, norm_name in _candidate_pairs(module, children):
        convolution, norm = children[convolution_name], children[norm_name]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, convolution_name, fuse_conv_bn_eval(convolution, norm))
            setattr(module, norm_name, nn.Identity())


def _candidate_pairs(module: nn.Module, children: dict[str, nn.Module]) -> list[tuple[str, str]]:
    """Names of children of which the second follows the first; they need not be a convolution and a norm."""
    if isinstance(module, nn.Sequential):
        names = list(children)
        return list(pairwise(names))
    pairs = ((name, name.replace("conv", "bn", 1)) for name in children if name.startswith("conv"))
    return [(name, norm) for name, norm in pairs if norm in children]


def _cpu_multiplies_bfloat16() -> bool:
    # Without these instructions bfloat16 is emulated, which is slower than float32.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name)() for name in checks if hasattr(torch.cpu, name))
