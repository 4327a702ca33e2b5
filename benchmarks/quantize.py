"""Every way of `cora quantize` side by side: size, time, AP50 of novel, base and all classes, agreement.

    python benchmarks/quantize.py --images coco_ovd_mini/val --annotations coco_ovd_mini/val.json \\
        --split coco_ovd_mini/class_split.json --calibration coco_ovd_mini/train --threads 1

One process, all models in turns on every image, names encoded before. Times are medians of an image, from decoded
pixels to boxes. The first row is the model as `cora detect` runs it; agreement is AP50 of an image's ten best boxes
against those of the first row. Brackets: 95 % intervals by resampling images. Export and calibration of nano take some
minutes before the first image; with --models they are kept there, and a second run starts with the images.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cora.compress.quantize_check import Contender, Measured
    from cora.detector import Detector

BACKENDS, MODES = ("onnxruntime", "openvino", "torchao"), ("dynamic", "static")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True, help='JSON of "base" and "novel" classes')
    parser.add_argument("--calibration", type=Path, required=True, help="folder of images, not those that are measured")
    parser.add_argument("--calibration-limit", type=int, default=100)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--models", type=Path, help="folder that keeps the models; what it has is not made again")
    parser.add_argument("--make-only", action="store_true", help="with --models: make them, measure nothing")
    parser.add_argument("--limit", type=int, help="only the first N images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the rows there")
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(arguments, arguments.models or Path(temporary))
    if not rows:
        return
    print_table(rows)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def print_table(rows: Sequence[Measured]) -> None:
    groups = list(rows[0].ap50)
    print("| model | MB | ms an image | speed | " + " | ".join(f"AP50 {group}" for group in groups) + " | agreement |")
    print("| --- | " + "---: | " * (len(groups) + 4))
    for row in rows:
        points = " | ".join(score.text(scale=1, form="z.2f", between=" to ") for score in row.ap50.values())
        speed = rows[0].milliseconds / row.milliseconds
        print(
            f"| {row.name} | {row.megabytes:.1f} | {row.milliseconds:.0f} | {speed:.2f}x | {points} "
            f"| {row.agreement:.1f} |"
        )


def measure(arguments: argparse.Namespace, folder: Path) -> list[Measured]:
    """Make the models in a folder and compare them; nothing with --make-only."""
    import cora
    from cora.compress.quantize_check import Pictures, compare, contender
    from cora.data.class_split import read_class_split
    from cora.data.coco import CocoDataset
    from cora.evaluation.base_novel import class_groups
    from cora.evaluation.predict import ground_truth

    split = read_class_split(arguments.split)
    dataset = CocoDataset(annotations=arguments.annotations, images=arguments.images, class_names=split.all)
    count = min(len(dataset), arguments.limit or len(dataset))
    pictures = Pictures(
        read=lambda place: (dataset[place][0], dataset[place][2]),
        count=count,
        classes=dataset.class_names,
        truth=ground_truth(dataset, indices=range(count)),
        groups=class_groups(split.base, split.novel),
    )
    detector = cora.load(arguments.model).detector
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / "stored.safetensors"
    detector.save(stored)
    models = [contender("float, PyTorch", detector, [stored], pictures.classes)]
    models += make(arguments, folder, detector, pictures.classes)
    return [] if arguments.make_only else compare(models, pictures)


def make(
    arguments: argparse.Namespace, folder: Path, detector: Detector, classes: Sequence[str]
) -> Iterator[Contender]:
    """The float export of every backend and its INT8 models."""
    from cora.compress.quantize import SUFFIXES, calibration_feeds, export_folded, files_of
    from cora.compress.quantize_check import contender
    from cora.compress.quantize_float import FloatWeights
    from cora.compress.quantize_onnx import quantize_onnx_file
    from cora.compress.quantize_openvino import quantize_openvino_file
    from cora.compress.quantize_torch import load_int8, quantize_detector
    from cora.data.order import subsample
    from cora.errors import ModelError
    from cora.export import ExportedDetector, load_exported
    from cora.predictor import Predictor

    calibration = subsample(sorted(arguments.calibration.glob("*.jpg")), arguments.calibration_limit)
    vocabulary = Predictor(detector).vocabulary(classes, distractors=())

    def opened(path: Path) -> ExportedDetector:
        return load_exported(path, load_text_model=lambda _: detector, threads=arguments.threads)

    for backend in arguments.backends:
        own = folder / backend
        own.mkdir(exist_ok=True)
        plain = own / f"float{SUFFIXES[backend]}"
        if backend != "torchao":
            if not plain.exists():
                export_folded(detector, plain, model=arguments.model)
            yield contender(f"float, {backend}", opened(plain), files_of(plain), classes)
        for mode in arguments.modes:
            start = time.perf_counter()
            target = own / f"{mode}{SUFFIXES[backend]}"
            feeds = calibration_feeds(detector.preprocessor, vocabulary, calibration) if mode == "static" else None
            try:
                if target.exists():
                    pass
                elif backend == "torchao":
                    quantize_detector(detector, mode=mode, vocabulary=vocabulary, calibration=calibration).save(target)
                elif backend == "openvino":
                    quantize_openvino_file(plain, target, feeds=feeds, keep=FloatWeights(detector))
                else:
                    quantize_onnx_file(plain, target, feeds=feeds, keep=FloatWeights(detector))
            except ModelError as error:
                print(f"INT8 {mode}, {backend}: left out: {error}", flush=True)
                continue
            print(f"INT8 {mode}, {backend}: made in {time.perf_counter() - start:.0f} s", flush=True)
            made = load_int8(target) if backend == "torchao" else opened(target)
            yield contender(f"INT8 {mode}, {backend}", made, files_of(target), classes)


if __name__ == "__main__":
    main()
