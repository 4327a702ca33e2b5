"""What `latency.py` measured: kept in a file as it comes, and shown as tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PUBLISHED, ALL_BOXES, DEFAULT = "published", "all boxes", "default"
WAYS = (PUBLISHED, ALL_BOXES, DEFAULT)


class Kept:
    """Measurements by kind and name; with a file, written after each, so that a stopped benchmark goes on where it was.

    Args:
        path: the file, if there is one.
        made_of: what the numbers depend on besides, as the machine; what was measured with other things is dropped.
    """

    def __init__(self, path: Path | None, made_of: dict[str, str]) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        if path is not None and path.exists():
            values = json.loads(path.read_text(encoding="utf-8"))
            self.values = values if all(values.get(name) == value for name, value in made_of.items()) else {}
        self.values |= made_of

    def once(self, kind: str, name: str, measure: Callable[[], Any]) -> None:
        """Measure what is not there yet."""
        group = self.values.setdefault(kind, {})
        if name not in group:
            group[name] = measure()
            if self.path is not None:
                self.path.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")
        print(kind, name, group[name], flush=True)


def tables(values: dict[str, Any], command: str) -> str:
    """All that is kept, in Markdown: ratios, stages, memory, text and AP50."""
    makers = (_ratios, _stages, _floor, _memory, _backbone, _text, _rounding, _precision)
    parts = ["\n".join(maker(values)) for maker in makers]
    head = f"Machine: {values['machine']}. Command: `{command}`."
    return "\n\n".join([head, *(part for part in parts if part)])


def _rows(values: dict[str, Any]) -> list[tuple[str, int, int, dict[str, dict[str, float]]]]:
    """Case, classes, batch and seconds of each way, in the order of a table."""
    rows = []
    for name, found in values.get("time", {}).items():
        case, classes, batch = name.split(", ")
        rows.append((case, int(classes), int(batch), found))
    order = ["nano-640", "RN50-608x800", "RN50-800x1333"]
    return sorted(rows, key=lambda row: (order.index(row[0]), row[2], row[1]))


def _ratios(values: dict[str, Any]) -> Iterator[str]:
    rows = _rows(values)
    if not rows:
        return
    seconds = " | ".join(f"{way}, s an image" for way in WAYS)
    yield f"| Case | classes | batch | published : default | all boxes : default | {seconds} |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for case, classes, batch, found in rows:
        total = {way: stages["all"] for way, stages in found.items()}
        ratios = [f"**{total[way] / total[DEFAULT]:.1f}x**" if way in total else "" for way in (PUBLISHED, ALL_BOXES)]
        cells = [*ratios, *(f"{total[way]:.3f}" if way in total else "" for way in WAYS)]
        yield f"| {case} | {classes} | {batch} | {' | '.join(cells)} |"


def _with_stages(values: dict[str, Any]) -> list[tuple[str, dict[str, dict[str, float]]]]:
    """Of each case single images with the first number of classes, which are timed in all ways."""
    first: dict[str, dict[str, dict[str, float]]] = {}
    for name, found in values.get("time", {}).items():  # in the order of measuring; files keep it
        case, _, batch = name.split(", ")
        if int(batch) == 1:
            first.setdefault(case, found)
    return list(first.items())


def _stages(values: dict[str, Any]) -> Iterator[str]:
    rows = _with_stages(values)
    if not rows:
        return
    names = [name for name in rows[0][1][DEFAULT] if name != "all"]
    yield f"| Milliseconds | {' | '.join(names)} |"
    yield "| --- |" + " --- |" * len(names)
    for case, found in rows:
        for way, stages in found.items():
            yield f"| {case}, {way} | " + " | ".join(f"{1000 * stages[name]:.0f}" for name in names) + " |"


def _memory(values: dict[str, Any]) -> Iterator[str]:
    peaks = values.get("memory", {})
    if not peaks:
        return
    yield f"| Peak memory, GiB | {' | '.join(WAYS)} |"
    yield "| --- |" + " --- |" * len(WAYS)
    for case, found in peaks.items():
        yield f"| {case} | " + " | ".join(f"{found[way]:.2f}" if way in found else "" for way in WAYS) + " |"


def _backbone(values: dict[str, Any]) -> Iterator[str]:
    for case, found in values.get("backbone", {}).items():
        yield (
            f"{case}, three names, the score threshold of the model: `predict` takes **{found['ratio']:.2f}** times "
            f"({found['least']:.2f} to {found['most']:.2f}) a plain float32 forward pass of its backbone, "
            f"channels last ({1000 * found['nano']:.0f} and {1000 * found['backbone']:.0f} ms)."
        )


def _text(values: dict[str, Any]) -> Iterator[str]:
    for name, text in values.get("text", {}).items():
        ratio = text["one by one"] / text["sorted batches"]
        yield (
            f"Text, {name} with 80 templates: {text['one by one']:.0f} s one prompt at a time padded to 77 tokens, "
            f"{text['sorted batches']:.0f} s in sorted batches: **{ratio:.1f}x**, largest difference "
            f"{text['difference']:.1e} (extrapolated from {text['texts']} and {8 * text['texts']} prompts)."
        )


def _rounding(values: dict[str, Any]) -> Iterator[str]:
    for photos, parts in values.get("rounding", {}).items():
        moves = "; ".join(
            f"of the {part} {found['median']:.4f} % of the image in the median, {found['most']:.2f} % at most"
            for part, found in parts.items()
        )
        yield f"Half precision moves nano's boxes, on {photos} of the kit: {moves}."


def _floor(values: dict[str, Any]) -> Iterator[str]:
    floors = values.get("floor", {})
    if not floors:
        return
    yield "| Floor of the default way, one image | 10^9 multiplications | 10^9 a second | floor, ms | measured, ms |"
    yield "| --- | --- | --- | --- | --- |"
    measured = {case: found[DEFAULT]["all"] for case, found in _with_stages(values)}
    for case, found in floors.items():
        rate = found["GMAC a second"]
        time = f"{1000 * measured[case]:.0f}" if case in measured else ""
        yield f"| {case} | {found['GMAC']:.1f} | {rate:.0f} | {1000 * found['GMAC'] / rate:.0f} | {time} |"


def _precision(values: dict[str, Any]) -> Iterator[str]:
    for rows in values.get("AP50", {}).values():
        groups = ("novel", "base", "all")
        yield f"| AP50 of nano, % | {' | '.join(groups)} | {' | '.join(f'{group}, change' for group in groups)} |"
        yield "| --- |" + " --- |" * 6
        for place, (way, scores) in enumerate(rows.items()):
            points = [_interval(scores[group], "") for group in groups]
            changes = [_interval(scores[group], "change ") if place else "" for group in groups]
            yield f"| {way} | {' | '.join([*points, *changes])} |"


def _interval(score: dict[str, float | None], part: str) -> str:
    value, low, high = (score[f"{part}{name}"] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "-"
    return f"{value:.2f} ({low:.1f} to {high:.1f})"
