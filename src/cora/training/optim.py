"""AdamW with learning rates by parameter name, and learning rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cora.errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Settings of AdamW; the defaults are those of the published training.

    Attributes:
        lr: base learning rate.
        weight_decay: decoupled weight decay.
        lr_factors: prefix of parameter names -> factor on `lr`; the longest matching prefix applies.
        betas: decay rates of the two moments.
        decay_vectors: also apply weight decay to biases and norm weights.
    """

    lr: float = 1e-4
    weight_decay: float = 1e-4
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.999)
    decay_vectors: bool = True

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0 or any(f <= 0 for f in self.lr_factors.values()):
            raise TrainingError(
                f"expected lr > 0, weight_decay >= 0 and lr_factors > 0, got {self.lr}, {self.weight_decay}, "
                f"{dict(self.lr_factors)}; freeze parameters instead of giving them the rate 0"
            )


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Factor on the learning rate over optimiser steps.

    Attributes:
        kind: "constant"; "step": multiplied by `gamma` at every milestone; "cosine": falls to `final_factor` at
            `total_steps`.
        warmup_steps: steps of linear warm-up from 0.
        total_steps: steps of the whole run, warm-up included; for "cosine".
        milestones: steps at which the rate changes; for "step".
        gamma: factor at each milestone; for "step".
        final_factor: factor at the end; for "cosine".
    """

    kind: Literal["constant", "step", "cosine"] = "constant"
    warmup_steps: int = 0
    total_steps: int = 0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        if self.kind == "cosine" and self.total_steps <= self.warmup_steps:
            raise TrainingError(
                f"a cosine schedule needs total_steps > warmup_steps, got {self.total_steps} and {self.warmup_steps}"
            )
        if self.kind == "step" and not self.milestones:
            raise TrainingError("a step schedule needs milestones, got none")

    def factor(self, step: int) -> float:
        """Factor for optimiser step number `step` (from 0)."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.kind == "step":
            return self.gamma ** sum(step >= milestone for milestone in self.milestones)
        if self.kind == "cosine":
            progress = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
            return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * progress)) / 2
        return 1.0


def build_adamw(module: nn.Module, config: OptimizerConfig) -> AdamW:
    """AdamW over the trainable parameters of `module`, with a parameter group for each (learning rate, weight decay).

    Raises:
        TrainingError: nothing is trainable, or a prefix of `lr_factors` matches no trainable parameter.
    """
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not named:
        raise TrainingError("expected trainable parameters, got none: everything is frozen")
    unmatched = [prefix for prefix in config.lr_factors if not any(name.startswith(prefix) for name, _ in named)]
    if unmatched:
        raise TrainingError(f"lr_factors: no trainable parameter begins with {', '.join(unmatched)}")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        prefixes = [prefix for prefix in config.lr_factors if name.startswith(prefix)]
        factor = config.lr_factors[max(prefixes, key=len)] if prefixes else 1.0
        decay = config.weight_decay if config.decay_vectors or parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "lr": config.lr * factor, "weight_decay": decay}
            for (factor, decay), parameters in groups.items()
        ],
        betas=config.betas,
    )


def build_schedule(optimiser: Optimizer, config: ScheduleConfig) -> LambdaLR:
    """Learning rate schedule; call its `step` after every optimiser step."""
    factor: Callable[[int], float] = config.factor
    # A lambda, since LambdaLR would store the attributes of a callable object in its state.
    return LambdaLR(optimiser, lambda step: factor(step))
