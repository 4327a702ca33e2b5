"""Activation checkpointing: layers forget what they computed and compute it again in the backward pass.

A layer then holds its inputs only, which costs one more forward pass and saves most of the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside the block every call of one of the layers is recomputed in the backward pass, wherever that runs.

    Gradients are those without it: dropout draws the same numbers again. The layers themselves stay what they
    are, so that parameter names, copies and saved files do not know of it.
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
