"""A training small enough to be killed, repeated and split over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cora.training.ema import Ema
from cora.training.loop import TrainResult, train
from cora.training.optim import OptimizerConfig, ScheduleConfig, build_adamw, build_schedule

BATCHES = 5


class Regression(nn.Module):
    """Dropout and batch statistics: the run depends on the random state and on buffers."""

    def __init__(self, *, dropout: float = 0.3) -> None:
        super().__init__()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(dropout), nn.Linear(8, 1))

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        loss = (self.net(self.frozen(x))[:, 0] - y).square().mean()
        return {"loss": loss, "half": loss / 2}


class Batches:
    """Batches by (epoch, position); `act` is called before each with both and may spoil, stop or kill."""

    def __init__(self, *, act: Callable[[int, int, Tensor], Tensor] | None = None) -> None:
        self.act = act

    def __len__(self) -> int:
        return BATCHES

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for position in range(start, BATCHES):
            generator = torch.Generator().manual_seed(100 * epoch + position)
            x = torch.randn(6, 4, generator=generator)
            if self.act is not None:
                x = self.act(epoch, position, x)
            yield x, x.sum(dim=1)


def run(
    folder: Path, batches: Any, *, epochs: int = 3, decay: float = 0.9, **options: Any
) -> tuple[Regression, Ema, TrainResult]:
    """Train from the start or from where the folder left off."""
    torch.manual_seed(0)
    task = Regression()
    optimiser = build_adamw(task, OptimizerConfig(lr=1e-2))
    schedule = build_schedule(optimiser, ScheduleConfig(kind="cosine", warmup_steps=2, total_steps=15))
    ema = Ema(task, decay=decay)

    def measure(_epoch: int, module: nn.Module) -> Mapping[str, float]:
        return {"noise": float(torch.rand(())), "training": float(module.training)}

    settings = {"log_steps": 2, "on_epoch_end": measure, "config": {"decay": decay}, "tensorboard": False} | options
    result = train(task, batches, optimiser, schedule, epochs=epochs, run_dir=folder, ema=ema, **settings)
    return task, ema, result
