"""CORA+ on the kit's COCO images, on a CPU: rounds of self-training with pseudo boxes, each measured.

    python recipes/cora_plus.py --kit ../shared/kit --run runs/plus --names tags --rounds 1

A round labels the training images with the model of the last one (`cora pseudo-label`), adds these boxes to the real
ones of the base classes, trains the decoder on both (`cora train localizer`), and measures all 65 classes of `val`.
Names that an image is searched for: "tags", the classes that it is known to show, as captions would say it (image-level
labels of all 65 classes, for the images that have them); "list", all 65 names in every image; or "object", a class of
its own for what has no box yet, as in OV-DQUO (Wang et al., 2024, arXiv 2405.17913). The images of this set show no
novel class.
The row "base boxes" is the same training without pseudo boxes: what a round gains beyond it, the pseudo boxes give.
Intervals: 95 % by resampling the images of `val`; differences are paired, on the same resamples. Every step resumes.
The table is written anew after each row (`table.md`).

Numbers: `docs/pseudo_labels.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablation import GROUPS, cell, difference, measure

import cora
from cora.apps.cli import main as command
from cora.data.class_split import read_class_split
from cora.data.coco import CocoDataset
from cora.evaluation.bootstrap import resample_counts

EPOCHS, BATCH, LR = 2, 4, 2e-4
START, CONTROL = "start", "base boxes"


class Rounds:
    """The rows of the table, each leaving its files in the run folder."""

    def __init__(self, *, kit: Path, run: Path, model: str, names: str, score: float, resamples: int) -> None:
        self.data, self.run, self.model, self.names, self.score = kit / "coco_ovd_mini", run, model, names, score
        self.split = read_class_split(self.data / "class_split.json")
        self.val = CocoDataset(annotations=self.data / "val.json", images=self.data / "val", class_names=self.split.all)
        self.counts = resample_counts(len(self.val), resamples=resamples)
        self.rows: dict[str, dict[str, Any]] = {}
        run.mkdir(parents=True, exist_ok=True)

    def tags(self) -> Path:
        """A table of the classes that each image shows; images of which only base boxes are known have these."""
        path, tags = self.run / "tags.csv", {}
        for name in ("train_base.json", "train_all.json"):
            content = json.loads((self.data / name).read_text(encoding="utf-8"))
            classes = {entry["id"]: entry["name"] for entry in content["categories"]}
            files = {entry["id"]: entry["file_name"] for entry in content["images"]}
            for box in content["annotations"]:
                if (label := classes[box["category_id"]]) in self.split.all:
                    tags.setdefault(files[box["image_id"]], set()).add(label)
        lines = ["file,tags", *(f"{file},{';'.join(sorted(found))}" for file, found in sorted(tags.items()))]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def labelled(self, number: int, model: str) -> Path:
        """Real and pseudo boxes of a round, made by `model`."""
        output = self.run / f"round{number}.json"
        names = {"list": ", ".join(self.split.all), "object": "object"}
        searched = ["--captions", self.tags()] if self.names == "tags" else ["--classes", names[self.names]]
        protocol = ["--split", self.data / "class_split.json", "--novel-names", "keep"]
        if not output.exists():
            _run(
                *["pseudo-label", self.data / "train", *searched, *protocol, "--model", model, "--merge"],
                *["--real", self.data / "train_base.json", "--score", self.score, "--output", output],
            )
        return output

    def trained(self, row: str, model: str, annotations: Path) -> str:
        """The model of a row; on real boxes alone the base classes are learned, else all that the file has."""
        folder = self.run / row.replace(" ", "-")
        options = ["--epochs", EPOCHS, "--batch", BATCH, "--lr", LR]
        settings = ["--set", "data.versions=1", "--set", "localizer.task.proposals=False"]
        _run(
            *["train", "localizer", "--images", self.data / "train", "--annotations", annotations, "--model", model],
            *["--run", folder, *options, *settings],
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
            f"names: {self.names}, score {self.score}, {EPOCHS} epochs of {BATCH} images a step, {len(self.val)} "
            "images, AP50 in % (95 % interval).",
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
    parser.add_argument(
        "--names", choices=("tags", "list", "object"), default="tags", help="what images are searched for"
    )
    parser.add_argument("--score", type=float, default=0.3, help="least score of a pseudo box")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args(argv)
    rounds = Rounds(
        kit=args.kit, run=args.run, model=args.model, names=args.names, score=args.score, resamples=args.resamples
    )
    rounds.measured(START, args.model)
    rounds.measured(CONTROL, rounds.trained(CONTROL, args.model, rounds.data / "train_base.json"))
    model = args.model
    for number in range(1, args.rounds + 1):
        row = f"round {number}"
        model = rounds.trained(row, model, rounds.labelled(number, model))
        rounds.measured(row, model)


if __name__ == "__main__":
    main()
