"""The rows of the ablation table by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from cora.detector import Detector
from cora.detector.variants import (
    ConditionalDetector,
    CropDetector,
    EndToEndDetector,
    RegionProposalDetector,
    TopKDetector,
    without_prompt,
)
from cora.regions import Vocabulary
from cora.training.localizer_task import LocalizerTask, LocalizerTaskConfig
from cora.training.variants.tasks import ConditionalTask, EndToEndTask, RegionProposalTask, TopKTask, TrueClassTask

#: Makes the task that trains a `detector` on a `vocabulary` by a `config`; the tasks' own constructors are such.
TaskBuilder = Callable[..., LocalizerTask]


def _as_it_is(detector: Detector) -> Detector:
    return detector


def _without_class_dropout(*, detector: Detector, vocabulary: Vocabulary, config: LocalizerTaskConfig) -> LocalizerTask:
    return LocalizerTask(detector=detector, vocabulary=vocabulary, config=replace(config, class_dropout=0.0))


#: Rows that `cora train --variant` makes.
VariantName = Literal["full", "no-prompt", "crops", "region-proposals", "conditional", "end-to-end", "oracle", "top-2"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table.

    Attributes:
        says: what is different, in one sentence.
        option: how `cora train` makes it, or `cora evaluate` where it only predicts otherwise.
        detector: what predicts, made of a detector whose modules it shares.
        task: what trains it.
        relabel: train on CLIP-aligned labels (METHOD section 6), made by `detector(start)`; else on the annotated ones.
        weights_of: row whose trained detector `detector` is made of; None: this row is trained itself.
        true_classes: predict with `cora.evaluation.oracles.predict_with_true_classes`.
    """

    says: str
    option: str
    detector: Callable[[Detector], Detector] = _as_it_is
    task: TaskBuilder = LocalizerTask
    relabel: bool = True
    weights_of: str | None = None
    true_classes: bool = False

    def build(self, *, detector: Detector, vocabulary: Vocabulary, config: LocalizerTaskConfig) -> LocalizerTask:
        """A task on a copy of `detector`; the copy, `task.detector`, is what predicts once it is trained.

        Raises:
            ValueError: the row is not trained, it uses the weights of another.
        """
        if self.weights_of is not None:
            raise ValueError(f"nothing to train: expected the weights of the row {self.weights_of!r}; use detector()")
        return self.task(detector=self.detector(copy.deepcopy(detector)), vocabulary=vocabulary, config=config)


FULL = "full"

VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        FULL: Variant(says="CORA as it is.", option=""),
        "no-prompt": Variant(
            says="No region prompt in relabelling, pre-matching and final scores.",
            option="--variant no-prompt",
            detector=without_prompt,
        ),
        "crops": Variant(
            says="Final boxes are classified as crops of the image, without prompt.",
            option="--variant crops",
            detector=CropDetector.of,
            weights_of=FULL,
        ),
        "region-proposals": Variant(
            says="Queries know no class; only the region classifier does.",
            option="--variant region-proposals",
            detector=RegionProposalDetector.of,
            task=RegionProposalTask,
        ),
        "conditional": Variant(
            says="No pre-matching: the decoder runs once for every class.",
            option="--variant conditional",
            detector=ConditionalDetector.of,
            task=ConditionalTask,
        ),
        "end-to-end": Variant(
            says="Queries are compared with class embeddings, in place of objectness and region classifier.",
            option="--variant end-to-end",
            detector=EndToEndDetector.of,
            task=EndToEndTask,
        ),
        "no-class-dropout": Variant(
            says="All base classes are given in every step.",
            option="--set localizer.task.class_dropout=0",
            task=_without_class_dropout,
        ),
        "no-relabelling": Variant(
            says="Trained on the classes as annotated.", option="--set relabel=None", relabel=False
        ),
        "oracle": Variant(
            says="Anchors know the class of the true box they overlap most, in training and at test.",
            option="--variant oracle",
            task=TrueClassTask,
            true_classes=True,
        ),
        "oracle-at-test": Variant(
            says="As the full method, but at test anchors know the class of the true box they overlap most.",
            option="cora evaluate --oracles",
            weights_of=FULL,
            true_classes=True,
        ),
        "top-2": Variant(
            says="Two queries an anchor, for the two classes its region looks most like.",
            option="--variant top-2",
            detector=TopKDetector.of,
            task=TopKTask,
        ),
    }
)
"""Row name -> row, the full method first."""
