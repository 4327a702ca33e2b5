"""The settings of a training run: frozen dataclasses, read from a recipe file.

A recipe file is Python that defines ``def recipe() -> TrainRecipe``. It is a program that runs with your rights, so
load only files that you trust.
"""

from __future__ import annotations

import dataclasses
import json
import math
import runpy
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cora.data.transforms import AugmentConfig
from cora.errors import CoraError, TrainingError
from cora.towers import LARGEST_POOL_SIZE
from cora.training.localizer_task import LocalizerTaskConfig
from cora.training.optim import ScheduleConfig
from cora.training.proposal_task import TRUNK
from cora.training.step import Precision
from cora.training.variants import VariantName

#: How images are drawn, see `DataStage.sampling`.
Sampling = Literal["uniform", "repeat-factor", "equal-classes", "small-objects"]


@dataclass(frozen=True, kw_only=True)
class DataStage:
    """Augmentation, sampling and loading of images, for all stages.

    Attributes:
        augment: multi-scale and crop augmentation; the prompt stage uses none.
        versions: number of augmented versions of every image whose feature maps are cached on disk, so that the frozen
            tower runs once for each; 0 runs the tower in every step.
        cache_gigabytes: largest size of the feature cache in GB.
        sampling: how images are drawn for the localizer: "uniform"; "repeat-factor", images of rare classes are
            repeated (LVIS); "equal-classes", all classes equally often; "small-objects", small objects more often.
        repeat_threshold: for "repeat-factor": classes in a smaller share of the images are repeated.
        small_factor: for "small-objects": weight of images with a small box; the others have 1.
        pseudo_weight: how often images that have only pseudo labels are drawn, relative to the others.
        workers: processes that read images; 0 reads in the training process.
    """

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    versions: int = 0
    cache_gigabytes: float = 20.0
    sampling: Sampling = "uniform"
    repeat_threshold: float = 0.001
    small_factor: float = 2.0
    pseudo_weight: float = 1.0
    workers: int = 0

    def __post_init__(self) -> None:
        at_least("data", self, versions=0, workers=0, small_factor=1)
        _above("data", self, "cache_gigabytes", "repeat_threshold", "pseudo_weight")
        if self.repeat_threshold > 1:
            raise TrainingError(f"data: expected a repeat_threshold of at most 1, got {self.repeat_threshold}")
        _one_of("data", self, "sampling", Sampling)


