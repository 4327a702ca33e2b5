"""The training loop. It knows no detection: a task is a module from a batch to a dict of losses.

An interrupted run that goes on gives the weights of an uninterrupted one: a checkpoint holds the trainable
weights, optimiser, schedule, moving average, the states of all random generators and the position in the
epoch.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cora.errors import TrainingError
from cora.training.ema import Ema
from cora.training.run_state import Position, RunState, capture_random_state, restore_random_state

logger = logging.getLogger(__name__)

LAST = "last.pt"
NON_FINITE = "non_finite.pt"
METRICS = "metrics.jsonl"
CONFIG = "run.json"


class Loader(Protocol):
    """Batches by epoch and position; the same (epoch, position) always gives the same batch."""

    def __len__(self) -> int:
        """Batches an epoch."""
        ...

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Any]:
        """Batches of an epoch from number `start` on."""
        ...


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a call of `train` ended: steps taken and epochs completed in all, and if it was interrupted."""

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
    checkpoint_steps: int | None = None,
    checkpoint_minutes: float | None = 10.0,
    log_steps: int = 20,
    on_epoch_end: Callable[[int, nn.Module], Mapping[str, float] | None] | None = None,
    config: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train to the end of `epochs`, from the start or from where `run_dir` left off.

    Writes `last.pt` (atomically), `metrics.jsonl` (one JSON object a line) and `run.json` (the config) to
    `run_dir`. SIGINT (Ctrl-C) and SIGTERM finish the step, save and return with `interrupted`; a second one
    stops at once.

    Args:
        task: batch -> losses, of which "loss" is minimised; lives on one device.
        loader: batches by epoch and position.
        optimiser: over the trainable parameters.
        schedule: advanced after every step.
        epochs: epochs in all, those of earlier calls included.
        run_dir: made if missing.
        ema: moving average, updated after every step.
        grad_clip: bound on the norm of all gradients together; None for no bound.
        checkpoint_steps: save whenever this many steps have passed.
        checkpoint_minutes: save whenever this much time has passed. Every epoch end is saved in any case.
        log_steps: average the losses over this many steps for a line of metrics.
        on_epoch_end: (epoch from 0, task in evaluation mode with averaged weights) -> numbers for the
            metrics.
        config: what the run is made of; a run folder of another config is refused.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        TrainingError: the loss or its gradient is not finite (the state before the step is saved to
            `non_finite.pt`), or `run_dir` belongs to another configuration.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    _check_config(run_dir / CONFIG, config)
    parts = RunState(task, optimiser, schedule, ema)
    position = parts.load(run_dir / LAST) if (run_dir / LAST).exists() else Position()
    metrics = _Metrics(run_dir / METRICS, position.step)
    if position.step:
        logger.info("going on in %s at epoch %d, step %d", run_dir, position.epoch, position.step)
    device = next((p.device for p in task.parameters()), torch.device("cpu"))
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    last_save = time.monotonic()

    def save() -> None:
        nonlocal last_save
        parts.save(run_dir / LAST, position)
        last_save = time.monotonic()

    with _stop_signal() as stop, _bar(progress, epochs * len(loader), position.step) as advance:
        while position.epoch < epochs:
            task.train()
            for batch in loader.epoch(position.epoch, start=position.batch):
                random_before = capture_random_state()
                losses, grad_norm = _step(task, optimiser, parameters, _to_device(batch, device), grad_clip)
                if losses is None:
                    # The optimiser has not moved: weights are those of before.
                    path = run_dir / NON_FINITE
                    parts.save(path, position, random_state=random_before)
                    raise TrainingError(
                        f"expected a finite loss and gradient, got {grad_norm} at step {position.step} "
                        f"(epoch {position.epoch}, batch {position.batch}); the state before it is in "
                        f"{path}; lower the learning rate or look at that batch"
                    )
                metrics.add({"grad_norm": grad_norm, **losses})
                schedule.step()
                if ema is not None:
                    ema.update(task)
                position.step += 1
                position.batch += 1
                advance(losses["loss"])
                if position.step % log_steps == 0:
                    metrics.write(position, lr=float(optimiser.param_groups[0]["lr"]))
                if stop.is_set():
                    metrics.write(position, lr=float(optimiser.param_groups[0]["lr"]))
                    save()
                    logger.warning("interrupted at step %d, saved to %s", position.step, run_dir / LAST)
                    return TrainResult(steps=position.step, epochs=position.epoch, interrupted=True)
                due_steps = checkpoint_steps is not None and position.step % checkpoint_steps == 0
                due_time = checkpoint_minutes is not None and time.monotonic() - last_save > 60 * checkpoint_minutes
                if due_steps or due_time:
                    save()
            metrics.write(position, lr=float(optimiser.param_groups[0]["lr"]))
            if on_epoch_end is not None:
                values = _evaluate(task, ema, position.epoch, on_epoch_end)
                metrics.append({"step": position.step, "epoch": position.epoch, "evaluation": dict(values)})
            position.epoch, position.batch = position.epoch + 1, 0
            save()
    return TrainResult(steps=position.step, epochs=position.epoch, interrupted=False)


