"""Frozen modules: no parameter has a gradient, and `.train()` does not leave evaluation mode."""

from __future__ import annotations

from typing import Self

from torch import nn


class FrozenModule(nn.Module):
    """A module that training never changes: no gradients of parameters, no updates of batch statistics, no dropout.

    Gradients with respect to its inputs still pass through.
    """

    def freeze(self) -> Self:
        """Switch off the gradients of all parameters and enter evaluation mode."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever `mode` is: a parent's `.train()` calls this for all of its children."""
        return super().train(False)
