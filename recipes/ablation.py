"""The paper's ablation table on the kit's COCO images, on a CPU: one budget for every row.

    python recipes/ablation.py --kit ../shared/kit --run runs/ablation --minutes 20
    python recipes/ablation.py --kit ../shared/kit --run runs/ablation --steps 2000 --rows full crops

Prompt, labels and maps of the frozen tower are made once and shared by all rows; each row trains a fresh localizer for
the same number of steps, from the same seeds, in the same order of images, and is measured on all 65 classes of `val`.
Of a model that proposes its anchors, such as `nano-ovcoco`, prompt and proposals are the model's own for all rows, and
the decoder is fresh. Of one with learned anchors the prompt is trained first, and the whole localizer is fresh.
`--minutes` are those of the full method: its step is timed once and the steps that fit are every row's budget.
Intervals: 95 % by resampling the images of `val`; differences are paired, on the same resamples. Several seeds are
averaged. Every row resumes; the table is written anew after each (`table.md`, `table.json`).
Every row can be had by an option of `cora train`, which the table names.

Numbers: `docs/training.md`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cora
from cora.data.class_split import read_class_split
from cora.data.coco import CocoDataset
from cora.data.feature_cache import CachedItem, FeatureBatch, FeatureCache, build_feature_cache, collate_features
from cora.data.loader import EpochLoader
from cora.data.transforms import TrainTransform
from cora.detector import Detector
from cora.evaluation.bootstrap import estimate, resample_counts
from cora.evaluation.group_measure import GROUPS, Predict, measure
from cora.evaluation.oracles import predict_with_true_classes
from cora.evaluation.predict import predict_dataset
from cora.regions import Vocabulary
from cora.structures import Targets
from cora.training.defaults import SMALL_PROMPTS, SMALL_TASK, small_augment
from cora.training.ema import Ema, load_trainable_state
from cora.training.identity import seed_stage
from cora.training.loop import train
from cora.training.optim import OptimizerConfig, ScheduleConfig, build_adamw, build_schedule
from cora.training.pipeline import Hooks, TrainingPipeline
from cora.training.recipe import DataStage, TrainRecipe
from cora.training.relabel import relabel
from cora.training.starts import anchors_to_boxes, fresh_localizer
from cora.training.variants import VARIANTS, Variant

VERSIONS, BATCH, LR, EMA, GRAD_CLIP = 2, 4, 4e-4, 0.998, 0.5
#: Steps between two saves, and those that are timed for a budget of minutes.
CHUNK, TIMED = 100, 20
FULL = "full"


class Steps:
    """A loader's batches, cut into "epochs" of `chunk` steps, so that a budget of steps can be met exactly."""

    def __init__(self, loader: EpochLoader[FeatureBatch], chunk: int) -> None:
        self.loader, self.chunk = loader, chunk

    def __len__(self) -> int:
        return self.chunk

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[FeatureBatch]:
        first, last = epoch * self.chunk + start, (epoch + 1) * self.chunk
        while first < last:
            number, place = divmod(first, len(self.loader))
            for batch in self.loader.epoch(number, start=place):
                yield batch
                first += 1
                if first == last:
                    return


