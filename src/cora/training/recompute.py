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
    """Inside the block, the backward pass recomputes the activations of these layers.

    The gradients do not change, since dropout draws the same numbers again. Parameter names and saved files do not
    change either.
    """
    patched = list(layers)
    for layer in patched:
        # An instance attribute hides the class's method until it is deleted.
        vars(layer)["forward"] = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in patched:
            del vars(layer)["forward"]
