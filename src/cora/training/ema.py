"""Exponential moving average of the trainable weights, used for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cora.errors import TrainingError


def trainable_state(module: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters and the persistent buffers of the modules that own them, by name.

    The tensors are not copied. Frozen parts are left out, since they are loaded from the weights of their model.
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
        TrainingError: names or shapes differ.
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

    After n updates d = min(decay, (1 + n) / (10 + n)), so that the initial weights do not dominate short runs.

    Args:
        module: its trainable weights are averaged; tensors that are not floating point are copied.
        decay: upper limit of d, 0..1 (1 excluded); 0.99996 in the published training.
        warmup: let d rise as above; otherwise d = decay from the start.
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
        own = {name: tensor.clone() for name, tensor in trainable_state(module).items()}
        self.apply_to(module)
        try:
            yield
        finally:
            load_trainable_state(module, own, source="the kept weights")

    def state_dict(self) -> dict[str, object]:
        """Shadow weights and the number of updates."""
        return {"shadow": self.shadow, "updates": self.updates}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Load a saved state of the same module.

        Raises:
            TrainingError: the state is of another module.
        """
        shadow, updates = state["shadow"], state["updates"]
        if not isinstance(shadow, dict) or not isinstance(updates, int) or shadow.keys() != self.shadow.keys():
            raise TrainingError("the saved moving average is of another configuration; use another run folder")
        for name, tensor in self.shadow.items():
            tensor.copy_(shadow[name])
        self.updates = updates


@torch.no_grad()
def interpolate_weights(task: nn.Module, start: Mapping[str, Tensor], *, share: float) -> None:
    """Set floating-point weights to share * start + (1 - share) * trained, share in 0..1 (see `Stage.keep`)."""
    if share:
        trained = task.state_dict()
        for name, value in start.items():
            if value.is_floating_point():
                trained[name].lerp_(value, share)