class Labelled:
    """Collates maps whose targets are numbers of boxes, with the class that a list of labels gives every box."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def __call__(self, items: Sequence[CachedItem]) -> FeatureBatch:
        c3, c4, targets = collate_features(items)
        return c3, c4, tuple(Targets(boxes_cxcywh=t.boxes_cxcywh, classes=self.labels[t.classes]) for t in targets)


class Ablation:
    """The rows of the table, each leaving a file in the run folder."""

    def __init__(self, *, kit: Path, run: Path, model: str, seeds: Sequence[int], resamples: int, limit: int | None):
        self.data, self.run, self.seeds = kit / "coco_ovd_mini", run, list(seeds)
        self.split = read_class_split(self.data / "class_split.json")
        self.train_set = self._dataset("train", "train_base.json", self.split.base)
        self.val = self._dataset("val", "val.json", self.split.all)
        self.val.records = self.val.records[:limit]
        self.counts = resample_counts(len(self.val), resamples=resamples)
        self.start = self._prompted(model)
        self.vocabulary: Vocabulary = self.start.vocabulary_encoder.encode(self.split.base)
        self.cache = self._maps()

    def _dataset(self, images: str, annotations: str, names: tuple[str, ...]) -> CocoDataset:
        return CocoDataset(annotations=self.data / annotations, images=self.data / images, class_names=names)

    def _prompted(self, model: str) -> Detector:
        """The detector that all rows start from: with its own prompt, or with one that is trained once."""
        detector = cora.load(model).detector
        detector.align_fast_pooling(None)  # not every row could keep it
        if detector.localizer.proposing:
            return detector
        data = DataStage(augment=small_augment(detector.preprocessor.config.usual_short_side), versions=1)
        recipe = TrainRecipe(model=model, fresh=True, data=data, prompts=SMALL_PROMPTS, relabel=None, localizer=None)
        hooks = Hooks(report=_report, say=print)
        TrainingPipeline(
            recipe=recipe, detector=detector, dataset=self.train_set, run=self.run / "start", hooks=hooks
        ).all()
        return detector

    def _maps(self) -> FeatureCache:
        """Maps of augmented images; a target is the number of its box, so that rows can label it as they like."""
        numbered = copy.copy(self.train_set)
        ends = np.cumsum([len(record.classes) for record in numbered.records])
        numbered.records = [
            replace(record, classes=torch.arange(int(end) - len(record.classes), int(end)))
            for record, end in zip(numbered.records, ends, strict=True)
        ]
        return build_feature_cache(
            dataset=numbered,
            transform=TrainTransform(config=small_augment(self.start.preprocessor.config.usual_short_side)),
            tower=self.start.image_tower,
            to_batch=self.start.preprocessor.collate,
            folder=self.run / "maps",
            versions=VERSIONS,
            on_progress=lambda done, total: _report("maps", done, total),
        )

    def labels(self, variant: Variant) -> Tensor:
        """Class of every box: as annotated, or as the row's own region classifier sees it."""
        if not variant.relabel:
            return torch.cat([record.classes for record in self.train_set.records])
        detector = variant.detector(copy.deepcopy(self.start))
        same = torch.equal(detector.prompted_positions(), self.start.prompted_positions())
        output = self.run / ("relabelled.json" if same else "relabelled_no_prompt.json")
        if not output.exists():
            relabel(
                detector=self.start if same else detector,
                vocabulary=self.vocabulary,
                dataset=self.train_set,
                output=output,
                on_progress=lambda done, total: _report("relabel", done, total),
            )
        content = json.loads(output.read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in content["categories"]}
        place = {name: index for index, name in enumerate(self.split.base)}
        entries = torch.cat([record.entries for record in self.train_set.records]).tolist()
        return torch.tensor([place[names[content["annotations"][entry]["category_id"]]] for entry in entries])

    def trained(self, name: str, seed: int, steps: int) -> Detector:
        """The row's detector after `steps` steps; goes on where an earlier call stopped."""
        variant, start = VARIANTS[name], copy.deepcopy(self.start)
        seed_stage(seed, "localizer")
        fresh_localizer(start, proposals=False, architecture=variant.architecture)
        if (anchors := start.localizer.learned_anchors) is not None:
            anchors_to_boxes(anchors, self.train_set)
        task = variant.build(detector=start, vocabulary=self.vocabulary, config=replace(SMALL_TASK, proposals=False))
        collate = Labelled(self.labels(variant))
        loader = EpochLoader(
            dataset=self.cache, batch_size=BATCH, collate=collate, shape_key=self.cache.aspect, seed=seed
        )
        optimiser = build_adamw(task, OptimizerConfig(lr=LR))
        schedule = ScheduleConfig(
            kind="cosine", warmup_steps=min(100, steps // 10), total_steps=steps, final_factor=0.02
        )
        average = Ema(task, decay=EMA)
        chunk = min(steps, CHUNK)
        result = train(
            task,
            Steps(loader, chunk),
            optimiser,
            build_schedule(optimiser, schedule),
            epochs=steps // chunk,
            run_dir=self.folder(name, seed),
            ema=average,
            grad_clip=GRAD_CLIP,
            config={"row": name, "seed": seed, "steps": steps},
        )
        if result.interrupted:
            raise KeyboardInterrupt
        load_trainable_state(task, average.shadow, source="the moving average")
        return task.detector

    def folder(self, name: str, seed: int) -> Path:
        return self.run / "rows" / f"{name}-seed{seed}"

    def measured(self, name: str, seed: int, steps: int) -> dict[str, Any]:
        """AP50 by group of a row, with what the resamples gave."""
        path, variant = self.folder(name, seed) / "result.json", VARIANTS[name]
        key = {"steps": steps, "photos": len(self.val), "resamples": len(self.counts)}
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if found["key"] == key:
                return found
        if variant.weights_of is None:
            detector = self.trained(name, seed, steps)
        else:
            detector = variant.detector(self.trained(variant.weights_of, seed, steps))
        predict: Predict = predict_with_true_classes if variant.true_classes else predict_dataset
        found = {"key": key, **measure(detector, self.val, self.split, self.counts, predict=predict)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")
        return found

    def steps_in(self, minutes: float) -> int:
        """Steps of the full method in so many minutes, by a timing that is kept for later calls."""
        path = self.run / "budget.json"
        if not path.exists():
            self.labels(VARIANTS[FULL])  # made once for all rows, no part of a step
            start = time.perf_counter()
            _Timing(self).trained(FULL, 0, TIMED)
            seconds = (time.perf_counter() - start) / TIMED
            path.write_text(json.dumps({"seconds_a_step": seconds}), encoding="utf-8")
        seconds = json.loads(path.read_text(encoding="utf-8"))["seconds_a_step"]
        return max(CHUNK, round(60 * minutes / seconds))

    def table(self, names: Sequence[str], steps: int) -> None:
        """Write what is measured so far, and print it."""
        rows, reference = [], self._row(FULL)
        for name in names:
            row = self._row(name)
            if row is not None:
                cells = [cell(row["ap50"][g], row["resampled"][g]) for g in GROUPS]
                minus = ["-", "-"]
                if reference is not None and name != FULL:
                    minus = [difference(row, reference, g) for g in ("novel", "base")]
                option = f"`{VARIANTS[name].option}`" if VARIANTS[name].option else ""
                about = {"row": name, "says": VARIANTS[name].says, "option": option}
                rows.append({**about, **row, "cells": [*cells, *minus]})
        lines = [
            f"{steps} steps of {BATCH} images a row, seeds {', '.join(map(str, self.seeds))}, {len(self.val)} images, "
            "AP50 in % (95 % interval).",
            "",
            "| row | novel | base | all | novel, minus full | base, minus full | s an image | difference | option |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *(
                f"| {r['row']} | {' | '.join(r['cells'])} | {r['seconds_a_photo']:.2f} | {r['says']} | {r['option']} |"
                for r in rows
            ),
        ]
        (self.run / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        content = {"steps": steps, "batch": BATCH, "seeds": self.seeds, "photos": len(self.val), "rows": rows}
        (self.run / "table.json").write_text(json.dumps(content), encoding="utf-8")
        print("\n".join(lines), flush=True)

    def _row(self, name: str) -> dict[str, Any] | None:
        """Mean over the seeds; None unless all are measured."""
        paths = [self.folder(name, seed) / "result.json" for seed in self.seeds]
        if not all(path.exists() for path in paths):
            return None
        found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        return {
            "ap50": {g: float(np.mean([one["ap50"][g] for one in found])) for g in GROUPS},
            "resampled": {g: np.mean([one["resampled"][g] for one in found], axis=0).tolist() for g in GROUPS},
            "seconds_a_photo": float(np.mean([one["seconds_a_photo"] for one in found])),
        }


class _Timing(Ablation):
    """The same ablation with a run folder for the steps that are only timed."""

    def __init__(self, whole: Ablation) -> None:
        self.__dict__.update(whole.__dict__)

    def folder(self, name: str, seed: int) -> Path:
        return self.run / "timing" / name


def difference(row: dict[str, Any], reference: dict[str, Any], group: str) -> str:
    """A group's AP50 minus that of a reference, paired on the same resamples, as a cell of a table."""
    change = row["ap50"][group] - reference["ap50"][group]
    return cell(change, np.subtract(row["resampled"][group], reference["resampled"][group]))


def cell(value: float, resampled: Any) -> str:
    """AP50 in percent with its 95 % interval, as a cell of a table."""
    found = estimate(value, np.asarray(resampled, dtype=np.float64))
    interval = "" if found.low is None or found.high is None else f" ({100 * found.low:.1f} to {100 * found.high:.1f})"
    return f"{100 * value:.1f}{interval}"


def _row(text: str) -> str:
    return text.replace(" ", "-")  # as rows were once called


def _report(step: str, done: int, total: int) -> None:
    if done % 200 == 0 or done == total:
        print(f"{step}: {done} of {total}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the rows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True, help="folder that holds coco_ovd_mini")
    parser.add_argument("--run", type=Path, default=Path("runs/ablation"), help="folder of the run")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, default=2000, help="of every row")
    budget.add_argument("--minutes", type=float, help="of the full method, whose steps are every row's")
    parser.add_argument("--rows", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="ROW", type=_row)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--model", default="nano-ovcoco", help="detector whose towers are used")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--limit", type=int, help="images of val (crops of every box take seconds an image)")
    args = parser.parse_args(argv)
    ablation = Ablation(
        kit=args.kit, run=args.run, model=args.model, seeds=args.seeds, resamples=args.resamples, limit=args.limit
    )
    steps = ablation.steps_in(args.minutes) if args.minutes is not None else max(1, args.steps)
    steps = steps if steps < CHUNK else CHUNK * round(steps / CHUNK)
    for name in args.rows:
        for seed in args.seeds:
            ablation.measured(name, seed, steps)
        ablation.table(args.rows, steps)


if __name__ == "__main__":
    main()
