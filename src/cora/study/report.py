"""The report of a study: a table, the verdict in words, numbers for a file, and a histogram."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from PIL import Image
from rich.table import Table

from cora.console import number_table, tracked
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.errors import DataError
from cora.evaluation.bootstrap import resample_counts
from cora.study.artefact import TrainedStudy
from cora.study.build import FrozenPart
from cora.study.evaluate import BoxFits, FitSummary, by_class, measure_detector, measure_study, summarise
from cora.study.plot import draw_histogram

#: Names of what is measured, in tables and files.
_FOUND, _CONTROL, _DETECTOR = "study", "one-size boxes", "detector told the classes"


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """Fits of the boxes of the study, of the control, and of a detector if there is one.

    Attributes:
        study: that was measured.
        fits: "study", "one-size boxes" or "detector told the classes" -> fits of its boxes.
        groups: group -> its class names.
        resamples: of the images, for the intervals.
    """

    study: TrainedStudy
    fits: Mapping[str, BoxFits]
    groups: Mapping[str, tuple[str, ...]]
    resamples: int

    @cached_property
    def summaries(self) -> dict[str, dict[str, FitSummary]]:
        """Group -> key of `fits` -> numbers; groups without a box are left out."""
        counts = resample_counts(self.fits[_FOUND].images, resamples=self.resamples)
        answer = {
            group: {name: summarise(fits.of(names), counts) for name, fits in self.fits.items()}
            for group, names in self.groups.items()
        }
        return {group: found for group, found in answer.items() if found[_FOUND].boxes}

    @property
    def sentences(self) -> dict[str, str]:
        """Group -> the verdict in words."""
        return {group: found[_FOUND].sentence() for group, found in self.summaries.items()}

    def table(self) -> Table:
        """A row for each group and each entry of `fits`."""
        columns = ("boxes", "mean IoU", "IoU > 0.3, %", "> 0.5, %", "> 0.7, %")
        table = number_table("classes", "boxes from", *columns, words=2)
        for group, found in self.summaries.items():
            for name, one in found.items():
                shares = [share.text() for share in one.shares.values()]
                table.add_row(group, name, str(one.boxes), one.mean_iou.text(scale=1, form=".3f"), *shares)
        return table

    def to_dict(self) -> dict[str, Any]:
        """Everything, fit for JSON."""
        return {
            "config": self.study.config.to_dict(),
            "learned_classes": list(self.study.class_names),
            "images": self.fits[_FOUND].images,
            "groups": {
                group: {name: one.as_dict() for name, one in found.items()} for group, found in self.summaries.items()
            },
            "classes": {name: by_class(fits) for name, fits in self.fits.items()},
            "verdict": self.summaries["all"][_FOUND].limit,
            "sentence": self.sentences["all"],
        }

    def histogram(self) -> Image.Image:
        """How well boxes of all classes fit."""
        title = f"How well boxes fit with the class given ({self.study.config.tower.name})"
        return draw_histogram(self.summaries["all"], title=title)


def report_study(
    study: TrainedStudy,
    frozen: FrozenPart,
    dataset: CocoDataset,
    groups: Mapping[str, tuple[str, ...]],
    *,
    limit: int | None = None,
    detector: Detector | None = None,
    resamples: int = 200,
    device: torch.device | str = "cpu",
) -> StudyReport:
    """Measure a study and, if there is one, a detector that is given the true classes of each image.

    Args:
        study: trained.
        frozen: its tower.
        dataset: images and boxes.
        groups: group -> class names.
        limit: number of images to measure, from the first; all if None.
        detector: to compare with.
        resamples: of the images, for the intervals.
        device: where to compute.

    Raises:
        DataError: the images have no box.
    """
    indices = range(len(dataset))[:limit]
    progress = partial(tracked, title="photos")
    found, control = measure_study(study, frozen, dataset, indices=indices, device=device, progress=progress)
    fits = {_FOUND: found, _CONTROL: control}
    if detector is not None:
        fits[_DETECTOR] = measure_detector(detector.to(device), dataset, indices=indices, progress=progress)
    if not len(found.ious):
        raise DataError(f"{dataset.annotations}: expected boxes to measure, got none in {len(indices)} images")
    return StudyReport(study=study, fits=fits, groups=groups, resamples=resamples)