def _step(
    task: nn.Module,
    optimiser: Optimizer,
    parameters: list[nn.Parameter],
    batch: Any,
    grad_clip: float | None,
) -> tuple[dict[str, float] | None, float]:
    """One step: (losses, gradient norm), or (None, the value that is not finite) with nothing changed."""
    optimiser.zero_grad(set_to_none=True)
    losses: dict[str, Tensor] = task(batch)
    values = torch.stack([loss.detach().float().mean() for loss in losses.values()]).tolist()  # one transfer
    numbers = dict(zip(losses, values, strict=True))
    if not np.isfinite(numbers["loss"]):
        return None, numbers["loss"]
    if not losses["loss"].requires_grad:
        # A batch without any box to learn from: the step is empty, but counts.
        return numbers, 0.0
    losses["loss"].backward()
    norm = float(nn.utils.clip_grad_norm_(parameters, grad_clip if grad_clip is not None else float("inf")))
    if not np.isfinite(norm):
        optimiser.zero_grad(set_to_none=True)
        return None, norm
    optimiser.step()
    return numbers, norm


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


class _Metrics:
    """Means over windows of steps, a JSON line each; lines of steps that a resumed run repeats go."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.sums: dict[str, float] = {}
        self.count = 0
        self.started = time.monotonic()
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            temporary = path.with_suffix(".part")
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            os.replace(temporary, path)

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def write(self, position: Position, *, lr: float) -> None:
        if self.count:
            seconds = (time.monotonic() - self.started) / self.count
            means = {name: total / self.count for name, total in self.sums.items()}
            line = {
                "step": position.step,
                "epoch": position.epoch,
                "lr": lr,
                "seconds_a_step": round(seconds, 4),
            }
            self.append(line | means)
        self.sums, self.count, self.started = {}, 0, time.monotonic()

    def append(self, content: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut off by a crash


def _check_config(path: Path, config: Mapping[str, Any] | None) -> None:
    if config is None:
        return
    content = json.loads(json.dumps(dict(config)))
    if path.exists():
        existing = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(k for k in existing.keys() | content.keys() if existing.get(k) != content.get(k))
        if differing:
            key = differing[0]
            raise TrainingError(
                f"{path.parent} is a run of another configuration: {key} was {existing.get(key)}, now "
                f"{content.get(key)}; use another run folder"
            )
    else:
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor of nested tuples, lists, dicts and dataclasses."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = {f.name: _to_device(getattr(batch, f.name), device) for f in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **fields)
    if isinstance(batch, dict):
        return {key: _to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_to_device(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(_to_device(value, device) for value in batch)
    return batch


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event set by the first SIGINT or SIGTERM; the second acts as usual. Main thread only."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, former[signal.Signals(number)])

    for number in former:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _bar(show: bool, total: int, done: int) -> Iterator[Callable[[float], None]]:
    console = Console(stderr=True)
    if not (show and console.is_terminal):
        yield lambda _loss: None
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=total, completed=done, loss=float("nan"))

        def advance(loss: float) -> None:
            progress.update(bar, advance=1, loss=loss)

        yield advance
