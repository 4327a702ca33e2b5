"""Measure a model on annotated photos and print a table with intervals; `evaluate.py` has the arguments."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import cora
from cora.apps.device import pick_device
from cora.apps.files import check_writable, write_whole
from cora.data.class_split import read_class_split
from cora.data.coco import CocoDataset
from cora.errors import DataError
from cora.evaluation.base_novel import GroupScore, class_groups, group_ratios, group_scores, resampled_ap50
from cora.evaluation.bootstrap import PERCENTILES, Estimate, FloatArray, IntArray, resample_counts
from cora.evaluation.coco_ap import BoxEvaluation, evaluate_boxes
from cora.evaluation.predict import Predictions, ground_truth, predict_dataset
from cora.evaluation.region_accuracy import Accuracy, accuracy, by_class, rank_regions
from cora.evaluation.synonyms import load_synonyms, rename


def measure_boxes(args: argparse.Namespace) -> int:
    """Box AP of novel, base and all classes, and the same with synonyms if asked; returns the exit code."""
    setting = _prepare(args)
    names, console = setting.dataset.class_names, _console()
    renamed, changed = rename(names, load_synonyms(args.rename)) if args.rename else (list(names), [])
    weights = _class_weights(args.class_weights, names)
    truth = ground_truth(setting.dataset, indices=setting.indices)
    detector = cora.load(args.model).to(setting.device)

    def measure(classes: Sequence[str], title: str) -> _Measured:
        predictions = predict_dataset(
            detector,
            setting.dataset,
            classes,
            indices=setting.indices,
            score=args.score,
            class_weights={other: weights[name] for name, other in zip(names, classes, strict=True) if name in weights}
            or None,
            progress=lambda indices: _track(indices, title),
        )
        evaluation = evaluate_boxes(
            truth, predictions.results, classes={name: number for number, name in enumerate(names, start=1)}
        )
        return _Measured(predictions, evaluation, resampled_ap50(evaluation, setting.counts))

    plain = measure(names, "plain names")
    scores = group_scores(plain.evaluation, plain.resampled, setting.groups)
    console.print(_box_table(scores, plain, setting))
    report = {
        **_header(args, detector, setting),
        "class_weights": weights,
        "score": args.score,
        "seconds_per_image": plain.predictions.seconds_per_image,
        "detections": plain.evaluation.detections,
        "groups": {group: score.as_dict() for group, score in scores.items()},
        "classes": [score.as_dict() for score in plain.evaluation.scores],
    }
    if args.rename:
        other = measure(renamed, "synonyms")
        groups = {group: tuple(n for n in members if n in set(changed)) for group, members in setting.groups.items()}
        plain_scores = group_scores(plain.evaluation, plain.resampled, groups)
        other_scores = group_scores(other.evaluation, other.resampled, groups)
        ratios = group_ratios(plain.evaluation, other.evaluation, plain.resampled, other.resampled, groups)
        console.print(_synonym_table(plain_scores, other_scores, ratios))
        report["synonyms"] = {
            "source": str(args.rename),
            "renamed": {name: new for name, new in zip(names, renamed, strict=True) if name != new},
            "plain": {group: score.as_dict() for group, score in plain_scores.items()},
            "synonyms": {group: score.as_dict() for group, score in other_scores.items()},
            "ratio": {group: ratio.as_dict() for group, ratio in ratios.items()},
            "classes": [score.as_dict() for score in other.evaluation.scores if score.name in set(changed)],
        }
    _write(args.json, report)
    return 0


def measure_regions(args: argparse.Namespace) -> int:
    """Accuracy of ground-truth boxes among all classes, with and without the prompt; returns exit code 0."""
    setting = _prepare(args)
    names = setting.dataset.class_names
    detector = cora.load(args.model).to(setting.device)
    measured = rank_regions(
        detector,
        setting.dataset,
        indices=setting.indices,
        progress=lambda indices: _track(indices, "regions"),
    )
    answers = {
        label: {
            group: accuracy(measured, names, members, setting.counts, prompt=prompt)
            for group, members in setting.groups.items()
        }
        for label, prompt in (("prompt", True), ("no prompt", False))
    }
    _console().print(_region_table(answers, setting))
    report = {
        **_header(args, detector, setting),
        "accuracy": {
            label: {group: {size: a.as_dict() for size, a in sizes.items()} for group, sizes in groups.items()}
            for label, groups in answers.items()
        },
        "classes": by_class(measured, names),
    }
    _write(args.json, report)
    return 0


@dataclass(frozen=True)
class _Setting:
    dataset: CocoDataset
    indices: range
    groups: dict[str, tuple[str, ...]]
    counts: IntArray
    device: torch.device


@dataclass(frozen=True)
class _Measured:
    predictions: Predictions
    evaluation: BoxEvaluation
    resampled: FloatArray


def _prepare(args: argparse.Namespace) -> _Setting:
    """Check every input before the model is loaded, so that a bad argument costs no waiting."""
    if args.json is not None:
        check_writable(args.json, folder=False)
    device = pick_device(args.device)
    split = read_class_split(args.split) if args.split is not None else None
    dataset = CocoDataset(
        annotations=args.annotations, images=args.images, class_names=split.all if split is not None else None
    )
    if not len(dataset):
        raise DataError(f"expected at least one image in {args.annotations}, got none; nothing can be measured")
    indices = range(min(len(dataset), args.limit or len(dataset)))
    groups = class_groups(split.base, split.novel) if split is not None else {"all": dataset.class_names}
    return _Setting(
        dataset=dataset,
        indices=indices,
        groups={group: members for group, members in groups.items() if members},
        counts=resample_counts(len(indices), resamples=args.resamples),
        device=device,
    )


def _class_weights(path: Path | None, names: Sequence[str]) -> dict[str, float]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"expected JSON of class name to weight, cannot read {path}: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(v, int | float) and 0 < v < 1e6 for v in content.values()):
        raise DataError(f'expected JSON of class name to weight above 0 in {path}, such as {{"bus": 8}}')
    strangers = [name for name in content if name not in set(names)]
    if strangers:
        raise DataError(
            f"expected weights of the {len(names)} classes, got {len(strangers)} unknown names in {path}: "
            f"{', '.join(strangers[:5])}; remove them"
        )
    return {name: float(weight) for name, weight in content.items()}


def fingerprint(model: torch.nn.Module) -> str:
    """First 16 hex digits of the SHA-256 over names, types, shapes and bytes of the weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _header(args: argparse.Namespace, detector: torch.nn.Module, setting: _Setting) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    dataset = setting.dataset
    records = [dataset.records[index] for index in setting.indices]
    return {
        "command": ["cora", *sys.argv[1:]],
        "version": cora.__version__,
        "model": {"name": str(args.model), "fingerprint": fingerprint(detector)},
        "annotations": {
            "file": str(args.annotations),
            "sha256": _sha256(args.annotations),
            "repairs": dataset.repairs,
        },
        "split": {group: list(members) for group, members in setting.groups.items() if group != "all"},
        "vocabulary": list(dataset.class_names),
        "images": len(records),
        "boxes": sum(len(record.classes) for record in records),
        "crowd_boxes": sum(len(record.crowd_classes) for record in records),
        "bootstrap": {"resamples": len(setting.counts), "percentiles": list(PERCENTILES), "over": "images"},
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _box_table(scores: Mapping[str, GroupScore], plain: _Measured, setting: _Setting) -> Table:
    title = f"{len(setting.indices)} images, {plain.predictions.seconds_per_image:.2f} s an image"
    table = _table(title, "classes", "AP50 (95 % interval)", "AP", "AR")
    for group, score in scores.items():
        table.add_row(group, _classes(score), _percent(score.ap50), _plain(score.ap), _plain(score.ar))
    return table


def _synonym_table(
    plain: Mapping[str, GroupScore], other: Mapping[str, GroupScore], ratios: Mapping[str, Estimate]
) -> Table:
    table = _table("renamed classes only", "classes", "AP50 plain", "AP50 synonyms", "kept")
    for group, score in plain.items():
        kept = _percent(ratios[group], unit=" %")
        table.add_row(group, _classes(score), _percent(score.ap50), _percent(other[group].ap50), kept)
    return table


def _region_table(answers: Mapping[str, Mapping[str, Mapping[str, Accuracy]]], setting: _Setting) -> Table:
    title = f"ground-truth boxes named among {len(setting.dataset.class_names)} classes, %"
    table = _table(title, "boxes", "top-1", "top-5", "class mean top-1", "S / M / L top-1")
    for label, groups in answers.items():
        for group, sizes in groups.items():
            whole = sizes["all"]
            per_size = " / ".join(_plain(sizes[size].top1.value) for size in ("small", "medium", "large"))
            cells = (_percent(whole.top1), _percent(whole.top5), _percent(whole.top1_per_class))
            table.add_row(f"{group}, {label}", str(whole.boxes), *cells, per_size)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _classes(score: GroupScore) -> str:
    return f"{score.classes}" + (f" ({score.absent} absent)" if score.absent else "")


def _percent(measured: Estimate, *, unit: str = "") -> str:
    if measured.value is None:
        return "-"
    interval = "" if measured.low is None else f" ({_plain(measured.low)}-{_plain(measured.high)})"
    return f"{_plain(measured.value)}{unit}{interval}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _track(indices: Sequence[int], title: str) -> Iterable[int]:
    return track(indices, description=title, console=Console(stderr=True), transient=True)


def _write(path: Path | None, report: Mapping[str, Any]) -> None:
    if path is not None:
        text = json.dumps(report, indent=1) + "\n"
        write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))


def _console() -> Console:
    # A table in a pipe has no window to fit.
    return Console(width=None if sys.stdout.isatty() else 160)
