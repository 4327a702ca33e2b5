"""The localizer for fast inference: matrix products in half precision, box positions in float32.

Nearly all work is in the encoder and decoder layers and in the convolutions that propose anchors, where rounding errors
average out. Everything else stays in float32, since it limits the precision of a box: tokens and queries between the
layers, norms, positions, anchors, and the heads for boxes and objectness.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cora.localizer.localizer import Localizer
from cora.localizer.pyramid import PyramidEncoder


def inference_localizer(localizer: Localizer, dtype: torch.dtype) -> Localizer:
    """A copy of a float32 localizer that takes maps in `dtype` and runs its matrix products in it.

    Args:
        localizer: left unchanged; returned itself if `dtype` is float32 or if its weights are not float32.
        dtype: a floating type.

    Returns:
        A frozen localizer in evaluation mode; its boxes, objectness and hidden states are float32.
    """
    if dtype == torch.float32 or localizer.dtype != torch.float32:
        return localizer
    copied = copy.deepcopy(localizer).requires_grad_(False).eval()
    if copied.input_projection is not None:
        copied.input_projection.to(dtype).register_forward_hook(_output_in_float32)
    linears = [*copied.decoder.layers.modules()]
    if isinstance(copied.encoder, PyramidEncoder):
        copied.encoder.to(dtype).register_forward_hook(_outputs_in_float32)
    else:
        linears += copied.encoder.modules()
    for module in linears:
        if isinstance(module, nn.Linear):
            module.to(dtype).register_forward_pre_hook(_input_as_weights)
        elif isinstance(module, nn.PReLU):  # between two linear layers
            module.to(dtype)
    if copied.proposals is not None:
        copied.proposals.trunk.to(dtype).register_forward_hook(_output_in_float32)
        copied.proposals.trunk.register_forward_pre_hook(_input_as_weights)
    return copied


def _input_as_weights(module: nn.Module, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    dtype = next(module.parameters()).dtype
    return tuple(None if each is None else each.to(dtype) for each in inputs)


def _output_in_float32(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.float()


def _outputs_in_float32(
    module: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    return tuple(output.float() for output in outputs)
