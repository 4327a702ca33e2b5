"""Trainings that run alone or in several processes, for `test_engine`: functions that a new process can import."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from cora.data.feature_cache import CachedItem, collate_features
from cora.data.loader import EpochLoader
from cora.detector import Detector
from cora.errors import DataError
from cora.regions import Vocabulary
from cora.structures import Targets
from cora.training.ema import Ema, trainable_state
from cora.training.engine import Engine
from cora.training.localizer_task import LocalizerTask, LocalizerTaskConfig
from cora.training.loop import TrainResult, train
from cora.training.optim import OptimizerConfig, ScheduleConfig, build_adamw, build_schedule
from tests import toys

#: Items of a global batch; processes share them.
BATCH = 4


class Points:
    """Item i of an epoch: a point and its value. Those of `silent` have nothing to learn from."""

    silent = (1, 2, 5, 6, 9)

    def __len__(self) -> int:
        return 19

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        x = torch.randn(4, generator=torch.Generator().manual_seed(1000 * epoch + index))
        return x, torch.tensor(float("nan")) if index in self.silent else x.sum()


class Regression(nn.Module):
    """Sum of squares over the points that have a value, divided by the number of points."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))

    def forward(self, batch: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        x, y = (torch.stack([item[side] for item in batch]) for side in (0, 1))
        known = y.isfinite()
        if not known.any():
            return {"loss": torch.zeros(())}
        loss = (self.net(x[known])[:, 0] - y[known]).square().sum() / len(batch)
        return {"loss": loss, "known": known.float().mean()}


class Maps:
    """Random maps of a frozen tower with boxes, none in every fourth."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, key: tuple[int, int]) -> CachedItem:
        random = torch.Generator().manual_seed(key[1])
        count = key[1] % 4
        centres = 0.3 + 0.4 * torch.rand(count, 2, generator=random)
        sides = 0.2 + 0.3 * torch.rand(count, 2, generator=random)
        targets = Targets(
            boxes_cxcywh=torch.cat([centres, sides], dim=1), classes=torch.randint(5, (count,), generator=random)
        )
        c3, c4 = (torch.randn(size, generator=random) for size in ((64, 6, 6), (128, 3, 3)))
        return CachedItem(c3=c3, c4=c4, targets=targets)


def localizer_task(cache_dir: Path) -> LocalizerTask:
    config = toys.toy_config(
        tower={"width": 4, "context_length": 8, "vocab_size": 600},
        localizer={"dec_layers": 2, "num_queries": 12, "dropout": 0.0},
    )
    detector = Detector.build(config, cache_dir=cache_dir)
    names = tuple(f"class {i}" for i in range(5))
    vocabulary = Vocabulary(names, nn.functional.normalize(torch.randn(5, 16), dim=-1))
    return LocalizerTask(detector=detector, vocabulary=vocabulary, config=LocalizerTaskConfig(class_dropout=0.5))


def fit(engine: Engine, task: nn.Module, folder: Path, *, loader: Any, epochs: int = 2, **options: Any) -> TrainResult:
    """Train with every part that a run has; the first process leaves its weights in `weights.pt`."""
    optimiser: Optimizer = build_adamw(task, OptimizerConfig(lr=1e-3))
    if isinstance(task, LocalizerTask):
        # AdamW divides by the gradient's size, also where that is nothing but rounding.
        optimiser = SGD([p for p in task.parameters() if p.requires_grad], lr=0.1)
    schedule = build_schedule(optimiser, ScheduleConfig())
    ema = Ema(task, decay=0.9)
    options |= {"tensorboard": False, "progress": False, "log_steps": 1}
    result = train(task, loader, optimiser, schedule, epochs=epochs, run_dir=folder, ema=ema, engine=engine, **options)
    if engine.is_main:
        torch.save({"model": trainable_state(task), "ema": ema.shadow}, folder / "weights.pt")
    return result


def points(engine: Engine, folder: Path, *, dropout: float = 0.0, act: Any = None, **options: Any) -> TrainResult:
    torch.manual_seed(0)
    loader: Any = share(Points(), engine, collate=list)
    return fit(engine, Regression(dropout=dropout), folder, loader=Acting(loader, act) if act else loader, **options)


def maps(engine: Engine, folder: Path) -> TrainResult:
    torch.manual_seed(0)
    return fit(engine, localizer_task(folder), folder, loader=share(Maps(), engine, collate=collate_features))


def share(dataset: Any, engine: Engine, *, collate: Any) -> EpochLoader[Any]:
    batch = BATCH // engine.world
    return EpochLoader(dataset=dataset, batch_size=batch, collate=collate, rank=engine.rank, world=engine.world)


class Acting:
    """A loader that does something before the batches that `act` knows."""

    def __init__(self, loader: EpochLoader[Any], act: Callable[[int, int], None]) -> None:
        self.loader, self.act = loader, act

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Any]:
        for position, batch in enumerate(self.loader.epoch(epoch, start=start), start=start):
            self.act(epoch, position)
            yield batch


def stop_second(rank: int, epoch: int, position: int) -> None:
    """Ctrl-C for one of the processes."""
    if (rank, epoch, position) == (1, 1, 1):
        os.kill(os.getpid(), signal.SIGINT)


def together(folder: Path, engine: Engine) -> dict[str, Any]:
    """Everything that is compared, so that processes are started only once."""
    found: dict[str, Any] = {"world": engine.world, "ranks": engine.gather(engine.rank)}
    found["collected"] = engine.gather(engine.collect(engine.rank))
    points(engine, folder / "points")
    points(engine, folder / "accumulated", accumulate=2)
    maps(engine, folder / "maps")
    points(engine, folder / "whole", dropout=0.5)
    stopped = points(engine, folder / "parts", dropout=0.5, act=partial(stop_second, engine.rank))
    points(engine, folder / "parts", dropout=0.5)
    found["stopped"] = engine.gather((stopped.steps, stopped.interrupted))
    found["random"] = engine.gather(float(torch.rand(())))
    return found


def fail(end: str, engine: Engine) -> None:
    """The second process ends before its time; the first waits for it."""
    if engine.rank == 1:
        if end == "raise":
            raise DataError("no image here")
        if end == "disk":
            Path("nowhere.png").read_bytes()
        os.kill(os.getpid(), signal.SIGKILL)
    engine.barrier()
