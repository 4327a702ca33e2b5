"""A copy of the localizer for fast inference: matrix products in half precision, box coordinates in float32.

Nearly all computation is in the encoder and decoder layers and in the convolutions that propose anchors. Rounding
errors average out there, so these run in half precision. Everything that limits the precision of a box stays in
float32: tokens and queries between layers, norms, positions, anchors, and the heads for boxes and objectness.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cora.localizer.localizer import Localizer
from cora.localizer.pyramid import PyramidEncoder


def inference_localizer(localizer: Localizer, dtype: torch.dtype) -> Localizer:
    """Copy a float32 localizer so that it expects feature maps in `dtype` and runs its matrix products in `dtype`.

    Args:
        localizer: does not change. If its weights are not float32, or `dtype` is float32, it is returned itself.
        dtype: a floating type.

    Returns:
        A frozen localizer in evaluation mode; its boxes, objectness and hidden states are float32.
    """
    if dtype == torch.float32 or localizer.dtype != torch.float32:
        return localizer
    copied = copy.deepcopy(localizer).requires_grad_(False).eval()
    if copied.input_projection is not None:
        copied.input_projection.to(dtype).register_forward_hook(_cast_output_to_float32)
    modules = [*copied.decoder.layers.modules()]
    if isinstance(copied.encoder, PyramidEncoder):
        copied.encoder.to(dtype).register_forward_hook(_cast_outputs_to_float32)
    else:
        modules += copied.encoder.modules()
    for module in modules:
        if isinstance(module, nn.Linear):
            module.to(dtype).register_forward_pre_hook(_cast_input_to_weights)
        elif isinstance(module, nn.PReLU):  # it stands between two linear layers
            module.to(dtype)
    if copied.proposals is not None:
        copied.proposals.trunk.to(dtype).register_forward_hook(_cast_output_to_float32)
        copied.proposals.trunk.register_forward_pre_hook(_cast_input_to_weights)
    return copied


def _cast_input_to_weights(module: nn.Module, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    dtype = next(module.parameters()).dtype
    return tuple(None if each is None else each.to(dtype) for each in inputs)


def _cast_output_to_float32(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.float()


def _cast_outputs_to_float32(
    module: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    return tuple(output.float() for output in outputs)
