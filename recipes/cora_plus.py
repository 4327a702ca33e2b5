"""CORA+ on the kit's COCO images, on a CPU: rounds of self-training with pseudo boxes, each measured.

    python recipes/cora_plus.py --kit ../shared/kit --run runs/plus --names tags --rounds 1
    python recipes/cora_plus.py --kit ../shared/kit --run runs/captions --names captions --captioned FLICKR --rounds 2
    python recipes/cora_plus.py --kit ../shared/kit --run runs/distilled --data coco_more --names list --teacher nano \
        --proposals

A round labels images with the model of the last one (`cora pseudo-label`), adds these boxes to the real ones of the
base classes, trains the decoder on both (`cora train localizer`), and measures all 65 classes of `val`.
What an image is searched for (`--names`):

  tags      the classes that it is known to show: image-level labels of all 65 classes, for the images that have them
  list      all 65 names
  object    a class of its own for what has no box yet, as in OV-DQUO (Wang et al., 2024, arXiv 2405.17913)
  captions  the class names in its captions; these are other images than those with boxes: FLICKR holds `images/` and
            `captions.txt` (image,caption), as Flickr8k comes. `--weight` says how often such an image is drawn

The images of `coco_ovd_mini` show no novel class, those of `coco_more` do. With `--teacher` another detector labels
instead: its boxes are distilled into the model.
The row "base boxes" is the same training without pseudo boxes: what a round gains beyond it, the pseudo boxes give.
Intervals: 95 % by resampling the images of `val`; differences are paired, on the same resamples. Every step resumes.
The table is written anew after each row (`table.md`).

Numbers: `docs/pseudo_labels.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ablation import GROUPS, cell, difference

import cora
from cora.apps.cli import main as command
from cora.data.class_split import read_class_split
from cora.data.coco import CocoDataset
from cora.evaluation.bootstrap import resample_counts
from cora.evaluation.group_measure import measure

BATCH, LR = 4, 2e-4
#: Options that all rows of a run have in common; the table shows them.
COMMON = ("model", "data", "names", "captioned_limit", "teacher", "score", "weight", "proposals", "epochs", "resamples")
START, CONTROL = "start", "base boxes"


@dataclass(frozen=True)
class TrainingSet:
    """Files of the kit to train on.

    Attributes:
        images: folder of the images.
        base: boxes of the base classes.
        labelled: boxes of all classes of some images, or of all; only the classes of an image are read, as its tags.
    """

    images: str
    base: str
    labelled: str


DATA = {
    "coco_ovd_mini": TrainingSet(
        images="coco_ovd_mini/train", base="coco_ovd_mini/train_base.json", labelled="coco_ovd_mini/train_all.json"
    ),
    "coco_more": TrainingSet(images="coco_more/photos", base="coco_more/base.json", labelled="coco_more/all.json"),
}


class Rounds:
    """The rows of the table, each leaving its files in the run folder; `options` are those of the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        kit: Path = options.kit
        chosen, judged = DATA[options.data], kit / "coco_ovd_mini"
        self.options = options
        self.run: Path = options.run
        self.images, self.base, self.labelled_file = (
            kit / path for path in (chosen.images, chosen.base, chosen.labelled)
        )
        self.split_file = judged / "class_split.json"
        self.split = read_class_split(self.split_file)
        self.val = CocoDataset(annotations=judged / "val.json", images=judged / "val", class_names=self.split.all)
        self.counts = resample_counts(len(self.val), resamples=options.resamples)
        self.rows: dict[str, dict[str, Any]] = {}
        self.run.mkdir(parents=True, exist_ok=True)
        self._check_options()

    def _check_options(self) -> None:
        """Keep the options beside the results, which are never made twice; stop if those there have others."""
        file, now = self.run / "options.json", {name: getattr(self.options, name) for name in COMMON}
        if not file.exists():
            file.write_text(json.dumps(now), encoding="utf-8")
        before = json.loads(file.read_text(encoding="utf-8"))
        other = [f"{name} {before.get(name)}, not {now[name]}" for name in COMMON if before.get(name) != now[name]]
        if other:
            raise SystemExit(f"{self.run} has results of {'; '.join(other)}; name another --run")

    def tags(self) -> Path:
        """A table of the classes that each image shows; images of which only base boxes are known have these."""
        path = self.run / "tags.csv"
        tags: dict[str, set[str]] = {}
        for file in (self.base, self.labelled_file):
            content = json.loads(file.read_text(encoding="utf-8"))
            classes = {entry["id"]: entry["name"] for entry in content["categories"]}
            files = {entry["id"]: entry["file_name"] for entry in content["images"]}
            for box in content["annotations"]:
                if (label := classes[box["category_id"]]) in self.split.all:
                    tags.setdefault(files[box["image_id"]], set()).add(label)
        lines = ["file,tags", *(f"{file},{';'.join(sorted(found))}" for file, found in sorted(tags.items()))]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    @cached_property
    def folder(self) -> Path:
        """Folder of all images; with captions one in the run, of those with boxes and those with captions."""
        if self.options.names != "captions":
            return self.images
        together = self.run / "images"
        together.mkdir(exist_ok=True)
        captioned: Path = self.options.captioned
        for folder in (self.images, captioned / "images"):
            for path in folder.iterdir():
                if not (there := together / path.name).exists():
                    _link(path, there)
        return together

    def searched(self) -> list[object]:
        """Options of `cora pseudo-label` that say what images are searched for."""
        match self.options.names:
            case "tags":
                return ["--captions", self.tags()]
            case "list":
                return ["--classes", ", ".join(self.split.all)]
            case "object":
                return ["--classes", "object"]
        names = self.run / "names.txt"
        names.write_text("\n".join(self.split.all) + "\n", encoding="utf-8")
        captions = ["--captions", self.options.captioned / "captions.txt", "--texts", "captions", "--nouns-from", names]
        return [*captions, "--limit", self.options.captioned_limit]

    def labelled(self, number: int, model: str) -> Path:
        """Real and pseudo boxes of a round, made by the teacher, without one by `model`."""
        output = self.run / f"round{number}.json"
        protocol = ["--split", self.split_file, "--novel-names", "keep"]
        if not output.exists():
            _run(
                *["pseudo-label", self.folder, *self.searched(), *protocol, "--model", self.options.teacher or model],
                *["--merge", "--real", self.base, "--score", self.options.score, "--output", output],
            )
        return output

    def trained(self, row: str, model: str, annotations: Path) -> str:
        """The model of a row; on real boxes alone the base classes are learned, else all that the file has."""
        folder = self.run / row.replace(" ", "-")
        settings = {
            "data.versions": 1,
            "data.pseudo_weight": self.options.weight,
            "localizer.task.proposals": self.options.proposals,
        }
        _run(
            *["train", "localizer", "--images", self.folder, "--annotations", annotations, "--model", model],
            *["--run", folder, "--epochs", self.options.epochs, "--batch", BATCH, "--lr", LR],
            *(word for name, value in settings.items() for word in ("--set", f"{name}={value}")),
        )
        return str(folder / "model.safetensors")

    def measured(self, row: str, model: str) -> None:
        """Measure a row, unless that was done before, and write the table."""
        path = self.run / f"{row.replace(' ', '-')}.json"
        if not path.exists():
            path.write_text(json.dumps(measure(cora.load(model).detector, self.val, self.split, self.counts)))
        self.rows[row] = json.loads(path.read_text(encoding="utf-8"))
        reference = self.rows.get(CONTROL, self.rows[START])
        lines = [
            ", ".join(f"{name} {getattr(self.options, name)}" for name in COMMON)
            + f"; {BATCH} images a step, {len(self.val)} images, AP50 in % (95 % interval).",
            "",
            f"| row | {' | '.join(GROUPS)} | novel, minus {CONTROL} | base, minus {CONTROL} |",
            "| --- " * (len(GROUPS) + 3) + "|",
        ]
        for name, found in self.rows.items():
            cells = [cell(found["ap50"][g], found["resampled"][g]) for g in GROUPS]
            paired = [difference(found, reference, g) if name != CONTROL else "-" for g in ("novel", "base")]
            lines.append(f"| {name} | {' | '.join([*cells, *paired])} |")
        (self.run / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines), flush=True)


