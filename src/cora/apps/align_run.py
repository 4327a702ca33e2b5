"""What `cora align` does: fit on most of the images, measure on the others, write."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from rich.table import Table

import cora
from cora.apps.open_model import open_torch_detector
from cora.apps.prune_report import check_model_file, draw_paths, names_for, percent, read_measured
from cora.console import output_console, progress_report, say, tracked
from cora.detector import Detector
from cora.errors import ModelError
from cora.evaluation.base_novel import GroupScore
from cora.files import write_json
from cora.images import read_image
from cora.predictor import scoring_all_boxes
from cora.regions import Vocabulary
from cora.towers import TimmTower
from cora.training.alignment import cosine_to_exact, fit_alignment

#: One image of so many is kept back, to see whether the alignment holds for images that it was not fitted to.
KEPT_BACK = 10


def align_model(args: argparse.Namespace) -> int:
    """Fit the fast alignment of a model; prints cosines, and AP50 where there are boxes; returns 0.

    Raises:
        CoraError: bad input, before anything is written.
    """
    check_model_file(args.output)
    held_out = read_measured(args)
    paths = draw_paths(args.images, args.photos, args.seed)
    count = max(1, len(paths) - len(paths) // KEPT_BACK)
    fitted, new = paths[:count], paths[count:]
    detector = open_torch_detector(args.model, args.device, needs="cora align")
    if isinstance(detector.image_tower, TimmTower):
        raise ModelError(
            f"{args.model}: expected a model that pools boxes in two ways, exact and fast, got one whose tower "
            "pools all in one way; there is nothing to align, use the model as it is"
        )
    if not (args.exact_boxes or detector.config.postprocess.exact_boxes):
        raise ModelError(f"{args.model}: expected --exact-boxes N, as this model pools all boxes exactly, got none")
    names = names_for(args, held_out.dataset.class_names if held_out is not None else None)
    vocabulary = detector.vocabulary_encoder.encode(names).to(detector.device)
    console = output_console()
    cosines, scores = {"before": _cosine(detector, new, vocabulary)}, {}
    if held_out is not None:
        scores["all boxes exactly"] = held_out.scores(scoring_all_boxes(detector), progress=_measured)
        scores["before"] = held_out.scores(detector, progress=_measured)
    aligned = detector.with_parts()  # the loaded model stays as it is
    with progress_report() as report:
        fit_alignment(aligned, _pictures(fitted), vocabulary, on_photo=lambda done: report("photos", done, len(fitted)))
    if args.exact_boxes is not None:
        postprocess = replace(aligned.config.postprocess, exact_boxes=args.exact_boxes)
        aligned.config = replace(aligned.config, postprocess=postprocess)
    cosines["after"] = _cosine(aligned, new, vocabulary)
    if held_out is not None:
        scores["after"] = held_out.scores(aligned, progress=_measured)
    aligned.save(args.output)
    say(console, f"Fitted to {len(fitted)} images")
    if new:
        before, after = (f"{cosine:.3f} {when}" for when, cosine in cosines.items())
        say(console, f"Cosine of fast to exact embeddings on {len(new)} other images: {before}, {after}")
    if scores:
        console.print(_table(scores))
    if args.json is not None:
        content = {"command": ["cora", *sys.argv[1:]], "version": cora.__version__, "photos": len(fitted)}
        groups = {way: {group: score.as_dict() for group, score in found.items()} for way, found in scores.items()}
        write_json(args.json, {**content, "cosine": cosines, "scores": groups})
    say(console, f"Wrote {args.output}")
    return 0


def _measured(indices: Sequence[int]) -> Iterator[int]:
    return tracked(indices, "measuring")


def _cosine(detector: Detector, paths: Sequence[Path], vocabulary: Vocabulary) -> float | None:
    return cosine_to_exact(detector, _pictures(paths), vocabulary) if paths else None


def _pictures(paths: Sequence[Path]) -> Iterator[Image.Image]:
    return (read_image(path) for path in paths)


def _table(scores: dict[str, dict[str, GroupScore]]) -> Table:
    table = Table("", *scores)
    for column in table.columns[1:]:
        column.justify = "right"
    for group in next(iter(scores.values())):
        table.add_row(f"AP50 {group}, %", *(percent(found[group]) for found in scores.values()))
    return table
