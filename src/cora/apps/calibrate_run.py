"""What `cora calibrate` does: the best F1 with everyday names as distractors and without, the better one stored."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from rich.table import Table

import cora
from cora.apps.held_out import HeldOut
from cora.apps.image_sets import testing_images
from cora.apps.measure import read_annotated
from cora.apps.open_model import open_torch_detector
from cora.apps.prune_report import check_model_file
from cora.apps.score_threshold import NOTHING_RIGHT, described, images_of, store
from cora.console import output_console, say, tracked
from cora.data.class_split import open_split
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.detector.fingerprint import weights_fingerprint
from cora.errors import DataError
from cora.evaluation.best_threshold import BestThreshold
from cora.files import write_json
from cora.regions import EVERYDAY_NAMES

Policy = Literal["none", "everyday"]

#: The simpler one first: of equal F1 it wins.
_POLICIES: dict[Policy, tuple[str, ...]] = {"none": (), "everyday": EVERYDAY_NAMES}


def calibrate(args: argparse.Namespace) -> int:
    """Measure both policies, print a table, write the model with the better one; returns 0.

    Raises:
        CoraError: bad input, before anything is measured; or no detection is right, and nothing is written.
    """
    check_model_file(args.output)
    dataset = _read(args)
    detector = open_torch_detector(args.model, args.device, needs="cora calibrate")
    detector.vocabulary_encoder.encode(dataset.class_names)  # names too long for the tower fail here
    held_out = HeldOut(dataset=dataset)
    found: dict[Policy, BestThreshold | None] = {
        policy: held_out.best_threshold(
            detector,
            distractors=names,
            at_once=args.at_once,
            class_agnostic=args.class_agnostic,
            progress=partial(tracked, title=f"distractors {policy}"),
        )
        for policy, names in _POLICIES.items()
    }
    reached = {policy: best for policy, best in found.items() if best is not None}
    if not reached:
        raise DataError(
            f"expected a model that gets a box right in {images_of(len(dataset))}, {args.model} had none right "
            f"{NOTHING_RIGHT}; train it first (cora finetune)"
        )
    console = output_console()
    console.print(_table(found))
    policy = max(reached, key=lambda name: reached[name].f1)
    best = reached[policy]
    store(detector, best, distractors=policy)
    detector.save(args.output, dtype=_dtype(detector))
    if args.json is not None:
        write_json(args.json, _report(args, detector, dataset, found))
    say(console, f"{described(best)}, on {images_of(len(dataset))}; distractors: {policy}")
    measured = " --class-agnostic, as it was measured" if args.class_agnostic else ""
    say(console, f"Wrote {args.output}; use it with --model {args.output}{measured}")
    return 0


def _read(args: argparse.Namespace) -> CocoDataset:
    split = None if args.split is None else open_split(args.split)
    names = None if split is None else split.all
    dataset = copy.copy(testing_images(read_annotated(args.images, args.annotations, names), split))
    dataset.records = dataset.records[: args.limit]
    if not int(dataset.class_counts().sum()):
        raise DataError(
            f"expected boxes to measure on, got none in {images_of(len(dataset))} of {args.annotations}; "
            "name annotated images"
        )
    return dataset


def _dtype(detector: Detector) -> torch.dtype:
    """Half precision where the weights came from it, so that not one of them changes."""
    values = (value for value in detector.state_dict().values() if value.is_floating_point())
    return torch.float16 if all(torch.equal(value.half().to(value), value) for value in values) else torch.float32


def _table(found: Mapping[Policy, BestThreshold | None]) -> Table:
    table = Table("distractors", "score threshold", "F1, %", "precision, %", "recall, %")
    for column in table.columns[1:]:
        column.justify = "right"
    for policy, best in found.items():
        numbers = (
            ("-",) * 4
            if best is None
            else (f"{best.threshold:g}", *(f"{100 * one:.1f}" for one in (best.f1, best.precision, best.recall)))
        )
        table.add_row(policy, *numbers)
    return table


def _report(
    args: argparse.Namespace, detector: Detector, dataset: CocoDataset, found: Mapping[Policy, BestThreshold | None]
) -> dict[str, object]:
    stored = detector.config.postprocess
    return {
        "command": ["cora", *sys.argv[1:]],
        "version": cora.__version__,
        "model": {"name": str(args.model), "fingerprint": weights_fingerprint(detector)},
        "images": len(dataset),
        "boxes": int(dataset.class_counts().sum()),
        "classes": list(dataset.class_names),
        "at_once": args.at_once,
        "class_agnostic": args.class_agnostic,
        "measured": {policy: None if best is None else best.as_dict() for policy, best in found.items()},
        "stored": {"score_threshold": stored.score_threshold, "distractors": stored.distractors},
    }
