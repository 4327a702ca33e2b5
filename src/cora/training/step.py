"""One optimiser step: forward and backward passes of one or more batches, gradient clipping, update."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cora.errors import TrainingError
from cora.training.engine import Engine

Precision = Literal["32", "bf16", "16"]
#: If gradients overflow with a loss scale at or below this, the scale is not the cause.
LEAST_SCALE = 1.0


@dataclasses.dataclass(frozen=True)
class Step:
    """Result of a step.

    Attributes:
        losses: means over the batches of the step; "loss" is also the mean over all processes.
        grad_norm: norm of all gradients before clipping; infinite if float16 overflowed, which skips the update.
        finite: whether loss and gradient are finite; if not, the weights have not changed. An overflow of float16 that
            a smaller loss scale can prevent counts as finite.
        flags: the flags of `Stepper.step`, each true if it is true in any process.
    """

    losses: dict[str, float]
    grad_norm: float
    finite: bool
    flags: tuple[bool, ...]


class Stepper:
    """Runs optimiser steps.

    The loss of a step is the mean of the losses of its `accumulate` batches. For losses that are means over items, this
    equals the loss of one large batch. The localizer's losses are divided by the number of matched boxes of a batch
    instead, so a box in a batch with few boxes has more weight than in one large batch.

    Args:
        task: maps a batch to losses; "loss" is minimised.
        optimiser: over the trainable parameters.
        engine: of this process.
        grad_clip: largest norm of all gradients together; None for no clipping.
        accumulate: batches per step.
        precision: "32"; "bf16": forward pass in bfloat16 autocast; "16": in float16 autocast with dynamic loss scaling,
            on GPUs only. Weights, gradients and optimiser state stay in float32.

    Raises:
        TrainingError: `accumulate` below 1, an unknown precision, or "16" without a GPU.
    """

    def __init__(
        self,
        *,
        task: nn.Module,
        optimiser: Optimizer,
        engine: Engine,
        grad_clip: float | None,
        accumulate: int,
        precision: Precision,
    ) -> None:
        if accumulate < 1:
            raise TrainingError(f"accumulate: expected at least 1 batch a step, got {accumulate}")
        if precision not in ("32", "bf16", "16"):
            raise TrainingError(f"precision: expected 32, bf16 or 16, got {precision}")
        self.device = next((p.device for p in task.parameters()), torch.device("cpu"))
        if precision == "16" and self.device.type != "cuda":
            raise TrainingError(f"precision 16 needs a GPU, got the device {self.device}; take bf16 or 32")
        self.wrapped = engine.wrap(task)
        self.optimiser, self.engine, self.grad_clip, self.accumulate = optimiser, engine, grad_clip, accumulate
        self.parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        self.autocast = {"32": None, "bf16": torch.bfloat16, "16": torch.float16}[precision]
        self.scaler = torch.amp.GradScaler(self.device.type) if precision == "16" else None

    def step(self, batches: Iterable[Any], *, flags: Callable[[], tuple[bool, ...]] = tuple) -> Step:
        """Train on `accumulate` batches; `flags()` is called after each forward pass, and the last call counts."""
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        shared: tuple[bool, ...] = ()
        any_gradient, count = False, 0
        for count, batch in enumerate(batches, start=1):
            with self.engine.without_averaging(self.wrapped, enabled=count < self.accumulate):
                losses = self._forward(to_device(batch, self.device))
                numbers, has_gradient, shared = self._reduce(losses, flags())
                for name, value in numbers.items():
                    sums[name] = sums.get(name, 0.0) + value / self.accumulate
                if not math.isfinite(numbers["loss"]):
                    self.optimiser.zero_grad(set_to_none=True)
                    return Step(losses=numbers, grad_norm=math.nan, finite=False, flags=shared)
                any_gradient |= has_gradient
                self._backward(losses["loss"])
        if count != self.accumulate:
            raise TrainingError(f"expected {self.accumulate} batches for a step, the loader gave {count}")
        if not any_gradient:
            # No batch has a box to learn from: the step counts, but updates nothing.
            self.optimiser.zero_grad(set_to_none=True)
            return Step(losses=sums, grad_norm=0.0, finite=True, flags=shared)
        norm, finite = self._update()
        return Step(losses=sums, grad_norm=norm, finite=finite, flags=shared)

    def _forward(self, batch: Any) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            losses: dict[str, Tensor] = self.wrapped(batch)
        return losses

    def _reduce(
        self, losses: dict[str, Tensor], flags: tuple[bool, ...]
    ) -> tuple[dict[str, float], bool, tuple[bool, ...]]:
        """Losses as numbers ("loss" averaged over processes), whether any process has a gradient, and common flags."""
        loss = losses["loss"]
        values = [value.detach().float().mean() for value in losses.values()]
        # Only "loss" is averaged: processes may have different other losses, since a batch without boxes has fewer.
        signs = torch.tensor([float(loss.requires_grad), *map(float, flags)], device=loss.device)
        shared = self.engine.mean(torch.cat([loss.detach().float().reshape(1), signs]))
        numbers = torch.cat([shared, torch.stack(values)]).tolist()  # one transfer
        own = dict(zip(losses, numbers[len(shared) :], strict=True))
        return own | {"loss": numbers[0]}, numbers[1] > 0, tuple(sign > 0 for sign in numbers[2 : len(shared)])

    def _backward(self, loss: Tensor) -> None:
        if not loss.requires_grad:
            if self.engine.world == 1:
                return
            # The other processes wait for gradients of this one: give zeros.
            loss = loss + sum(0.0 * parameter.sum() for parameter in self.parameters)
        loss = loss / self.accumulate
        self.engine.backward(loss if self.scaler is None else self.scaler.scale(loss))

    def _update(self) -> tuple[float, bool]:
        """Clip and update. Norm of the gradient, and whether it was finite or may be so with a smaller loss scale."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimiser)
        bound = self.grad_clip if self.grad_clip is not None else math.inf
        norm = float(nn.utils.clip_grad_norm_(self.parameters, bound))
        if self.scaler is not None and (math.isfinite(norm) or self.scaler.get_scale() > LEAST_SCALE):
            self.scaler.step(self.optimiser)  # does nothing after an overflow
            self.scaler.update()
            return norm, True
        if not math.isfinite(norm):
            self.optimiser.zero_grad(set_to_none=True)
            return norm, False
        self.optimiser.step()
        return norm, True


def to_device(batch: Any, device: torch.device) -> Any:
    """Copy nested tuples, lists, dicts and dataclasses with every tensor on `device`."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = {f.name: to_device(getattr(batch, f.name), device) for f in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **fields)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
