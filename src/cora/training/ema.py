"""Exponential moving average of the trainable weights, used for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cora.errors import TrainingError


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that require a gradient and the buffers beside them, by name.

    They are the module's own tensors, no copies. Frozen towers are left out: they are rebuilt from their own weights.
    """
    state: dict[str, Tensor] = {}
    for prefix, part in module.named_modules():
        own = {name: parameter for name, parameter in part.named_parameters(recurse=False) if parameter.requires_grad}
        if not own:
            continue
        saved = part.state_dict(keep_vars=True).keys()
        own_buffers = {name: buffer for name, buffer in part.named_buffers(recurse=False) if name in saved}
        state |= {f"{prefix}.{name}" if prefix else name: t.detach() for name, t in (own | own_buffers).items()}
    return state


@torch.no_grad()
def load_trainable_state(module: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Copy a saved `trainable_state` into a module.

    Raises:
        TrainingError: names or shapes differ, the module is of another configuration.
    """
    own = trainable_state(module)
    missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or unknown:
        raise TrainingError(
            f"{source} is of another configuration: {len(missing)} tensors missing, {len(unknown)} unknown "
            f"(such as {sorted(missing | unknown)[0]}); use another run folder"
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise TrainingError(
                f"{source} is of another configuration: {name} has shape {list(state[name].shape)}, expected "
                f"{list(tensor.shape)}; use another run folder"
            )
        tensor.copy_(state[name])


class Ema:
    """Shadow weights: shadow <- d * shadow + (1 - d) * weights after every optimiser step.

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that the random start does not dominate short runs.

    Args:
        module: whose trainable weights are averaged; tensors that are not floating point are copied.
        decay: limit of d, 0.99996 in the published training.
        warmup: use the rising d above; otherwise d = decay from the start.
    """

    def __init__(self, module: nn.Module, *, decay: float = 0.99996, warmup: bool = True) -> None:
        if not 0.0 <= decay < 1.0:
            raise TrainingError(f"EMA decay must lie in 0..1 (1 excluded), got {decay}")
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.shadow = {name: tensor.clone() for name, tensor in trainable_state(module).items()}

    def current_decay(self) -> float:
        """Decay d of the next update."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the shadow towards the module's weights."""
        decay = self.current_decay()
        for name, tensor in trainable_state(module).items():
            if tensor.is_floating_point():
                self.shadow[name].lerp_(tensor, 1.0 - decay)
            else:
                self.shadow[name].copy_(tensor)
        self.updates += 1

    def apply_to(self, module: nn.Module) -> None:
        """Copy the averaged weights into the module."""
        load_trainable_state(module, self.shadow, source="the moving average")

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[None]:
        """Inside the block the module has the averaged weights; after it, its own again."""
        kept = {name: tensor.clone() for name, tensor in trainable_state(module).items()}
        self.apply_to(module)
        try:
            yield
        finally:
            load_trainable_state(module, kept, source="the kept weights")

    def state_dict(self) -> dict[str, object]:
        """Shadow weights and the number of updates."""
        return {"shadow": self.shadow, "updates": self.updates}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from a saved state of the same module.

        Raises:
            TrainingError: the state belongs to other weights.
        """
        shadow, updates = state["shadow"], state["updates"]
        if not isinstance(shadow, dict) or not isinstance(updates, int) or shadow.keys() != self.shadow.keys():
            raise TrainingError("the saved moving average is of another configuration; use another run folder")
        for name, tensor in self.shadow.items():
            tensor.copy_(shadow[name])
        self.updates = updates


@torch.no_grad()
def move_back(task: nn.Module, start: Mapping[str, Tensor], *, share: float) -> None:
    """Move the tensors of a task towards where they started, by a share 0..1 of the way; counters stay."""
    if share:
        now = task.state_dict()
        for name, value in start.items():
            if value.is_floating_point():
                now[name].lerp_(value, share)