@dataclass(frozen=True, kw_only=True)
class StageSchedule:
    """Learning rate schedule of a stage.

    Attributes:
        kind: "constant"; "step": multiplied by `gamma` at every milestone; "cosine": falls to `final_factor`.
        warmup_steps: steps of linear warm-up; at most a tenth of the stage's steps are used.
        milestones: for "step": epochs after which the rate changes.
        gamma: for "step": factor at each milestone.
        final_factor: for "cosine": factor at the end.
    """

    kind: Literal["constant", "step", "cosine"] = "constant"
    warmup_steps: int = 0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    final_factor: float = 0.02

    def __post_init__(self) -> None:
        at_least("schedule", self, warmup_steps=0)
        _above("schedule", self, "gamma")
        _one_of("schedule", self, "kind", Literal["constant", "step", "cosine"])
        if (self.kind == "step") != bool(self.milestones):
            raise TrainingError(
                f"schedule: expected milestones with kind 'step' and only there, got kind {self.kind!r} and "
                f"milestones {self.milestones}"
            )

    def config(self, *, steps_an_epoch: int, epochs: int) -> ScheduleConfig:
        """The schedule in optimiser steps."""
        total = steps_an_epoch * epochs
        return ScheduleConfig(
            kind=self.kind,
            warmup_steps=min(self.warmup_steps, total // 10),
            total_steps=total,
            milestones=tuple(steps_an_epoch * epoch for epoch in self.milestones),
            gamma=self.gamma,
            final_factor=self.final_factor,
        )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Settings that all training stages have.

    Attributes:
        epochs: passes over the images.
        batch: images per batch of one process.
        lr: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        schedule: how the learning rate changes over the stage.
        grad_clip: largest norm of all gradients together; None for no clipping.
        ema: decay of the moving average of the weights; None trains without one.
        accumulate: batches per optimiser step.
        precision: "32", or "bf16" or "16" for mixed precision.
        keep: weight interpolation after training, result = keep * start + (1 - keep) * trained, which forgets less than
            the trained weights (WiSE-FT, Wortsman et al., 2022, arXiv 2109.01903); 0 keeps the trained weights.
    """

    epochs: int
    batch: int = 32
    lr: float = 1e-4
    weight_decay: float = 1e-4
    schedule: StageSchedule = field(default_factory=StageSchedule)
    grad_clip: float | None = 0.1
    ema: float | None = None
    accumulate: int = 1
    precision: Precision = "32"
    keep: float = 0.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        at_least(name, self, epochs=1, batch=1, weight_decay=0, accumulate=1)
        _above(name, self, "lr", "grad_clip")
        _one_of(name, self, "precision", Precision)
        if self.ema is not None and not 0 <= self.ema < 1:
            raise TrainingError(f"{name}: expected ema in 0..1 (1 excluded) or None, got {self.ema}")
        if not 0 <= self.keep < 1:
            raise TrainingError(f"{name}: expected keep in 0..1 (1 excluded), got {self.keep}")


@dataclass(frozen=True, kw_only=True)
class PromptStage(Stage):
    """Training of the region prompt; the defaults are those of the published training.

    Attributes:
        balance: "none"; "sqrt": the loss weight of a class is (number of its boxes)^-0.5; "equal": boxes are drawn so
            that all classes occur equally often (LVIS; needs `max_boxes`).
        max_boxes: largest number of boxes of a batch that are used; None for all.
        classes_per_step: number of classes in a step, those present first; None for all.
        pool_size: S, side of the grid that regions are pooled to. The region prompt is resampled to S x S. None keeps
            the size of the model.
    """

    epochs: int = 5
    schedule: StageSchedule = field(default_factory=lambda: StageSchedule(kind="step", milestones=(4,)))
    balance: Literal["none", "sqrt", "equal"] = "none"
    max_boxes: int | None = None
    classes_per_step: int | None = None
    pool_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("PromptStage", self, max_boxes=1, classes_per_step=2)
        if self.pool_size is not None and not 1 <= self.pool_size <= LARGEST_POOL_SIZE:
            raise TrainingError(f"PromptStage: expected pool_size in 1..{LARGEST_POOL_SIZE}, got {self.pool_size}")
        _one_of("PromptStage", self, "balance", Literal["none", "sqrt", "equal"])
        if self.balance == "equal" and self.max_boxes is None:
            raise TrainingError("PromptStage: expected max_boxes with balance 'equal', got none; set prompts.max_boxes")


@dataclass(frozen=True, kw_only=True)
class ProposalStage(Stage):
    """Training of the anchor proposals, see `ProposalTask`; for fine-tuning, not in the paper.

    Attributes:
        trunk_factor: factor on `lr` for the box trunk of the tower. The stage then reads images; with 0, the trunk is
            frozen, and the stage can read cached feature maps.
    """

    epochs: int = 20
    trunk_factor: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("ProposalStage", self, trunk_factor=0)

    @property
    def lr_factors(self) -> Mapping[str, float]:
        """Prefix of parameter names -> factor on `lr`."""
        return {TRUNK: self.trunk_factor} if self.trunk_factor else {}


@dataclass(frozen=True, kw_only=True)
class NamesStage(Stage):
    """Training of an offset for the embedding of each class name; for fine-tuning, not in the paper.

    Attributes:
        box_noise: each corner coordinate moves by up to this share of half the box's side, since detected boxes are
            not exact either.
        background: weight of the loss on random boxes without an object.
        prototypes: 0..1, weight of a class's mean region embedding in its initial embedding; the rest is its text
            embedding.
    """

    epochs: int = 20
    box_noise: float = 0.2
    background: float = 0.5
    prototypes: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("NamesStage", self, box_noise=0, background=0)
        if not 0 <= self.prototypes <= 1:
            raise TrainingError(f"NamesStage: expected prototypes in 0..1, got {self.prototypes}")


@dataclass(frozen=True, kw_only=True)
class RelabelStage:
    """CLIP-aligned labelling: every box gets the class that the prompted region classifier predicts.

    Attributes:
        plot: also draw the confusion matrix.
    """

    plot: bool = False


@dataclass(frozen=True, kw_only=True)
class LocalizerStage(Stage):
    """Training of the localizer; the defaults are those of the published training.

    Attributes:
        task: class dropout, denoising and other settings.
        groups: number of groups of similar classes (`cora groups`); a query may match boxes of its class's group. None
            for no groups.
        groups_file: file with such groups, see `read_groups`.
        anchors: initial learned anchors: "kmeans", centres of the dataset's boxes; "normal", logits from N(0, 1), as
            published; "keep", those of the model.
        objectness: initial objectness head: "plain", PyTorch's default for linear layers, as published; "keep", that of
            the model. A fresh localizer starts with a low objectness instead.
        lr_factors: prefix of parameter names -> factor on `lr`.
        architecture: fields to replace in the localizer's `LocalizerConfig`, such as {"dec_layers": 2}. The localizer
            then starts from new weights, except for the proposals if `task.proposals` is False.
        variant: variant of CORA to train, see `cora.training.variants`.
    """

    epochs: int = 35
    ema: float | None = 0.99996
    task: LocalizerTaskConfig = field(default_factory=LocalizerTaskConfig)
    groups: int | None = None
    groups_file: str | None = None
    anchors: Literal["keep", "kmeans", "normal"] = "keep"
    objectness: Literal["keep", "plain"] = "keep"
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    architecture: Mapping[str, Any] = field(default_factory=dict)
    variant: VariantName = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("LocalizerStage", self, groups=1)
        if self.groups is not None and self.groups_file is not None:
            raise TrainingError("LocalizerStage: expected a number of groups or a groups_file, got both")
        _one_of("LocalizerStage", self, "anchors", Literal["keep", "kmeans", "normal"])
        _one_of("LocalizerStage", self, "objectness", Literal["keep", "plain"])
        _one_of("LocalizerStage", self, "variant", VariantName)
        if self.groups or self.groups_file:
            _one_of("LocalizerStage with groups", self, "variant", Literal["full", "no-prompt", "crops"])


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Settings of a run: prompts -> proposals -> names -> relabel -> localizer. A stage that is None is left out.

    Attributes:
        model: name or path of the detector to start from.
        fresh: draw new weights for the prompt and the localizer, if their stage is trained, instead of the model's.
        data: augmentation, feature cache, sampling.
        prompts: training of the region prompt.
        proposals: training of the anchor proposals (fine-tuning).
        names: training of offsets of the class names (fine-tuning).
        relabel: CLIP-aligned labelling, for the localizer.
        localizer: training of the localizer.
        seed: of all random numbers.
        evaluate_every: epochs between two evaluations on held-out images.
        all_boxes: evaluate as published, with exact pooling of every box, instead of with the model's settings.
        processes: number of processes that the recipe was made for, with `batch` images each; None for any.
        checkpoint_minutes: minutes between two checkpoints within an epoch.
        published: published metrics of this recipe in percent, such as {"ap50_novel": 35.1}; `cora train` shows them
            beside its own.
    """

    model: str = "nano"
    fresh: bool = False
    data: DataStage = field(default_factory=DataStage)
    prompts: PromptStage | None = field(default_factory=PromptStage)
    proposals: ProposalStage | None = None
    names: NamesStage | None = None
    relabel: RelabelStage | None = field(default_factory=RelabelStage)
    localizer: LocalizerStage | None = field(default_factory=LocalizerStage)
    seed: int = 0
    evaluate_every: int = 1
    all_boxes: bool = False
    processes: int | None = None
    checkpoint_minutes: float = 10.0
    published: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least("recipe", self, seed=0, evaluate_every=1, processes=1)
        if self.seed >= 2**63:
            raise TrainingError(f"recipe: expected a seed below 2**63, got {self.seed}")
        _above("recipe", self, "checkpoint_minutes")
        if all(stage is None for stage in (self.prompts, self.proposals, self.names, self.localizer)):
            raise TrainingError("recipe: expected prompts, proposals, names or localizer to train, got none of them")

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionary of JSON values, as it is written to a run folder."""
        content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return content


def load_recipe(path: Path) -> TrainRecipe:
    """Run a recipe file and return what its function `recipe` returns. It runs with your rights: read it first.

    Raises:
        TrainingError: there is no such file, it fails, or it has no such function.
    """
    if not path.is_file():
        raise TrainingError(f"expected a recipe file, got no file at {path}; see recipes/ for some")
    try:
        function = runpy.run_path(str(path), run_name="cora_recipe").get("recipe")
        found = function() if callable(function) else None
    except CoraError:
        raise
    except Exception as error:  # the file is a program, which can raise anything
        raise TrainingError(
            f"recipe {path}: expected it to run, got {type(error).__name__}: {error}; mend the file"
        ) from error
    if not isinstance(found, TrainRecipe):
        raise TrainingError(
            f"recipe {path}: expected a function recipe() that returns a TrainRecipe, got "
            f"{'no such function' if function is None else type(found).__name__}"
        )
    return found


def at_least(name: str, owner: object, **bounds: float) -> None:
    """Check that the named fields are None or not below their bounds.

    Raises:
        TrainingError: one is below its bound.
    """
    for key, bound in bounds.items():
        value = getattr(owner, key)
        if value is not None and value < bound:
            raise TrainingError(f"{name}: expected {key} of at least {bound}, got {value}")


def _above(name: str, owner: object, *keys: str) -> None:
    for key in keys:
        value = getattr(owner, key)
        if value is not None and not 0 < value < math.inf:
            raise TrainingError(f"{name}: expected {key} above 0, got {value}")


def _one_of(name: str, owner: object, key: str, literal: Any) -> None:
    if getattr(owner, key) not in typing.get_args(literal):
        words = ", ".join(map(str, typing.get_args(literal)))
        raise TrainingError(f"{name}: expected {key} to be one of {words}, got {getattr(owner, key)!r}")
