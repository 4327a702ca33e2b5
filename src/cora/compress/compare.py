"""Models before and after compression, side by side: sizes, cost, agreement and AP50."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from PIL import Image
from rich.table import Table
from rich.text import Text

from cora.compress.arch_sizes import Architecture
from cora.compress.prune_measure import Cost, agreement, costs, detect_all
from cora.console import number_table, tracked
from cora.detector import Detector
from cora.evaluation.base_novel import GroupScore
from cora.evaluation.bootstrap import Estimate
from cora.evaluation.held_out import HeldOut


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What was measured of one model.

    Attributes:
        sizes: of the model.
        cost: of an image.
        agreement: with the first model; None for that model itself.
        scores: AP50 by group of classes, where there are boxes to measure it on.
    """

    sizes: Architecture
    cost: Cost
    agreement: Estimate | None = None
    scores: Mapping[str, GroupScore] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, fit for JSON."""
        return {
            "sizes": self.sizes.to_dict(),
            "cost": self.cost.to_dict(),
            "agreement": None if self.agreement is None else self.agreement.as_dict(),
            "scores": {group: score.as_dict() for group, score in self.scores.items()},
        }


def compare_models(
    models: Mapping[str, Detector], images: list[Image.Image], names: tuple[str, ...], held_out: HeldOut | None
) -> dict[str, Numbers]:
    """Numbers of every model on the same images; agreement is with the first of them.

    Args:
        models: by the name that tables show.
        images: for cost and agreement, at least one.
        names: classes that the images are searched for.
        held_out: images with boxes, for AP50.
    """
    known = {key: model.vocabulary_encoder.encode(names).to(model.device) for key, model in models.items()}
    found = {key: detect_all(model, images, known[key]) for key, model in models.items()}
    cost = costs(models, images[0], known)
    first = next(iter(models))
    return {
        key: Numbers(
            sizes=Architecture.of(model.config),
            cost=cost[key],
            agreement=agreement(found[first], found[key]) if key != first else None,
            scores=held_out.scores(model, progress=partial(tracked, title=f"measuring, {key}")) if held_out else {},
        )
        for key, model in models.items()
    }


def comparison_table(columns: Mapping[str, Numbers]) -> Table:
    """One row for every number, one column for every model; sizes that all share are left out."""
    table = number_table("", *columns)
    numbers = list(columns.values())
    for name in numbers[0].sizes.numbers():
        values = [str(one.sizes.numbers()[name]) for one in numbers]
        if len(set(values)) > 1:
            table.add_row(Text(name.replace("_", " ")), *values)
    for part in ("tower", "localizer", "text", "parameters"):
        label = "parameters, all" if part == "parameters" else f"parameters, {part}"
        table.add_row(label, *(f"{getattr(one.cost, part):,}" for one in numbers))
    table.add_row("GMAC an image", *(f"{one.cost.gmac:.2f}" for one in numbers))
    table.add_row("ms an image", *(f"{one.cost.milliseconds:.0f}" for one in numbers))
    table.add_row("agreement, %", *("" if one.agreement is None else one.agreement.text() for one in numbers))
    add_scores(table, [one.scores for one in numbers])
    return table


def add_scores(table: Table, columns: list[Mapping[str, GroupScore]]) -> None:
    """Add a row for every group of classes: AP50 in percent with its interval, a column for every model."""
    for group in columns[0]:
        table.add_row(f"AP50 {group}, %", *(scores[group].ap50.text() for scores in columns))
