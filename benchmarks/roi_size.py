"""What the grid that regions are pooled to does for small objects: boxes named right, and time.

    python benchmarks/roi_size.py --kit ../shared/kit/coco_ovd_mini --output runs/roi_size

A region is pooled to S x S cells, to which the region prompt, of as many cells, is added. For every S of `--sizes`, and
for the model's own:

  none       no prompt
  own        the model's own prompt, resampled to S (`Detector.set_pool_size`)
  fresh      a prompt that starts from zero and is trained for `--epochs` epochs, the same for every S, on the boxes of
             the base classes of train (`cora train prompts --set fresh=True --set prompts.pool_size=S`)
  trained    the same from the model's own prompt, resampled

Measured as in `cora region-accuracy`: the share of the ground-truth boxes of val that get their class among all
classes, by COCO's sizes (small: below 32 x 32 pixels), base and novel classes apart. In brackets the 95 % interval over
images; the second table has differences from the model's own prompt and S in the same resamples.

Time is processor time on one thread: of exact pooling and naming of the boxes that the model finds in an image, and of
the whole detection, which pools its anchors, too. Every S takes its turn with every image; the best of `--rounds`
counts.

`--output` gets `table.md`, with what the tables are made of beside it. What is there is not trained or measured again,
and a training that was stopped resumes. The maps of the frozen tower are made once for all S.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

import cora
from cora.data.class_split import ClassSplit, read_class_split
from cora.data.coco import CocoDataset
from cora.data.order import subsample
from cora.detector import Detector
from cora.detector.fingerprint import weights_fingerprint
from cora.evaluation.base_novel import class_groups
from cora.evaluation.bootstrap import FloatArray, IntArray, estimate_of, resample_counts, whole_first
from cora.evaluation.region_accuracy import SIZES, RegionRanks, rank_regions, right_shares
from cora.files import whole_file, write_json
from cora.predictor import at_precision
from cora.training.defaults import SMALL_PROMPTS, small_augment
from cora.training.pipeline import Hooks, TrainingPipeline
from cora.training.recipe import DataStage, TrainRecipe

WAYS = ("none", "own", "fresh", "trained")
#: Columns of the tables: groups of classes, and sizes of boxes.
GROUPS, COLUMNS = ("base", "novel"), {"all": (0.0, float("inf")), **SIZES}

#: (group, size of boxes) -> share of the boxes named right, [1 + resamples].
Shares = dict[tuple[str, str], FloatArray]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared.

    Attributes:
        kit: folder with train, val and their annotation files.
        output: folder of results.
        model: name or path.
        epochs: of the training of a prompt.
        limit: images of train and of val that are used, evenly chosen; None for all.
        resamples: of the images of val, for the intervals.
    """

    kit: Path
    output: Path
    model: str
    epochs: int
    limit: int | None
    resamples: int

    @cached_property
    def split(self) -> ClassSplit:
        """Base and novel classes."""
        return read_class_split(self.kit / "class_split.json")

    @cached_property
    def train(self) -> CocoDataset:
        """Boxes of the base classes to learn from."""
        return self._read("train", "train_base.json", self.split.base)

    @cached_property
    def val(self) -> CocoDataset:
        """Boxes of all classes to measure on."""
        return self._read("val", "val.json", self.split.all)

    @cached_property
    def counts(self) -> IntArray:
        """How often each resample has each image."""
        return resample_counts(len(self.val), resamples=self.resamples)

    def _read(self, images: str, boxes: str, names: tuple[str, ...]) -> CocoDataset:
        whole = CocoDataset(annotations=self.kit / boxes, images=self.kit / images, class_names=names)
        return whole if self.limit is None else whole.with_records(subsample(whole.records, self.limit))

    def fresh_detector(self, size: int | None = None) -> Detector:
        """The model, its regions pooled to S x S cells."""
        detector = cora.load(self.model).detector
        if size is not None:
            detector.set_pool_size(size)
        return detector

    def detector(self, way: str, size: int) -> Detector:
        """The model with the prompt of a way; a training that was stopped resumes, one that is done is read."""
        if way in ("none", "own"):
            return self.fresh_detector(size)
        detector = self.fresh_detector()
        short_side = detector.preprocessor.config.usual_short_side
        recipe = TrainRecipe(
            model=self.model,
            fresh=way == "fresh",
            data=DataStage(augment=small_augment(short_side), versions=1),
            prompts=replace(SMALL_PROMPTS, epochs=self.epochs, pool_size=size),
            relabel=None,
            localizer=None,
        )
        run, maps = self.output / "runs" / f"{way}-{size}", self.output / "maps"
        for folder in (run, maps):
            folder.mkdir(parents=True, exist_ok=True)
        if not (run / "maps").exists():
            (run / "maps").symlink_to(maps.resolve(), target_is_directory=True)
        TrainingPipeline(
            recipe=recipe, detector=detector, dataset=self.train, run=run, hooks=Hooks(report=_report)
        ).all()
        return detector

    def ranks(self, way: str, size: int) -> RegionRanks:
        """Rank of the true class of every box of val; kept in the output."""
        way = "own" if way == "none" else way  # measured with it
        file = self.output / "cells" / f"{way}-{size}.npz"
        if not file.exists():
            start = time.process_time()
            detector = self.detector(way, size)
            trained = time.process_time()
            found = rank_regions(detector, self.val, progress=lambda chosen: _tracked(chosen, f"{way}, S = {size}"))
            arrays = {name: value for name, value in vars(found).items() if value is not None}
            with whole_file(file) as part, part.open("wb") as opened:
                np.savez(opened, **arrays)
            measured = time.process_time()
            spent = f"{trained - start:.0f} s to train, {measured - trained:.0f} s to measure"
            print(f"{way}, S = {size}: {spent}", flush=True)
        with np.load(file) as arrays:
            return RegionRanks(**{name: int(arrays[name]) if name == "images" else arrays[name] for name in arrays})

    def shares(self, way: str, size: int) -> Shares:
        """Shares of the boxes that a way names right."""
        found, names = self.ranks(way, size), self.val.class_names
        right = (found.without_prompt if way == "none" else found.with_prompt) == 0
        shares = {}
        for group, members in class_groups(self.split.base, self.split.novel).items():
            wanted = np.isin(found.classes, [place for place, name in enumerate(names) if name in members])
            for column, (low, high) in COLUMNS.items():
                keep = wanted & (found.areas_px >= low) & (found.areas_px < high)
                shares[group, column], _ = right_shares(
                    right[keep], found.classes[keep], found.image_index[keep], len(names), whole_first(self.counts)
                )
        return shares

    def check(self) -> None:
        """Stop where the output holds results of other settings."""
        about = {
            "model": weights_fingerprint(self.fresh_detector()),
            "epochs": self.epochs,
            "images": [len(self.train), len(self.val)],
        }
        file = self.output / "about.json"
        found = json.loads(file.read_text()) if file.exists() else about
        if differing := [key for key in about if found.get(key) != about[key]]:
            raise SystemExit(f"{self.output} has results of other {', '.join(differing)}; name another --output")
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(file, about)


