"""What frozen means: no gradient for any parameter, evaluation mode whatever `.train()` says."""

from __future__ import annotations

from typing import Self

from torch import nn


class FrozenModule(nn.Module):
    """A module that stays bit-identical through any training step.

    Batch statistics are never updated, dropout never applied. Gradients still pass through to the inputs.
    """

    def freeze(self) -> Self:
        """Switch off the gradients of all parameters and enter evaluation mode."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode; `mode` is accepted because parents call this on all of their children."""
        return super().train(False)