def _link(source: Path, there: Path) -> None:
    try:
        os.link(source, there)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, there)


def _run(*words: object) -> None:
    line = [str(word) for word in words]
    print("cora", *line, flush=True)
    if code := command(line):
        raise SystemExit(code)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the start, the control and the rounds, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True, help="folder that holds coco_ovd_mini")
    parser.add_argument("--run", type=Path, default=Path("runs/plus"), help="folder of the run")
    parser.add_argument("--model", default="nano-ovcoco", help="detector of the first round")
    parser.add_argument("--data", choices=tuple(DATA), default="coco_ovd_mini", help="training images with boxes")
    parser.add_argument(
        "--names", choices=("tags", "list", "object", "captions"), default="tags", help="what images are searched for"
    )
    parser.add_argument("--captioned", type=Path, metavar="FLICKR", help="folder of the images with captions")
    parser.add_argument("--captioned-limit", type=int, default=1000, help="most images with captions that name a class")
    parser.add_argument("--weight", type=float, default=1.0, help="how often an image without real boxes is drawn")
    parser.add_argument("--teacher", help="detector that labels in every round (default: the model of the last one)")
    parser.add_argument("--proposals", action="store_true", help="train what proposes the anchors, too")
    parser.add_argument("--score", type=float, default=0.3, help="least score of a pseudo box")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2, help="of a row's training")
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args(argv)
    if (options.names == "captions") != (options.captioned is not None):
        parser.error("--captioned goes with --names captions, and that with it")
    rounds = Rounds(options)
    rounds.measured(START, options.model)
    rounds.measured(CONTROL, rounds.trained(CONTROL, options.model, rounds.base))
    model = options.model
    for number in range(1, options.rounds + 1):
        row = f"round {number}"
        model = rounds.trained(row, model, rounds.labelled(number, model))
        rounds.measured(row, model)


if __name__ == "__main__":
    main()
