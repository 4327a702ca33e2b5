"""Tables of scores, which commands print and reports show: in percent, with intervals in brackets."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from cora.console import number_table
from cora.evaluation.base_novel import GroupScore
from cora.evaluation.bootstrap import Estimate
from cora.evaluation.oracles import AS_IT_IS
from cora.evaluation.region_accuracy import Accuracy
from cora.evaluation.region_change import RegionChange
from cora.evaluation.tide import KINDS, ErrorShares


def box_table(title: str, scores: Mapping[str, GroupScore]) -> Table:
    """The scores of each group of classes."""
    answer = table(title, "classes", "AP50 (95 % interval)", "AP", "AP75", "AP S / M / L", "AR", "AR S / M / L")
    for group, score in scores.items():
        answer.add_row(
            group,
            classes(score),
            percent(score.ap50),
            *(plain(value) for value in (score.ap, score.ap75)),
            " / ".join(plain(value) for value in (score.ap_small, score.ap_medium, score.ap_large)),
            plain(score.ar),
            " / ".join(plain(value) for value in (score.ar_small, score.ar_medium, score.ar_large)),
        )
    return answer


def synonym_table(
    scores: Mapping[str, GroupScore], other: Mapping[str, GroupScore], ratios: Mapping[str, Estimate]
) -> Table:
    """The scores of renamed classes under their own names and under synonyms."""
    answer = table("renamed classes only", "classes", "AP50 plain", "AP50 synonyms", "kept")
    for group, score in scores.items():
        kept = percent(ratios[group], unit=" %")
        answer.add_row(group, classes(score), percent(score.ap50), percent(other[group].ap50), kept)
    return answer


def gain_table(oracles: Mapping[str, Mapping[str, GroupScore]], errors: Mapping[str, ErrorShares] | None) -> Table:
    """AP50 with each oracle, and without each kind of error, and its gain over the detector as it is.

    Args:
        oracles: oracle -> group -> scores.
        errors: group -> cost of each kind of error; None leaves these rows out.
    """
    groups = list(next(iter(oracles.values())))
    answer = table("AP50, and what one perfect step would give back", *(f"{group} (gain)" for group in groups))
    before = oracles[AS_IT_IS]
    for oracle, scores in oracles.items():
        cells = []
        for group in groups:
            value, start = scores[group].ap50.value, before[group].ap50.value
            gain = "" if oracle == AS_IT_IS or value is None or start is None else f" ({100 * (value - start):+.1f})"
            cells.append(f"{plain(value)}{gain}")
        answer.add_row(oracle, *cells)
    for kind in KINDS if errors is not None else ():
        answer.add_row(f"no {kind} errors", *(_corrected(errors, group, kind) for group in groups))
    return answer


def error_table(errors: Mapping[str, ErrorShares]) -> Table:
    """Gain, share and number of each kind of error, for every group."""
    answer = table("errors: AP50 that mending one kind gives back, its share of all kinds, how many", *errors)
    for kind in KINDS:
        cells = [f"{100 * e.gains[kind]:+.1f}, {plain(e.shares[kind])} %, {e.counts[kind]}" for e in errors.values()]
        answer.add_row(kind, *cells)
    return answer


def ceiling_table(oracles: Mapping[str, Mapping[str, GroupScore]], limits: Mapping[str, int]) -> Table:
    """The highest recall that the boxes allow, by size.

    Args:
        oracles: oracle -> group -> scores.
        limits: best-box oracle -> number of boxes of an image that it chooses from.
    """
    answer = table("recall ceiling of the boxes: best box of every object", "IoU 0.5", "IoU 0.5-0.95", "S / M / L")
    for oracle, limit in limits.items():
        for group, score in oracles[oracle].items():
            sizes = " / ".join(plain(value) for value in (score.ar_small, score.ar_medium, score.ar_large))
            answer.add_row(f"{group}, {limit} boxes", plain(score.ap50.value), plain(score.ar), sizes)
    return answer


def region_table(answers: Mapping[str, Mapping[str, Mapping[str, Accuracy]]], number: int) -> Table:
    """Region accuracy.

    Args:
        answers: label of the rows -> group -> size -> accuracy.
        number: number of classes.
    """
    title = f"ground-truth boxes named among {number} classes, %"
    answer = table(title, "boxes", "top-1", "top-5", "class mean top-1", "S / M / L top-1")
    for label, groups in answers.items():
        for group, sizes in groups.items():
            whole = sizes["all"]
            per_size = " / ".join(plain(sizes[size].top1.value) for size in ("small", "medium", "large"))
            cells = (percent(whole.top1), percent(whole.top5), percent(whole.top1_per_class))
            answer.add_row(f"{group}, {label}", str(whole.boxes), *cells, per_size)
    return answer


def change_table(changes: Mapping[str, RegionChange], title: str) -> Table:
    """Top-1 accuracy of every group before and after, and the change."""
    answer = table(title, "boxes", "top-1 before", "after", "change", "class mean before", "after", "change")
    for group, change in changes.items():
        cells = [
            percent(estimate, signed=signed)
            for kind in (change.per_box, change.per_class)
            for estimate, signed in ((kind.before, False), (kind.after, False), (kind.difference, True))
        ]
        answer.add_row(group, str(change.boxes), *cells)
    return answer


def table(title: str, *columns: str) -> Table:
    """An empty table whose first column names the rows."""
    return number_table("", *columns, title=title)


def classes(score: GroupScore) -> str:
    """The number of classes that a mean is over, and of those that are absent."""
    return f"{score.classes}" + (f" ({score.absent} absent)" if score.absent else "")


def percent(measured: Estimate, *, unit: str = "", signed: bool = False) -> str:
    """A number with its interval: "8.2 (5.8-10.6)", or "+1.4 (-0.3 to 2.9)" for a difference."""
    form, between = ("+.1f", " to ") if signed else (".1f", "-")
    return measured.text(form=form, between=between, unit=unit)


def plain(value: float | None) -> str:
    """A share in percent, a dash for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def _corrected(errors: Mapping[str, ErrorShares] | None, group: str, kind: str) -> str:
    if errors is None or group not in errors:
        return "-"
    found = errors[group]
    return f"{plain(found.ap50 + found.gains[kind])} ({100 * found.gains[kind]:+.1f})"
