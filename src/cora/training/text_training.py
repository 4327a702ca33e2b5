"""Trains a text task on region embeddings. It takes seconds to minutes, since no images are encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor

from cora.data.class_split import ClassSplit
from cora.detector import Detector
from cora.errors import TrainingError
from cora.names import names_without
from cora.regions import EVERYDAY_NAMES
from cora.training.loop import TrainResult, train
from cora.training.optim import OptimizerConfig, ScheduleConfig, build_adamw, build_schedule
from cora.training.region_embeddings import RegionEmbeddings, RegionLoader
from cora.training.text_task import ContextTask, OffsetsTask, TextTask, TextTowerTask

Method = Literal["context", "offsets", "tower"]
METHODS: tuple[Method, ...] = ("context", "offsets", "tower")


@dataclass(frozen=True, kw_only=True)
class TextTrainConfig:
    """Settings of the training of a text task.

    Attributes:
        epochs: passes over the regions.
        batch_size: regions per step.
        lr: learning rate of AdamW; a cosine schedule lowers it to a hundredth.
        weight_decay: pulls offsets to zero. For a context or a tower it should be 0, since zero is not their start.
        keep: weight of the loss that keeps embeddings near the hand-written ones.
        balance: 0..1, classes have the loss weight count^-balance; with 0 all boxes have the same weight.
        seed: of the order of the regions.
    """

    epochs: int = 30
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.0
    keep: float = 1.0
    balance: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.keep < 0 or not 0 <= self.balance <= 1:
            raise TrainingError(
                "expected epochs >= 1, batch_size >= 1, keep >= 0 and balance in 0..1, got "
                f"{self.epochs}, {self.batch_size}, {self.keep} and {self.balance}"
            )


#: Chosen on base classes only, with some of them held out (benchmarks/text_side.py --held-out). With a small `keep`,
#: offsets and a tower gain most on the trained classes and lose as much on others; a context hardly does either.
DEFAULTS: dict[Method, TextTrainConfig] = {
    "context": TextTrainConfig(epochs=20, lr=2e-3, keep=1.0),
    "offsets": TextTrainConfig(epochs=30, lr=1e-3, keep=1000.0, weight_decay=1e-2),
    "tower": TextTrainConfig(epochs=20, lr=1e-4, keep=1000.0),
}


def build_text_task(
    method: Method,
    *,
    detector: Detector,
    data: RegionEmbeddings,
    kept_names: tuple[str, ...],
    config: TextTrainConfig,
    context: str | None = None,
    layers: int = 1,
) -> TextTask:
    """Build the task of a method for the classes of `data`.

    Raises:
        TrainingError: an unknown method, the detector has learned text already, or its text tower has fewer layers.
    """
    tasks: dict[Method, Callable[..., TextTask]] = {
        "context": partial(ContextTask, context=context),
        "offsets": OffsetsTask,
        "tower": partial(TextTowerTask, layers=layers),
    }
    if method not in tasks:
        raise TrainingError(f"method: expected one of {', '.join(tasks)}, got {method!r}")
    return tasks[method](
        detector=detector,
        names=data.class_names,
        kept_names=kept_names,
        keep=config.keep,
        loss_weights=class_balance(data.class_counts(), config.balance).to(detector.device),
    )


def class_balance(counts: Tensor, power: float) -> Tensor:
    """Loss weight of each class, count^-power with a mean of 1 over the classes that have boxes: [C] to [C]."""
    weights = counts.clamp(min=1).float() ** -power
    present = counts > 0
    return weights / weights[present].mean() if bool(present.any()) else weights


def train_text(
    task: TextTask,
    data: RegionEmbeddings,
    config: TextTrainConfig,
    run_dir: Path,
    *,
    built: Mapping[str, Any] = MappingProxyType({}),
) -> TrainResult:
    """Train a text task. Metrics and checkpoints go to `run_dir`, from which a stopped run resumes.

    Args:
        task: from `build_text_task`.
        data: the boxes to learn from.
        config: settings of the training.
        run_dir: folder of the run.
        built: settings that the task was built with; a run with others is not resumed.

    Raises:
        TrainingError: the loss is not finite, or `run_dir` belongs to another run.
        DataError: there is no box to learn from.
    """
    loader = RegionLoader(data=data, batch_size=config.batch_size, seed=config.seed)
    optimiser = build_adamw(task, OptimizerConfig(lr=config.lr, weight_decay=config.weight_decay))
    schedule = ScheduleConfig(kind="cosine", total_steps=config.epochs * len(loader), final_factor=0.01)
    return train(
        task,
        loader,
        optimiser,
        build_schedule(optimiser, schedule),
        epochs=config.epochs,
        run_dir=run_dir,
        grad_clip=1.0,
        log_steps=20,
        tensorboard=False,  # the run is too short for it; metrics.jsonl has the losses
        config={
            "task": type(task).__name__,
            **vars(config),
            **built,
            "classes": list(data.class_names),
            "regions": data.fingerprint,
            "about regions": f"{len(data)} boxes in {data.images} images",
        },
    )


def kept_names(split: ClassSplit) -> tuple[str, ...]:
    """The everyday names without novel class names, which training must not see."""
    return tuple(names_without(EVERYDAY_NAMES, split.novel))
