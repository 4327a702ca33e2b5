"""AP50 of sets of images before and after a training: measured, stored for a resumed run, compared and shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from cora.console import number_table, tracked
from cora.data.coco import CocoDataset
from cora.data.fingerprint import about_data
from cora.detector import Detector
from cora.detector.fingerprint import weights_fingerprint
from cora.evaluation.base_novel import GroupScore
from cora.evaluation.bootstrap import Estimate
from cora.evaluation.coco_ap import BoxEvaluation
from cora.evaluation.held_out import HeldOut
from cora.files import write_json

#: Classes in the table by class.
_SHOWN_CLASSES = 30

#: Group -> `GroupScore.as_dict()`.
Scores = dict[str, dict[str, Any]]


def evaluate_sets(detector: Detector, sets: Mapping[str, HeldOut | None]) -> dict[str, BoxEvaluation]:
    """Evaluate a model on each set that is not None, with progress on standard error."""
    return {
        name: one.evaluate(detector, progress=partial(tracked, title=f"measuring {name}"))
        for name, one in sets.items()
        if one is not None
    }


def scores_by_group(found: Mapping[str, BoxEvaluation], sets: Mapping[str, HeldOut | None]) -> dict[str, Scores]:
    """Set -> group -> scores of the evaluations that `evaluate_sets` gave."""
    return {
        name: {group: score.as_dict() for group, score in one.of_groups(found[name]).items()}
        for name, one in sets.items()
        if one is not None
    }


def key_of_sets(detector: Detector, sets: Mapping[str, HeldOut | None]) -> dict[str, Any]:
    """What the scores of a model depend on: its weights, the images and their boxes; a key for `measure_once`."""
    photos = {name: about_data(one.dataset) for name, one in sets.items() if one is not None}
    return {"model": weights_fingerprint(detector), "photos": photos}


def measure_once(path: Path, key: dict[str, Any], measure: Callable[[], dict[str, Scores]]) -> dict[str, Scores]:
    """The scores of `measure()`, stored in `path`, so that a resumed run with the same `key` only reads them."""
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("key") == key:
            found: dict[str, Scores] = content["scores"]
            return found
    found = measure()
    write_json(path, {"key": key, "scores": found})
    return found


def forgotten(before: Scores, after: Scores) -> str:
    """A text that lists the groups whose AP50 fell below its earlier interval; empty where none did."""
    return ", ".join(
        f"AP50 of {group} fell from {Estimate(**score['ap50']).text()} to {100 * now:.1f}"
        for group, score in before.items()
        if (low := score["ap50"].get("low")) is not None
        and (now := after[group]["ap50"].get("value")) is not None
        and now < low
    )


def before_after_table(before: Mapping[str, Scores], after: Mapping[str, Scores]) -> Table:
    """AP50 of every set and group before and after the training."""
    table = number_table("", "classes", "before", "after", title="AP50, % (95 % interval)")
    for name, groups in after.items():
        for group, score in groups.items():
            cells = (Estimate(**one[name][group]["ap50"]).text() for one in (before, after))
            table.add_row(f"{name}, {group}", str(score["classes"]), *cells)
    return table


def classes_table(by_class: Mapping[str, GroupScore], dataset: CocoDataset) -> Table:
    """AP50 of the classes of the held-out images, the worst first."""
    counts = dict(zip(dataset.class_names, dataset.class_counts().tolist(), strict=True))
    table = number_table("class", "boxes", "AP50, % (95 % interval)", title="Held-out images, by class")
    worst = sorted(by_class.items(), key=lambda item: item[1].ap50.value or 0.0)
    for name, score in worst[:_SHOWN_CLASSES]:
        table.add_row(Text(name), str(counts[name]), score.ap50.text())
    if len(worst) > _SHOWN_CLASSES:
        table.add_row(f"{len(worst) - _SHOWN_CLASSES} better ones", "", "in report.json")
    return table