@torch.no_grad()
def seconds(comparison: Comparison, sizes: Sequence[int], *, images: int, rounds: int) -> dict[int, FloatArray]:
    """Best processor seconds of pooling and naming, and of the whole detection, of every S: [images, 2]."""
    torch.set_num_threads(1)
    views = {}
    for size in sizes:
        detector = comparison.fresh_detector(size)
        views[size] = at_precision(detector, detector.precision)
    first = views[sizes[0]]
    vocabulary = first.vocabulary_encoder.encode(comparison.split.all)
    places = subsample(range(len(comparison.val)), images)
    taken = {size: np.full((len(places), 2), np.inf) for size in sizes}
    for row, place in enumerate(_tracked(places, "time")):
        batch = first.preprocessor([comparison.val[place][0]])
        c3, _ = first.encode(batch)
        boxes = first(batch, vocabulary).boxes_cxcywh
        for _ in range(rounds):
            for size, view in views.items():
                start = time.process_time()
                view.classify(c3, boxes, vocabulary)
                named = time.process_time()
                view(batch, vocabulary)
                both = np.array([named - start, time.process_time() - named])
                taken[size][row] = np.minimum(taken[size][row], both)
    return taken


def accuracy_tables(comparison: Comparison, ways: Sequence[str], sizes: Sequence[int], own: int) -> list[str]:
    """Shares of boxes named right, and their differences from the model's own prompt and S."""
    keys = [(group, column) for group in GROUPS for column in COLUMNS]
    titles = [f"{group}, {column}" for group, column in keys]
    reference = comparison.shares("own", own)
    values, differences = [], []
    for way in ways:
        for size in sizes:
            shares, about = comparison.shares(way, size), [way, str(size)]
            cells = [estimate_of(shares[key]).text(between=" to ") for key in keys]
            values.append([*about, *cells])
            if (way, size) != ("own", own):
                changes = [estimate_of(shares[key] - reference[key]) for key in keys]
                differences.append([*about, *(change.text(form="+.1f", between=" to ") for change in changes)])
    boxes = _boxes(comparison, own)
    counted = ", ".join(f"{boxes[key]} ({title})" for key, title in zip(keys, titles, strict=True))
    return [
        f"Boxes named right, %, of {counted}",
        "",
        *_table(["prompt", "S", *titles], values),
        "",
        f"Minus the model's own prompt at S = {own}",
        "",
        *_table(["prompt", "S", *titles], differences),
    ]


