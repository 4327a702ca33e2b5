"""Checkpoints of a run: weights, optimiser, schedule, moving average, random states and position."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cora.errors import TrainingError
from cora.files import write_whole
from cora.training.ema import Ema, load_trainable_state, trainable_state
from cora.training.engine import Engine


@dataclasses.dataclass
class Position:
    """Epoch and batch to train on next, and the number of optimiser steps taken."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


class RunState:
    """The state of a run and its checkpoints.

    Args:
        task: its trainable weights are saved.
        optimiser: over these weights.
        schedule: learning rate schedule of the optimiser.
        ema: moving average of the weights.
        scaler: loss scaler of float16 training.
        engine: of this process; the first process writes, including the random states of all processes.
    """

    def __init__(
        self,
        task: nn.Module,
        optimiser: Optimizer,
        schedule: LRScheduler,
        ema: Ema | None,
        *,
        scaler: torch.amp.GradScaler | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.task, self.optimiser, self.schedule, self.ema = task, optimiser, schedule, ema
        self.scaler, self.engine = scaler, engine or Engine()
        #: Highest value so far of the metric given to `is_best`.
        self.best: float | None = None

    def start(self, path: Path) -> Position:
        """Resume from a checkpoint; without one, seed this process and return the first position.

        Raises:
            TrainingError: the checkpoint is damaged or of another configuration.
        """
        if path.exists():
            return self.load(path)
        if self.engine.rank:
            # Processes start with equal random states, but need different dropout and noise.
            key = np.random.SeedSequence([torch.initial_seed() % 2**63, self.engine.rank])
            seed = int(key.generate_state(1)[0])
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
        return Position()

    def is_best(self, name: str, values: Mapping[str, float]) -> bool:
        """Whether the metric `name` is the highest so far, which is stored in `best`; False without any metrics.

        Raises:
            TrainingError: there are metrics, but none of this name.
        """
        if not values:
            return False
        if name not in values:
            raise TrainingError(
                f"best: expected a number that on_epoch_end returns, got {name!r}; there are: "
                f"{', '.join(sorted(values))}"
            )
        value = float(values[name])
        if math.isnan(value) or (self.best is not None and value <= self.best):
            return False
        self.best = value
        return True

    def save(self, path: Path, position: Position, random_state: dict[str, Any] | None = None) -> None:
        """Write a checkpoint atomically, with the current random state if None. All processes must call this."""
        random_states = self.engine.gather(random_state or capture_random_state())
        if not self.engine.is_main:
            return
        state = {
            "model": trainable_state(self.task),
            "optimiser": self.optimiser.state_dict(),
            "schedule": {k: v for k, v in self.schedule.state_dict().items() if k != "lr_lambdas"},
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "best": self.best,
            "random": random_states[0],
            "random_of_others": random_states[1:],
            "position": dataclasses.asdict(position),
        }
        write_whole(path, lambda file: torch.save(state, file), temporary=path.with_suffix(".part"), durable=True)

    def load(self, path: Path) -> Position:
        """Load a checkpoint and return its position.

        Raises:
            TrainingError: it is damaged, or of another configuration or number of processes.
        """
        state = _read_checkpoint(path)
        position = Position(**state["position"])
        random_states = [state["random"], *state.get("random_of_others", [])]
        if len(random_states) != self.engine.world and position.batch:
            raise TrainingError(
                f"{path} was saved inside an epoch by {len(random_states)} processes, now there are "
                f"{self.engine.world}; go on with as many"
            )
        load_trainable_state(self.task, state["model"], source=str(path))
        for key, name, part in (("ema", "moving average", self.ema), ("scaler", "loss scale", self.scaler)):
            if (state.get(key) is None) != (part is None):
                raise TrainingError(f"{path}: only one of the saved and this run has a {name}; use another folder")
            if part is not None:
                part.load_state_dict(state[key])
        try:
            self.optimiser.load_state_dict(state["optimiser"])
        except ValueError as error:
            raise TrainingError(f"{path} has another optimiser ({error}); use another run folder") from error
        self.schedule.load_state_dict(self.schedule.state_dict() | state["schedule"])
        self.best = state.get("best")
        if self.engine.rank < len(random_states):
            restore_random_state(random_states[self.engine.rank])
        return position


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
    """States of the random generators of torch (CPU and all GPUs), NumPy and Python, for a checkpoint."""
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
    """Restore what `capture_random_state` returned; states of GPUs only if their number is the same."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


#: Prefix of keys that describe another key; see `differing_setting`.
_ABOUT = "about "
#: Keys that run folders of earlier versions lack; they are then not compared.
_LATER = {"images", "about images", "classes", "regions", "context", "layers"}


def differing_setting(path: Path, config: Mapping[str, Any]) -> str | None:
    """Compare a configuration with the JSON file of an earlier run.

    A key "about KEY" is not compared: it describes in words what KEY, a hash, stands for.

    Returns:
        The first difference as "KEY was OLD, now NEW"; None if there is none.
    """
    before = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(dict(config)))
    for key in sorted(before.keys() | now.keys()):
        later = key in _LATER and key not in before
        if not later and not key.startswith(_ABOUT) and before.get(key) != now.get(key):
            return _difference(key, before, now)
    return None


def _difference(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The difference of a key in words, with its descriptions if it is a hash."""
    about = f"{_ABOUT}{key}"
    hashes = f"{key} was {before.get(key)}, now {now.get(key)}"
    if about not in before or about not in now:
        return hashes
    if before[about] == now[about]:
        return f"{hashes}: both have {now[about]}, but not the same ones"
    return f"{hashes}: before {before[about]}, now {now[about]}"
