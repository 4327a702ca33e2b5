"""Activation checkpointing: layers run again in the backward pass, and nothing of it stays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from cora.training.recompute import recomputed


class Counted(nn.Module):
    """A layer that counts its runs and keeps much for the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.runs = nn.Linear(8, 8), 0

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        self.runs += 1
        for _ in range(10):
            x = torch.tanh(self.linear(x) * scale)
        return x


def kept_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes that autograd holds between the passes, parameters left out."""
    own = {parameter.data_ptr() for parameter in layer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(x, scale=0.5)
    total = sum(kept.values())
    output.sum().backward()
    return total


def test_layers_run_twice_and_keep_less() -> None:
    layer, x = Counted(), torch.randn(64, 8, requires_grad=True)
    plain = kept_bytes(layer, x)
    gradient, layer.runs = x.grad, 0
    x.grad = None
    with recomputed([layer]):
        lean = kept_bytes(layer, x)
    assert layer.runs == 2
    assert lean < plain / 5
    assert gradient is not None
    assert x.grad is not None
    torch.testing.assert_close(x.grad, gradient)


def test_backward_may_come_after_the_block() -> None:
    layer = Counted()
    with recomputed([layer]):
        output = layer(torch.randn(3, 8))
    output.sum().backward()
    assert layer.runs == 2
    assert layer.linear.weight.grad is not None


def test_the_layer_is_as_before_even_after_an_error() -> None:
    layer = Counted()
    names = [name for name, _ in layer.named_parameters()]
    with pytest.raises(KeyError), recomputed([layer]):
        raise KeyError
    assert "forward" not in vars(layer)
    assert [name for name, _ in layer.named_parameters()] == names
    twin = copy.deepcopy(layer)
    twin(torch.randn(3, 8))
    assert (layer.runs, twin.runs) == (0, 1)
