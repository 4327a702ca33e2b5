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

#: How images are drawn: all alike, rare classes repeated (LVIS), every class as often, small objects oftener.
Sampling = Literal["uniform", "repeat-factor", "equal-classes", "small-objects"]


@dataclass(frozen=True, kw_only=True)
class DataStage:
    """How images become batches; the same for all stages.

    Attributes:
        augment: multi-scale and crop policy of the localizer's images.
        versions: augmented versions of every image whose maps are kept on disk, so that the frozen tower runs
            once for each; 0 runs the tower in every step.
        cache_gigabytes: largest size of those maps on disk, in GB.
        sampling: how the localizer's images are drawn: "uniform", "repeat-factor" (images of rare classes are repeated,
            LVIS), "equal-classes" or "small-objects".
        repeat_threshold: for "repeat-factor", the share of images below which those of a class are repeated.
        small_factor: for "small-objects", how much oftener an image full of small boxes is drawn.
        workers: processes that read images; 0 reads in the training process.
    """

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    versions: int = 0
    cache_gigabytes: float = 20.0
    sampling: Sampling = "uniform"
    repeat_threshold: float = 0.001
    small_factor: float = 2.0
    workers: int = 0

    def __post_init__(self) -> None:
        at_least("data", self, versions=0, workers=0, small_factor=1)
        _above("data", self, "cache_gigabytes", "repeat_threshold")
        if self.repeat_threshold > 1:
            raise TrainingError(f"data: expected a repeat_threshold of at most 1, got {self.repeat_threshold}")
        _one_of("data", self, "sampling", Sampling)


@dataclass(frozen=True, kw_only=True)
class StageSchedule:
    """Learning rate over a stage.

    Attributes:
        kind: "constant"; "step": times `gamma` after each of the `milestones`; "cosine": down to `final_factor`.
        warmup_steps: steps of a linear rise at the start; at most a tenth of the stage.
        milestones: epochs after which the rate falls; those that the stage does not reach have no effect.
        gamma: factor on the rate at each milestone.
        final_factor: share of the rate with which the cosine ends.
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
        """The same in optimiser steps."""
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
    """What the training of prompt, names and localizer shares.

    Attributes:
        epochs: passes over the images.
        batch: images in one step of one process.
        lr: learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        schedule: how the learning rate changes over the stage.
        grad_clip: bound on the norm of the gradient; None for no bound.
        ema: decay of the moving average of the weights; None trains without one.
        accumulate: steps whose gradients make one step of the optimiser.
        precision: "32", or the autocast type of mixed precision.
        keep: share of the starting weights in the result, result = keep * start + (1 - keep) * trained; what lies
            between forgets less than the end (Wortsman et al., 2022, arXiv 2109.01903).
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
    """Training of the region prompt; the defaults are the published training's.

    Attributes:
        balance: "none"; "sqrt": a class counts in the loss by boxes^-0.5; "equal": boxes are drawn so that every
            class is seen as often (LVIS; needs `max_boxes`).
        max_boxes: boxes used of a batch at most.
        classes_per_step: classes told apart in a step, those present first; None for all.
        pool_size: S, side of the grid that a region is pooled to and so of the region prompt: the model is changed to
            it, its prompt resampled; None for the model's own.
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
    """Training of the proposals that anchors come from, see `ProposalTask`; for fine-tuning, not in the paper.

    Attributes:
        trunk_factor: factor on `lr` for the tower's network for boxes, which then learns from images; 0 keeps it
            frozen, and the proposals learn from cached maps.
    """

    epochs: int = 20
    trunk_factor: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("ProposalStage", self, trunk_factor=0)

    @property
    def lr_factors(self) -> Mapping[str, float]:
        """Prefix of a parameter's name -> factor on `lr`."""
        return {TRUNK: self.trunk_factor} if self.trunk_factor else {}


@dataclass(frozen=True, kw_only=True)
class NamesStage(Stage):
    """Training of class names: each learns an offset of its embedding; for fine-tuning, not in the paper.

    Attributes:
        box_noise: boxes are moved by up to this share of half their sides, since detected boxes are loose, too.
        background: weight of the loss on boxes that hold no object.
        prototypes: where learning starts: each class embedding is the unit mix of its text and of the mean of the
            class's regions, which count this share; 0 starts from the text alone.
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
        plot: also draw which classes the classifier confuses.
    """

    plot: bool = False


@dataclass(frozen=True, kw_only=True)
class LocalizerStage(Stage):
    """Training of the localizer; the defaults are the published training's.

    Attributes:
        task: class dropout, denoising and the like.
        groups: also let a query match boxes of its class's group, of so many (`cora groups`); None for no groups.
        groups_file: the same with groups of a file, see `read_groups`: of `cora groups`, or of the published code.
        anchors: "kmeans" starts them from the boxes of the set, "normal" at random, their logits from N(0, 1) (the
            published start); "keep" from where the model has them.
        objectness: "plain" draws the head of the objectness like any linear layer, its bias too (the published
            start), instead of one that finds hardly anything at first; "keep" takes what the model has.
        lr_factors: prefix of a parameter's name -> factor on `lr`.
        architecture: changes of the localizer's `LocalizerConfig`, such as {"dec_layers": 2}; the localizer then starts
            from new weights. With `task.proposals=False` what anchors are proposed by stays.
        variant: train and save a row of the paper's comparisons, see `cora.training.variants`.
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
    """A whole run: prompts -> proposals -> names -> relabel -> localizer. A stage that is None is skipped.

    Attributes:
        model: name or path of the detector to start from.
        fresh: train prompt and localizer from new weights, as far as they are trained here, not from the model's.
        data: augmentation, feature cache, sampling.
        prompts: region prompting.
        proposals: of the anchors (fine-tuning).
        names: learned offsets of the class names (fine-tuning).
        relabel: CLIP-aligned labels for the localizer.
        localizer: training of the boxes.
        seed: decides everything that is drawn at random.
        evaluate_every: epochs between two measurements on the held-out images.
        all_boxes: measure in the published way, every box pooled exactly, instead of in the model's.
        processes: number that the batches are meant for, `batch` images in each; None for any number.
        checkpoint_minutes: minutes between two saves within an epoch.
        published: numbers of others for the same recipe, in percent, which `cora train` shows beside its own, such as
            {"ap50_novel": 35.1}.
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
        _above("recipe", self, "checkpoint_minutes")
        if all(stage is None for stage in (self.prompts, self.proposals, self.names, self.localizer)):
            raise TrainingError("recipe: expected prompts, proposals, names or localizer to train, got none of them")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as they are written to a run folder."""
        content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return content


def load_recipe(path: Path) -> TrainRecipe:
    """Run a recipe file and take what its function `recipe` returns. It runs with your rights: read it first.

    Raises:
        TrainingError: no such file, it fails, or it defines no such function.
    """
    if not path.is_file():
        raise TrainingError(f"expected a recipe file, got no file at {path}; see recipes/ for some")
    try:
        function = runpy.run_path(str(path), run_name="cora_recipe").get("recipe")
        found = function() if callable(function) else None
    except CoraError:
        raise
    except Exception as error:  # the file is somebody's program: any error can come out of it
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
    """Refuse a field below its bound; None is none.

    Raises:
        TrainingError: one is.
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
