"""The result of `cora study` as a section of the report: how well boxes fit when the class is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cora.errors import DataError
from cora.evaluation.report import Section, histogram, table
from cora.files import found_instead


def read_study(path: Path) -> Section:
    """The conclusions, histogram and table of the `report.json` of a study.

    Raises:
        DataError: the file cannot be read, or is not a report of `cora study`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        found = found_instead(path, error)
        raise DataError(f"expected the report.json of `cora study`, got {found}: {path}; give --study that") from None
    try:
        groups = content["groups"]
        sentences = [summary["study"]["sentence"] for summary in groups.values()]
        rows = [_row(group, name, summary) for group, every in groups.items() for name, summary in every.items()]
        shares = {name: _percent(summary) for name, summary in groups["all"].items() if summary["boxes"]}
    except (KeyError, TypeError, AttributeError, ZeroDivisionError):
        raise DataError(
            f"expected the report.json of `cora study`, got another file: {path}; give --study that"
        ) from None
    head = ("", "boxes from", "boxes", "mean IoU", "above 0.3, %", "above 0.5, %", "above 0.7, %")
    verdicts = "\n".join(f"{group}: {sentence}" for group, sentence in zip(groups, sentences, strict=True))
    label = "IoU of the best box of the given class, share of the boxes in %"
    return Section(
        "With the class given", verdicts, histogram(shares, label=label) + table(head, rows, text_columns=(1,))
    )


def _row(group: str, name: str, summary: Mapping[str, Any]) -> tuple[str, ...]:
    shares = summary["shares"]
    values = [shares[key] for key in sorted(shares)]
    return (
        group,
        name,
        str(summary["boxes"]),
        f"{_value(summary['mean_iou']):.3f}",
        *(f"{100 * _value(value):.1f}" for value in values),
    )


def _value(estimate: Any) -> float:
    return float(estimate["value"] if isinstance(estimate, Mapping) else estimate)


def _percent(summary: Mapping[str, Any]) -> list[float]:
    return [100 * count / summary["boxes"] for count in summary["histogram"]]
