"""What the localizer's options cost, and what the strides of its proposals and its refinement are worth.

    python benchmarks/localizer_options.py --kit ../shared/kit --output runs/localizer_options

Time: rows of the ablation (`recipes/ablation.py`) that change the localizer or its training, relative to "full". Each
gets a fresh localizer beside the model's towers and proposals, so its weights are random, which does not change the
time. Measured are whole detections, and training steps of `--batch` images on the maps of the frozen tower. The rows
take turns; of `--rounds` the median ratio counts, in brackets the smallest and the largest.

Parts: AP50 on `val` if anchors come from the cells of some strides only, or boxes are not refined, with the weights as
they are; in brackets the 95 % interval over images, differences are paired. It says what the trained model owes to each
part, not what one would reach that was trained without it.

`--output` gets `table.md`.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cora
from cora.data.class_split import ClassSplit, read_class_split
from cora.data.coco import CocoDataset, targets_of
from cora.detector import Detector
from cora.detector.variants import DetectorVariant
from cora.evaluation.bootstrap import estimate, resample_counts
from cora.evaluation.group_measure import GROUPS, measure
from cora.images import read_image
from cora.localizer import Memory, PyramidMemory
from cora.localizer.pyramid import PyramidEncoder
from cora.predictor import Predictor
from cora.pyramid import STRIDE
from cora.structures import FeatureMap
from cora.training.defaults import SMALL_TASK
from cora.training.frozen_maps import TaskBatch
from cora.training.starts import fresh_localizer
from cora.training.variants import VARIANTS

FULL = "full"
ROWS = (FULL, "deformable", "two-layers", "two-deformable-layers", "no-denoising", "one-to-one", "region-proposals")
#: Strides that anchors may come from, finest first.
STRIDES = ((16, 32, 64), (16,), (32,))


class StrideDetector(DetectorVariant):
    """Proposes anchors from the cells of some strides only.

    Args:
        strides: strides in pixels.
        parts: arguments of `Detector`.
    """

    variant = ""

    def __init__(self, *, strides: tuple[int, ...], **parts: Any) -> None:
        super().__init__(**parts)
        self.kept = strides

    def encode_map(self, c3: FeatureMap) -> Memory:
        """As `Detector.encode_map`, with all other cells marked as padding."""
        memory, encoder = super().encode_map(c3), self.localizer.encoder
        if not isinstance(memory, PyramidMemory) or not isinstance(encoder, PyramidEncoder):
            raise SystemExit("--only parts: expected a model with a pyramid of maps, got one with a single map")
        height, width = (STRIDE * side for side in memory.size_hw)
        sizes = [(stride, ceil(height / stride) * ceil(width / stride)) for stride in encoder.encoded_strides]
        kept = torch.cat([torch.full((cells,), stride in self.kept) for stride, cells in sizes])
        inside = memory.proposals.inside & kept.to(memory.proposals.inside.device)
        return replace(memory, proposals=replace(memory.proposals, inside=inside))


def unrefined(detector: Detector) -> Detector:
    """The detector without the refinement of its boxes."""
    localizer = copy.deepcopy(detector.localizer)
    localizer.refinement = None
    return detector.with_parts(localizer=localizer)


def fresh(start: Detector, row: str) -> Detector:
    """The row's detector with a fresh localizer."""
    detector = copy.deepcopy(start)
    torch.manual_seed(0)
    fresh_localizer(detector, proposals=False, architecture=VARIANTS[row].architecture)
    return VARIANTS[row].detector(detector)


