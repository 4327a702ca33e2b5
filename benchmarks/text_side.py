"""What the text side is worth: region accuracy of base and novel classes as a Markdown table.

    python benchmarks/text_side.py --kit ../shared/kit/coco_ovd_mini

Every method learns from the boxes of train_base.json (48 base classes) and is measured on val.json among all 65. The
embeddings of the boxes are kept in `--cache` and made again when the model has changed. The settings are those of
`cora text-prompts`; they were chosen on base classes alone, some of which `--held-out` makes the novel ones.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

import cora
from cora.apps.text_prompts import measure_change
from cora.data.class_split import ClassSplit, read_class_split
from cora.data.read import read_dataset
from cora.detector import Detector
from cora.evaluation.region_change import RegionChange
from cora.evaluation.tables import percent
from cora.regions import VocabularyEncoder, read_descriptions
from cora.training.region_embeddings import RegionEmbeddings, embed_dataset
from cora.training.text_training import DEFAULTS, METHODS, build_text_task, kept_names, train_text

DESCRIPTIONS = Path(__file__).with_name("coco_descriptions.json")
#: Classes that `--held-out` takes from the base ones, and the share of images that it measures on.
HELD_OUT, MEASURED = 14, 5
#: Changes a fresh detector after seeing the boxes of the base classes; with another seed perhaps otherwise.
Row = Callable[[Detector, RegionEmbeddings, ClassSplit, int], None]


def rows() -> list[tuple[str, Row, bool]]:
    """The comparisons in the order of the table: what it is called, what it does, if it depends on the seed."""

    def learned(method: str, keep: float | None = None) -> tuple[str, Row, bool]:
        base = DEFAULTS[method]  # type: ignore[index]

        def learn(detector: Detector, data: RegionEmbeddings, split: ClassSplit, seed: int) -> None:
            config = replace(base, seed=seed, keep=base.keep if keep is None else keep)
            torch.manual_seed(seed)
            task = build_text_task(
                method,  # type: ignore[arg-type]
                detector=detector,
                data=data,
                kept_names=kept_names(split),
                config=config,
            )
            with tempfile.TemporaryDirectory() as run:
                train_text(task, data, config, Path(run))
            task.eval().artefact().apply(detector)

        return f"learned: {method}" + ("" if keep is None else f", keep {keep:g}"), learn, True

    def templates(label: str, sentences: str | tuple[str, ...]) -> tuple[str, Row, bool]:
        return label, lambda detector, *_: setattr(detector.vocabulary_encoder, "templates", sentences), False

    def descriptions(share: float) -> tuple[str, Row, bool]:
        def describe(detector: Detector, *_: object) -> None:
            encoder: VocabularyEncoder = detector.vocabulary_encoder
            encoder.descriptions, encoder.description_share = read_descriptions(DESCRIPTIONS), share

        return f"descriptions, share {share:g}", describe, False

    return [
        templates("templates: the 80 of ImageNet", "imagenet"),
        templates('templates: "a photo of a {}"', ("a photo of a {}",)),
        templates('templates: "{}"', ("{}",)),
        descriptions(0.25),
        descriptions(0.5),
        descriptions(1.0),
        *(learned(method) for method in METHODS),
        learned("offsets", 1.0),
        learned("tower", 1.0),
    ]


def compare(
    model: str, row: Row, train: RegionEmbeddings, val: RegionEmbeddings, split: ClassSplit, seed: int
) -> dict[str, RegionChange]:
    """The change that a row makes to a fresh detector."""
    detector = cora.load(model).detector
    before = detector.vocabulary_encoder.encode(split.all).embeddings
    row(detector, train, split, seed)
    return measure_change(val, split, before, detector.vocabulary_encoder.encode(split.all).embeddings)


def held_out(train: RegionEmbeddings, fold: int) -> tuple[RegionEmbeddings, RegionEmbeddings, ClassSplit]:
    """Training boxes alone: some base classes play the novel ones, a fifth of the images plays the validation set."""
    names = list(train.class_names)
    novel = set(random.Random(fold).sample(names, HELD_OUT))
    split = ClassSplit(base=tuple(n for n in names if n not in novel), novel=tuple(n for n in names if n in novel))
    labels = torch.tensor([split.all.index(name) for name in names])[train.labels]
    is_base, measured = labels < len(split.base), (train.image_index + fold) % MEASURED == 0

    def part(chosen: torch.Tensor, class_names: tuple[str, ...]) -> RegionEmbeddings:
        return RegionEmbeddings(
            regions=train.regions[chosen],
            labels=labels[chosen],
            image_index=train.image_index[chosen],
            areas_px=train.areas_px[chosen],
            images=train.images,
            class_names=class_names,
        )

    return part(is_base & ~measured, split.base), part(measured | ~is_base, split.all), split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True, help="folder with train, val and their annotation files")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "cora-text-side")
    parser.add_argument("--held-out", type=int, metavar="FOLD", help="take base classes for the novel ones instead")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each learned row (default: %(default)s)")
    arguments = parser.parse_args()
    split = read_class_split(arguments.kit / "class_split.json")
    detector = cora.load(arguments.model).detector
    embedded = {}
    for name, file, names in (("train", "train_base.json", split.base), ("val", "val.json", split.all)):
        dataset = read_dataset(
            images=arguments.kit / name, annotations=arguments.kit / file, class_names=names, check_photos=False
        )
        embedded[name] = embed_dataset(detector, dataset, arguments.cache, name)
    train, val = embedded["train"], embedded["val"]
    if arguments.held_out is not None:
        train, val, split = held_out(train, arguments.held_out)
    print(
        "| Class embeddings | Base top-1 | change | Novel top-1 | change | Base class mean | Novel class mean |", end=""
    )
    print(" Change base / novel, other seeds | CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for number, (label, row, seeded) in enumerate(rows()):
        start = time.process_time()
        changes = compare(arguments.model, row, train, val, split, 0)
        seconds = time.process_time() - start
        base, novel = changes["base"], changes["novel"]
        if number == 0:
            first = [percent(kind.before) for kind in (base.per_box, novel.per_box, base.per_class, novel.per_class)]
            print(f"| hand-written, as shipped | {first[0]} | | {first[1]} | | {first[2]} | {first[3]} | | |")
        cells = [cell for group in (base, novel) for cell in (percent(group.per_box.after), _signed(group))] + [
            percent(group.per_class.after) for group in (base, novel)
        ]
        others = [
            compare(arguments.model, row, train, val, split, seed)
            for seed in range(1, arguments.seeds if seeded else 1)
        ]
        cells.append(", ".join(f"{_value(other['base'])} / {_value(other['novel'])}" for other in others))
        print(f"| {label} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)
    print(f"\n{len(train)} boxes to learn from, {base.boxes} base and {novel.boxes} novel ones measured.")


def _value(group: RegionChange) -> str:
    value = group.per_box.difference.value
    return "-" if value is None else f"{100 * value:+.1f}"


def _signed(group: RegionChange) -> str:
    return percent(group.per_box.difference, signed=True)


if __name__ == "__main__":
    main()
