"""The training loop. It trains any task, a module that maps a batch to a dictionary of losses.

A resumed run gives the same weights as an uninterrupted one. A checkpoint holds the trainable weights, the optimiser,
the schedule, the moving average, the states of all random generators and the position in the epoch.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cora.console import stop_signal
from cora.errors import TrainingError
from cora.files import write_json
from cora.training.ema import Ema
from cora.training.engine import Engine, check_shared_folder
from cora.training.metrics import METRICS, Metrics
from cora.training.run_state import (
    Position,
    RunState,
    capture_random_state,
    differing_setting,
    restore_random_state,
)
from cora.training.step import Precision, Step, Stepper
from cora.training.terminal import bar, print_finished

__all__ = ["BEST", "CONFIG", "LAST", "METRICS", "NON_FINITE", "Loader", "TrainResult", "check_config", "train"]

logger = logging.getLogger(__name__)

LAST = "last.pt"
BEST = "best.pt"
NON_FINITE = "non_finite.pt"
CONFIG = "run.json"


class Loader(Protocol):
    """Batches by epoch and position; the same (epoch, position) always gives the same batch."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Any]:
        """Batches of an epoch, from batch number `start` on."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """Result of `train`: steps and finished epochs, those of earlier calls included, and whether it was interrupted."""

    steps: int
    epochs: int
    interrupted: bool


def train(
    task: nn.Module,
    loader: Loader,
    optimiser: Optimizer,
    schedule: LRScheduler,
    *,
    epochs: int,
    run_dir: Path,
    ema: Ema | None = None,
    grad_clip: float | None = 0.1,
    accumulate: int = 1,
    precision: Precision = "32",
    engine: Engine | None = None,
    checkpoint_steps: int | None = None,
    checkpoint_minutes: float | None = 10.0,
    log_steps: int = 20,
    on_epoch_end: Callable[[int, nn.Module], Mapping[str, float] | None] | None = None,
    best: str | None = None,
    config: Mapping[str, Any] | None = None,
    progress: bool = True,
    tensorboard: bool = True,
) -> TrainResult:
    """Train until `epochs` are done. Resumes if `run_dir` has a checkpoint.

    Writes the checkpoint `last.pt` (atomically), `metrics.jsonl` (one JSON object per line), the folder `tensorboard`
    and `run.json` (the config) to `run_dir`. After SIGINT (Ctrl-C) or SIGTERM it finishes the step, saves and returns
    with `interrupted`; a second signal stops at once. A killed run resumes from its last checkpoint.

    Args:
        task: maps a batch to losses; "loss" is minimised. On one device.
        loader: batches by epoch and position.
        optimiser: over the trainable parameters.
        schedule: its `step` is called after every optimiser step.
        epochs: number of epochs, those of earlier calls included.
        run_dir: run folder, made if missing; with several machines it must be on a disk that all of them share.
        ema: moving average of the weights, updated after every step and used in evaluation.
        grad_clip: largest norm of all gradients together; None for no clipping.
        accumulate: batches per optimiser step (`Stepper` says how this differs from one large batch). An epoch has
            len(loader) // accumulate steps; batches left over at its end are not used.
        precision: "32", or mixed precision "bf16" or "16" (GPUs only); weights stay in float32.
        engine: of this process, in distributed training (`cora.training.engine.launch`). Every process calls `train`
            with a task of equal weights and its share of the batches (`EpochLoader(rank=, world=)`). The first process
            writes files and evaluates; its metrics other than "loss" come from its share only.
        checkpoint_steps: steps between two checkpoints.
        checkpoint_minutes: minutes between two checkpoints. A checkpoint is also saved after every epoch.
        log_steps: steps over which the losses of a line of metrics are averaged.
        on_epoch_end: called with (epoch from 0, task in evaluation mode with averaged weights); returns metrics, or
            None if it did not evaluate.
        best: name of a metric of `on_epoch_end`; the state with its highest value is kept in `best.pt`.
        config: settings of the run; a run folder of another config is refused (see `check_config`).
        progress: show progress on stderr: a bar on a terminal, otherwise lines.
        tensorboard: write for TensorBoard.

    Raises:
        TrainingError: the loss or its gradient is not finite (the state before the step is saved to
            `non_finite.pt`), `run_dir` belongs to another configuration, or arguments contradict each other.
        MissingExtraError: `tensorboard` without the extra `train`.
    """
    engine = engine or Engine()
    _check(loader, engine, accumulate=accumulate, best=best, evaluates=on_epoch_end is not None)
    if engine.is_main:
        run_dir.mkdir(parents=True, exist_ok=True)
        check_config(run_dir, config)
        if config is not None and not (run_dir / CONFIG).exists():
            write_json(run_dir / CONFIG, dict(config))
    stepper = Stepper(
        task=task, optimiser=optimiser, engine=engine, grad_clip=grad_clip, accumulate=accumulate, precision=precision
    )
    engine.barrier()
    state = RunState(task, optimiser, schedule, ema, scaler=stepper.scaler, engine=engine)
    position = state.start(run_dir / LAST)
    check_shared_folder(engine, run_dir, dataclasses.astuple(position))
    if position.step:
        logger.info("going on in %s at epoch %d, step %d", run_dir, position.epoch, position.step)
    metrics = Metrics(run_dir, position.step, tensorboard=tensorboard, enabled=engine.is_main)
    last_save = time.monotonic()

    def save(name: str = LAST) -> None:
        nonlocal last_save
        state.save(run_dir / name, position)
        last_save = time.monotonic()

    def log() -> None:
        metrics.write(position, lr=float(optimiser.param_groups[0]["lr"]))

    total = epochs * (len(loader) // accumulate)
    if position.epoch >= epochs and progress and engine.is_main:
        print_finished(run_dir, position.step)
    show = progress and engine.is_main and position.epoch < epochs
    signals = (signal.SIGINT, signal.SIGTERM)
    with stop_signal(*signals) as stop, bar(show, total, position.step, title=f"training {run_dir.name}") as advance:

        def flags() -> tuple[bool, bool]:
            overdue = checkpoint_minutes is not None and time.monotonic() - last_save > 60 * checkpoint_minutes
            return stop.is_set(), overdue

        while position.epoch < epochs:
            task.train()
            batches = loader.epoch(position.epoch, start=position.batch)
            while len(loader) - position.batch >= accumulate:
                random_before = capture_random_state()
                step = stepper.step(islice(batches, accumulate), flags=flags)
                if not step.finite:
                    # The optimiser has not updated the weights.
                    state.save(run_dir / NON_FINITE, position, random_state=random_before)
                    raise _not_finite(step, position, run_dir / NON_FINITE)
                metrics.add(step.losses | ({"grad_norm": step.grad_norm} if math.isfinite(step.grad_norm) else {}))
                schedule.step()
                if ema is not None:
                    ema.update(task)
                position.step += 1
                position.batch += accumulate
                advance(step.losses["loss"])
                stopping, overdue = step.flags
                if stopping or position.step % log_steps == 0:
                    log()
                if stopping:
                    save()
                    metrics.close()
                    logger.warning("interrupted at step %d, saved to %s", position.step, run_dir / LAST)
                    return TrainResult(steps=position.step, epochs=position.epoch, interrupted=True)
                if overdue or (checkpoint_steps is not None and position.step % checkpoint_steps == 0):
                    save()
            log()
            values: Mapping[str, float] = {}
            if on_epoch_end is not None and engine.is_main:
                values = _evaluate(task, ema, position.epoch, on_epoch_end)
                if values:
                    metrics.write_evaluation(position, values)
            position.epoch, position.batch = position.epoch + 1, 0
            # Empty if this epoch was not evaluated.
            shared = engine.broadcast(dict(values)) if best is not None else {}
            if best is not None and shared and state.is_best(best, shared):
                save(BEST)
            save()
    metrics.close()
    return TrainResult(steps=position.step, epochs=position.epoch, interrupted=False)


def _evaluate(
    task: nn.Module,
    ema: Ema | None,
    epoch: int,
    on_epoch_end: Callable[[int, nn.Module], Mapping[str, float] | None],
) -> Mapping[str, float]:
    random_before = capture_random_state()
    task.eval()
    with torch.no_grad(), ema.swapped(task) if ema is not None else nullcontext():
        values = on_epoch_end(epoch, task)
    task.train()
    restore_random_state(random_before)
    return values or {}


def _not_finite(step: Step, position: Position, path: Path) -> TrainingError:
    loss = step.losses["loss"]
    return TrainingError(
        f"expected a finite loss and gradient, got {step.grad_norm if math.isfinite(loss) else loss} at step "
        f"{position.step} (epoch {position.epoch}, batch {position.batch}); the state before it is in {path}; lower "
        f"the learning rate or look at that batch"
    )


def _check(loader: Loader, engine: Engine, *, accumulate: int, best: str | None, evaluates: bool) -> None:
    if len(loader) < accumulate:
        raise TrainingError(
            f"expected at least {accumulate} batches an epoch to accumulate, got {len(loader)}; take smaller batches"
        )
    shares = getattr(loader, "rank", engine.rank), getattr(loader, "world", engine.world)
    if shares != (engine.rank, engine.world):
        raise TrainingError(
            f"expected a loader for process {engine.rank} of {engine.world}, got one for {shares[0]} of {shares[1]}; "
            f"make it with rank=engine.rank, world=engine.world"
        )
    if best is not None and not evaluates:
        raise TrainingError(f"best={best!r} needs on_epoch_end, which measures it; got none")


def check_config(run_dir: Path, config: Mapping[str, Any] | None) -> None:
    """Check that a run folder was started with this configuration, if it was started; writes nothing.

    A key "about KEY" is not compared: it describes in words what KEY, a hash, stands for.

    Raises:
        TrainingError: it was started with another one; the message has the first difference.
    """
    path = run_dir / CONFIG
    if config is None or not path.exists():
        return
    if differing := differing_setting(path, config):
        raise TrainingError(f"{run_dir} is a run of another configuration: {differing}; use another run folder")
