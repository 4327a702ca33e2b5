"""Train a text task on region embeddings. It takes seconds to minutes, since only texts pass through a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

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
    """How a text task is trained.

    Attributes:
        epochs: passes over the regions.
        batch_size: regions a step.
        lr: AdamW's rate, cosine to a hundredth.
        weight_decay: pulls offsets to zero; on a context or a tower it pulls away from the start, hence 0 there.
        keep: factor of the loss that holds embeddings near the hand-written ones.
        balance: 0..1, power of the inverse class count by which classes are weighed; 0 weighs boxes alike.
        seed: of the order of regions.
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


#: Chosen on base classes alone, some of them held out (benchmarks/text_side.py --held-out). Offsets and a tower gain
#: most on base classes with little `keep` and then lose as much on others; a context hardly can.
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
    """The task of a method for the classes of `data`.

    Raises:
        TrainingError: an unknown method, or the detector has learned text already.
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


def train_text(task: TextTask, data: RegionEmbeddings, config: TextTrainConfig, run_dir: Path) -> TrainResult:
    """Train until the epochs are done. `run_dir` gets metrics and checkpoints; a stopped run resumes there.

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
        tensorboard=False,  # such a run is over before a board is open; metrics.jsonl has the curve
        config={"task": type(task).__name__, **vars(config)},
    )


def kept_names(split: ClassSplit) -> tuple[str, ...]:
    """Everyday names that training holds in place; novel classes stay unseen, even as words."""
    return tuple(names_without(EVERYDAY_NAMES, split.novel))
