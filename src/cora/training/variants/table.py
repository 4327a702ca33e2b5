"""The table of variants: the ablations of the paper, and changes of the localizer that are not in the paper."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

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

#: Makes a task from the keywords `detector`, `vocabulary` and `config`: usually the class of the task.
TaskBuilder = Callable[..., LocalizerTask]


def _unchanged(detector: Detector) -> Detector:
    return detector


#: Rows that `cora train --variant` can train.
VariantName = Literal["full", "no-prompt", "crops", "region-proposals", "conditional", "end-to-end", "oracle", "top-2"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table.

    Attributes:
        says: the difference to CORA, in one sentence.
        option: option of `cora train` that trains it, or of `cora evaluate` if only inference differs.
        detector: makes the variant of a detector; both share their modules.
        task: makes the training task.
        settings: fields to replace in the task's `LocalizerTaskConfig`.
        architecture: fields to replace in the localizer's `LocalizerConfig`.
        relabel: train on the labels that `detector(start)` predicts (CLIP-aligned labelling), else on annotated ones.
        weights_of: name of the row whose trained detector is used; None if this row is trained itself.
        true_classes: predict with `cora.evaluation.oracles.predict_with_true_classes`.
    """

    says: str
    option: str
    detector: Callable[[Detector], Detector] = _unchanged
    task: TaskBuilder = LocalizerTask
    settings: Mapping[str, Any] = field(default_factory=dict)
    architecture: Mapping[str, Any] = field(default_factory=dict)
    relabel: bool = True
    weights_of: str | None = None
    true_classes: bool = False

    def build(self, *, detector: Detector, vocabulary: Vocabulary, config: LocalizerTaskConfig) -> LocalizerTask:
        """Build the task. It trains a variant of a copy of `detector`: `task.detector`, with which to predict.

        Raises:
            ValueError: the row is not trained, since it uses the weights of another row.
        """
        if self.weights_of is not None:
            raise ValueError(f"nothing to train: expected the weights of the row {self.weights_of!r}; use detector()")
        own = replace(config, **self.settings)
        return self.task(detector=self.detector(copy.deepcopy(detector)), vocabulary=vocabulary, config=own)


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
            settings={"class_dropout": 0.0},
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
        "no-denoising": Variant(
            says="No noised boxes as extra queries, as published.",
            option="--set localizer.task.denoising=None",
            settings={"denoising": None},
        ),
        "one-to-one": Variant(
            says="One query a box in the matching, as published, instead of three.",
            option="--set localizer.task.target_repeats=1",
            settings={"target_repeats": 1},
        ),
        "two-layers": Variant(
            says="Two decoder layers.",
            option="--set 'localizer.architecture={\"dec_layers\": 2}'",
            architecture={"dec_layers": 2},
        ),
        "deformable": Variant(
            says="Queries read points around their anchors, on all levels, instead of all cells of the coarser ones.",
            option='--set \'localizer.architecture={"cross_attention": "deformable"}\'',
            architecture={"cross_attention": "deformable"},
        ),
        "two-deformable-layers": Variant(
            says="Two layers of deformable attention.",
            option='--set \'localizer.architecture={"cross_attention": "deformable", "dec_layers": 2}\'',
            architecture={"cross_attention": "deformable", "dec_layers": 2},
        ),
    }
)
"""Name of a row -> row: CORA, the ablations of the paper, then changes that are not in the paper."""