def timed_in_turns(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each work in each round; the works take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, one in work.items():
            began = time.perf_counter()
            one()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


def batch_of(detector: Detector, dataset: CocoDataset, count: int) -> TaskBatch:
    """Maps of the first images of one shape that have boxes, with their boxes."""
    size = dataset.records[0].size
    records = [one for one in dataset.records if one.size == size and len(one.classes)][:count]
    images = detector.preprocessor([read_image(one.path) for one in records])
    with torch.inference_mode():
        c3, c4 = detector.encode(images)
    c3, c4 = (FeatureMap(one.features.clone(), one.mask.clone()) for one in (c3, c4))
    return c3, c4, tuple(targets_of(one) for one in records)


def training_step(start: Detector, row: str, names: Sequence[str], batch: TaskBatch) -> Callable[[], object]:
    """A forward and a backward pass of the row's task."""
    variant = VARIANTS[row]
    detector = copy.deepcopy(start)
    fresh_localizer(detector, proposals=False, architecture=variant.architecture)
    vocabulary = detector.vocabulary_encoder.encode(names)
    config = replace(SMALL_TASK, proposals=False, class_dropout=0.0)  # which would double some of the steps
    task = variant.build(detector=detector, vocabulary=vocabulary, config=config).train()
    return lambda: task(batch)["loss"].backward()


def times(start: Detector, data: Path, split: ClassSplit, *, images: int, batch: int, rounds: int) -> list[str]:
    """The table of times."""
    val = CocoDataset(annotations=data / "val.json", images=data / "val", class_names=split.all)
    train = CocoDataset(annotations=data / "train_base.json", images=data / "train", class_names=split.base)
    seen = [read_image(record.path) for record in val.records[:images]]
    predictors = {row: Predictor(fresh(start, row)) for row in ROWS}
    detections = timed_in_turns(
        {row: lambda one=one: [one.predict(image, split.all) for image in seen] for row, one in predictors.items()},
        rounds,
    )
    learned = batch_of(start, train, batch)
    steps = timed_in_turns({row: training_step(start, row, split.base, learned) for row in ROWS}, rounds)
    lines = ["| row | detection, time | training step, time |", "| --- | --- | --- |"]
    lines += [f"| {row} | {ratio(detections, row)} | {ratio(steps, row)} |" for row in ROWS]
    full = statistics.median(detections[FULL]) / len(seen), statistics.median(steps[FULL])
    return [*lines, "", f"full: {full[0]:.2f} s an image, {full[1]:.2f} s a step of {len(learned[-1])} images"]


def ratio(seconds: Mapping[str, list[float]], row: str) -> str:
    """Median, smallest and largest time of a row relative to "full"."""
    if row == FULL:
        return "1"
    found = sorted(mine / full for mine, full in zip(seconds[row], seconds[FULL], strict=True))
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


def worth(start: Detector, data: Path, split: ClassSplit, *, limit: int | None, resamples: int) -> list[str]:
    """The table of what parts are worth."""
    val = CocoDataset(annotations=data / "val.json", images=data / "val", class_names=split.all)
    val.records = val.records[:limit]
    parts = {"all": start}
    if start.localizer.refinement is not None:
        parts["no refinement"] = unrefined(start)
    parts |= {f"strides {told(strides)}": StrideDetector.of(start, strides=strides) for strides in STRIDES}
    counts, rows = resample_counts(len(val), resamples=resamples), {}
    for row, detector in parts.items():
        found = measure(detector, val, split, counts)
        print(row, {group: round(100 * found["ap50"][group], 1) for group in GROUPS}, flush=True)
        rows[row] = found["ap50"], {group: np.asarray(drawn) for group, drawn in found["resampled"].items()}
    values, resampled = rows["all"]
    heads = " | ".join([*GROUPS, *(f"{group}, minus all" for group in GROUPS[:2])])
    lines = [f"| parts | {heads} |", "| --- " * 6 + "|"]
    for row, (own, drawn) in rows.items():
        cells = [estimate(own[group], drawn[group]).text(between=" to ") for group in GROUPS]
        minus = [
            estimate(own[group] - values[group], drawn[group] - resampled[group]).text(form="+.1f", between=" to ")
            for group in GROUPS[:2]
        ]
        lines.append(f"| {row} | {' | '.join(cells + minus)} |")
    return lines


def told(strides: tuple[int, ...]) -> str:
    """Strides as the table names them."""
    return ", ".join(map(str, strides))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True, help="folder that holds coco_ovd_mini")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="nano-ovcoco")
    parser.add_argument("--only", choices=("time", "parts"))
    parser.add_argument("--images", type=int, default=4, help="of a timed round of detections")
    parser.add_argument("--batch", type=int, default=4, help="images of a timed training step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit", type=int, help="images of val that AP50 is measured on")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    data, start = args.kit / "coco_ovd_mini", cora.load(args.model).detector
    split = read_class_split(data / "class_split.json")
    lines: list[str] = []
    if args.only != "parts":
        lines += [*times(start, data, split, images=args.images, batch=args.batch, rounds=args.rounds), ""]
    if args.only != "time":
        lines += worth(start, data, split, limit=args.limit, resamples=args.resamples)
    (args.output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
