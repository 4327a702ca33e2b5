"""`cora calibrate`: finds the score threshold of best F1, with and without distractors, and stores the better one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cora.apps import kinds
from cora.apps.argument_types import positive
from cora.apps.command import Command
from cora.apps.data_options import write_numbers
from cora.apps.model_options import class_agnostic_option, device_option, model_option
from cora.apps.options import option
from cora.errors import DataError

if TYPE_CHECKING:
    from rich.table import Table

    from cora.data.coco import CocoDataset
    from cora.detector import Detector
    from cora.evaluation.best_threshold import BestThreshold

Policy = Literal["none", "everyday"]


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """Options of `cora calibrate`."""

    model: str = model_option("name or file of the model")
    images: Path = option(required=True, metavar="DIR", help="images to calibrate on, not those of later evaluations")
    annotations: Path = option(required=True, help="their boxes: COCO, LVIS, or as for training")
    split: Path | None = option(help='class split whose names are looked for: JSON, "coco" or "lvis"')
    output: Path = option(required=True, writes=kinds.MODEL, help="model file to write")
    at_once: int | None = option(
        type=positive,
        help="look for N classes at a time, as people do, until all had their turn (default: all at once)",
    )
    class_agnostic: bool = class_agnostic_option()
    limit: int | None = option(type=positive, help="only the first N images")
    json: Path | None = option(writes=kinds.CALIBRATED, help="write everything that was measured to this file")
    device: str = device_option()


def run(options: CalibrateOptions) -> int:
    """Measure both policies, print a table, write the model with the better one; returns 0.

    Raises:
        CoraError: bad input, before anything is measured; or no detection is right, and nothing is written.
    """
    from functools import partial

    from cora.apps.open_model import open_torch_detector
    from cora.console import counted, output_console, say, tracked
    from cora.detector.checkpoint import check_model_file, exact_dtype
    from cora.evaluation.best_threshold import NOTHING_RIGHT, described, store
    from cora.evaluation.held_out import HeldOut
    from cora.regions import EVERYDAY_NAMES

    check_model_file(options.output)
    dataset = _read(options)
    detector = open_torch_detector(options.model, options.device, needs="cora calibrate")
    detector.vocabulary_encoder.encode(dataset.class_names)  # names too long for the tower fail here
    held_out = HeldOut(dataset=dataset)
    # Without distractors first: this simpler policy wins if both have the same F1.
    policies: dict[Policy, tuple[str, ...]] = {"none": (), "everyday": EVERYDAY_NAMES}
    found: dict[Policy, BestThreshold | None] = {
        policy: held_out.best_threshold(
            detector,
            distractors=names,
            at_once=options.at_once,
            class_agnostic=options.class_agnostic,
            progress=partial(tracked, title=f"distractors {policy}"),
        )
        for policy, names in policies.items()
    }
    reached = {policy: best for policy, best in found.items() if best is not None}
    if not reached:
        raise DataError(
            f"expected a model that gets a box right in {counted(len(dataset), 'image')}, {options.model} had none "
            f"right {NOTHING_RIGHT}; train it first (cora finetune)"
        )
    console = output_console()
    console.print(_table(found))
    policy = max(reached, key=lambda name: reached[name].f1)
    best = reached[policy]
    store(detector, best, distractors=policy)
    detector.save(options.output, dtype=exact_dtype(detector.state_dict()))
    write_numbers(options.json, _report(options, detector, dataset, found))
    say(console, f"{described(best)}, on {counted(len(dataset), 'image')}; distractors: {policy}")
    measured = " --class-agnostic, as it was measured" if options.class_agnostic else ""
    say(console, f"Wrote {options.output}; use it with --model {options.output}{measured}")
    return 0


def _read(options: CalibrateOptions) -> CocoDataset:
    from cora.console import counted
    from cora.data.benchmarks import testing_images
    from cora.data.class_split import open_split
    from cora.data.read import read_annotated

    split = None if options.split is None else open_split(options.split)
    names = None if split is None else split.all
    dataset = testing_images(read_annotated(options.images, options.annotations, names), split)
    dataset = dataset.with_records(dataset.records[: options.limit])
    if not int(dataset.class_counts().sum()):
        raise DataError(
            f"expected boxes to measure on, got none in {counted(len(dataset), 'image')} of {options.annotations}; "
            "name annotated images"
        )
    return dataset


def _table(found: Mapping[Policy, BestThreshold | None]) -> Table:
    from cora.console import number_table

    table = number_table("distractors", "score threshold", "F1, %", "precision, %", "recall, %")
    for policy, best in found.items():
        numbers = (
            ("-",) * 4
            if best is None
            else (f"{best.threshold:g}", *(f"{100 * one:.1f}" for one in (best.f1, best.precision, best.recall)))
        )
        table.add_row(policy, *numbers)
    return table


def _report(
    options: CalibrateOptions, detector: Detector, dataset: CocoDataset, found: Mapping[Policy, BestThreshold | None]
) -> dict[str, object]:
    from cora.detector.fingerprint import weights_fingerprint

    stored = detector.config.postprocess
    return {
        "model": {"name": options.model, "fingerprint": weights_fingerprint(detector)},
        "images": len(dataset),
        "boxes": int(dataset.class_counts().sum()),
        "classes": list(dataset.class_names),
        "at_once": options.at_once,
        "class_agnostic": options.class_agnostic,
        "measured": {policy: None if best is None else best.as_dict() for policy, best in found.items()},
        "stored": {"score_threshold": stored.score_threshold, "distractors": stored.distractors},
    }


COMMAND = Command(
    name="calibrate",
    options=CalibrateOptions,
    run=run,
    help="set a model's score threshold on annotated images",
    description="Set a model's score threshold, and whether everyday names compete, for the best F1 on annotated "
    "images, and store both in a new model file; no weight changes.",
)
