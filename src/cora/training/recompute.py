"""Activation checkpointing: layers keep only their inputs and recompute the rest in the backward pass.

This costs one more forward pass and saves most of the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside the block every call of one of the layers is recomputed in the backward pass.

    The gradients are the same: dropout draws the same numbers again. Parameter names, copies and saved files do not
    change.
    """
    changed = list(layers)
    for layer in changed:
        # An instance attribute hides the method of the class until it is deleted.
        vars(layer)["forward"] = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in changed:
            del vars(layer)["forward"]