def time_table(taken: dict[int, FloatArray], own: int) -> list[str]:
    """Milliseconds, and medians over the images of ratios to the model's own S with 2.5 and 97.5 percentiles."""
    rows = []
    for size, found in taken.items():
        ratios = np.percentile(found / taken[own], (50, 2.5, 97.5), axis=0).T
        cells = [f"{middle:.2f} ({low:.2f} to {high:.2f})" for middle, low, high in ratios]
        rows.append([str(size), f"{1000 * float(np.median(found[:, 0])):.1f}", *cells])
    return _table(["S", "pooling and naming, ms", f"times S = {own}", f"whole detection, times S = {own}"], rows)


def _boxes(comparison: Comparison, size: int) -> dict[tuple[str, str], int]:
    """Number of boxes of every column."""
    found, groups = comparison.ranks("own", size), class_groups(comparison.split.base, comparison.split.novel)
    names = np.array(comparison.val.class_names)[found.classes]
    return {
        (group, column): int((np.isin(names, groups[group]) & (found.areas_px >= low) & (found.areas_px < high)).sum())
        for group in GROUPS
        for column, (low, high) in COLUMNS.items()
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _tracked(items: Sequence[Any], title: str) -> Any:
    return track(items, title, console=Console(stderr=True), transient=True)


def _report(step: str, done: int, total: int) -> None:
    if done % 200 == 0 or done == total:
        print(f"{step}: {done} of {total}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True, help="folder with train, val and their annotation files")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--model", default="nano-ovcoco")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 3, 4, 6, 8], metavar="S")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["none", "own", "fresh"])
    parser.add_argument("--epochs", type=int, default=4, help="of the training of a prompt (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="only so many images of train and of val, evenly chosen")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--timed", type=int, default=20, help="images that are timed; 0 for none")
    parser.add_argument("--rounds", type=int, default=3, help="of the timing (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of training and measuring; time is of one")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    comparison = Comparison(
        kit=args.kit,
        output=args.output,
        model=args.model,
        epochs=args.epochs,
        limit=args.limit,
        resamples=args.resamples,
    )
    comparison.check()
    own = comparison.fresh_detector().image_tower.pool_size
    sizes = sorted({*args.sizes, own})
    lines = [f"{args.model}, {len(comparison.val)} images", ""]
    lines += accuracy_tables(comparison, args.ways, sizes, own)
    if args.timed:
        lines += ["", *time_table(seconds(comparison, sizes, images=args.timed, rounds=args.rounds), own)]
    (args.output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
