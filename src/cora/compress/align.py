"""Fits the fast alignment of a detector, and measures what that changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image
from rich.table import Table

from cora.compress.compare import add_scores
from cora.console import number_table, progress_report, tracked
from cora.detector import Detector
from cora.evaluation.base_novel import GroupScore
from cora.evaluation.held_out import HeldOut
from cora.images import read_image
from cora.predictor import scoring_all_boxes
from cora.regions import Vocabulary
from cora.training.alignment import cosine_to_exact, fit_alignment


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """Result of `align`.

    Attributes:
        detector: the aligned one.
        cosine: "before" and "after" -> mean cosine of fast to exact embeddings on other images; None without any.
        scores: "all boxes exactly", "before" and "after" -> AP50 by group; empty without boxes to measure on.
    """

    detector: Detector
    cosine: Mapping[str, float | None]
    scores: Mapping[str, Mapping[str, GroupScore]]

    def table(self) -> Table:
        """AP50 of every group before and after."""
        table = number_table("", *self.scores)
        add_scores(table, list(self.scores.values()))
        return table


def align(
    detector: Detector,
    paths: Sequence[Path],
    others: Sequence[Path],
    vocabulary: Vocabulary,
    *,
    held_out: HeldOut | None = None,
    exact_boxes: int | None = None,
) -> Aligned:
    """Fit the alignment of a detector on images without labels; the detector itself stays as it is.

    Args:
        detector: pools boxes in two ways, exact and fast.
        paths: of the images to fit the alignment to.
        others: of images that it is measured on.
        vocabulary: of the detector, on its device.
        held_out: images with boxes, for AP50.
        exact_boxes: boxes of an image that the new detector pools exactly; as many as before if None.
    """
    measured = partial(tracked, title="measuring")
    cosine, scores = {"before": _cosine(detector, others, vocabulary)}, {}
    if held_out is not None:
        scores["all boxes exactly"] = held_out.scores(scoring_all_boxes(detector), progress=measured)
        scores["before"] = held_out.scores(detector, progress=measured)
    aligned = detector.with_parts()
    with progress_report() as report:
        fit_alignment(aligned, _images(paths), vocabulary, on_photo=lambda done: report("photos", done, len(paths)))
    if exact_boxes is not None:
        postprocess = replace(aligned.config.postprocess, exact_boxes=exact_boxes)
        aligned.config = replace(aligned.config, postprocess=postprocess)
    cosine["after"] = _cosine(aligned, others, vocabulary)
    if held_out is not None:
        scores["after"] = held_out.scores(aligned, progress=measured)
    return Aligned(detector=aligned, cosine=cosine, scores=scores)


def _cosine(detector: Detector, paths: Sequence[Path], vocabulary: Vocabulary) -> float | None:
    return cosine_to_exact(detector, _images(paths), vocabulary) if paths else None


def _images(paths: Sequence[Path]) -> Iterator[Image.Image]:
    return map(read_image, paths)
