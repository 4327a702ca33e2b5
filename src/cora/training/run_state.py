"""What a checkpoint of a run holds: weights, optimiser, schedule, moving average, random states, position."""

from __future__ import annotations

import dataclasses
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cora.errors import TrainingError
from cora.training.ema import Ema, load_trainable_state, trainable_state


@dataclasses.dataclass
class Position:
    """Next batch to train on and how many steps were taken."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


class RunState:
    """Everything whose state a run consists of."""

    def __init__(self, task: nn.Module, optimiser: Optimizer, schedule: LRScheduler, ema: Ema | None) -> None:
        self.task, self.optimiser, self.schedule, self.ema = task, optimiser, schedule, ema

    def save(self, path: Path, position: Position, random_state: dict[str, Any] | None = None) -> None:
        state = {
            "model": trainable_state(self.task),
            "optimiser": self.optimiser.state_dict(),
            "schedule": {k: v for k, v in self.schedule.state_dict().items() if k != "lr_lambdas"},
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "random": random_state or capture_random_state(),
            "position": dataclasses.asdict(position),
        }
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def load(self, path: Path) -> Position:
        state = _read_checkpoint(path)
        load_trainable_state(self.task, state["model"], source=str(path))
        if (state["ema"] is None) != (self.ema is None):
            raise TrainingError(f"{path}: only one of the saved and this run has a moving average; use another folder")
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        try:
            self.optimiser.load_state_dict(state["optimiser"])
        except ValueError as error:
            raise TrainingError(f"{path} has another optimiser ({error}); use another run folder") from error
        self.schedule.load_state_dict(self.schedule.state_dict() | state["schedule"])
        restore_random_state(state["random"])
        return Position(**state["position"])


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainingError(f"no checkpoint at {path}") from error
    except Exception as error:  # torch raises many kinds for damaged files
        raise TrainingError(f"{path} cannot be read as a checkpoint ({error}); delete it to start anew") from error
    if not isinstance(state, dict) or not {"model", "ema", "position"} <= state.keys():
        raise TrainingError(f"{path} is no checkpoint of a training run; expected model, ema and position in it")
    return state


def capture_random_state() -> dict[str, Any]:
    name, keys, pos, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(pos),
            int(has_gauss),
            float(cached),
        ),
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def load_weights(path: Path, task: nn.Module, *, averaged: bool = True) -> None:
    """Load the trainable weights of a checkpoint that `train` wrote, the averaged ones if there are any.

    Raises:
        TrainingError: no checkpoint, or one of another configuration.
    """
    state = _read_checkpoint(path)
    weights = state["ema"]["shadow"] if averaged and state["ema"] is not None else state["model"]
    load_trainable_state(task, weights, source=str(path))
