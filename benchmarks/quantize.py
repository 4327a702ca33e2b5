"""Every way of `cora quantize` side by side: size, time, AP50 of novel, base and all classes, agreement.

    python benchmarks/quantize.py --images coco_ovd_mini/val --annotations coco_ovd_mini/val.json \\
        --split coco_ovd_mini/class_split.json --calibration coco_ovd_mini/train --threads 2

One process, all models in turns on every photo, names encoded before. Times are medians of a photo, from decoded
pixels to boxes. The first row is the model as `cora detect` runs it; agreement is AP50 of the ten best boxes of a photo
against those of the first row. Export and calibration of nano take some minutes before the first photo.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

BACKENDS, MODES = ("onnxruntime", "openvino", "torchao"), ("dynamic", "static")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True, help='JSON of "base" and "novel" classes')
    parser.add_argument("--calibration", type=Path, required=True, help="folder of photos, not those that are measured")
    parser.add_argument("--calibration-limit", type=int, default=100)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--limit", type=int, help="only the first N photos")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the rows there")
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(arguments, Path(folder))
    groups = list(rows[0].ap50)
    print("| model | MB | ms a photo | speed | " + " | ".join(f"AP50 {group}" for group in groups) + " | agreement |")
    print("| --- | " + "---: | " * (len(groups) + 4))
    for row in rows:
        points = " | ".join("-" if value is None else f"{value:.2f}" for value in row.ap50.values())
        speed = rows[0].milliseconds / row.milliseconds
        print(
            f"| {row.name} | {row.megabytes:.1f} | {row.milliseconds:.0f} | {speed:.2f}x | {points} "
            f"| {row.agreement:.1f} |"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def measure(arguments: argparse.Namespace, folder: Path) -> list:  # type: ignore[type-arg]
    """Make all models in a folder and compare them."""
    import cora
    from cora.compress.quantize import SUFFIXES, calibration_feeds, export_folded, files_of
    from cora.compress.quantize_check import Pictures, compare, contender
    from cora.compress.quantize_float import FloatWeights
    from cora.compress.quantize_onnx import quantize_onnx_file
    from cora.compress.quantize_openvino import quantize_openvino_file
    from cora.compress.quantize_torch import load_int8, quantize_detector
    from cora.data.class_split import read_class_split
    from cora.data.coco import CocoDataset
    from cora.evaluation.base_novel import class_groups
    from cora.evaluation.predict import ground_truth
    from cora.export import load_exported

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
    calibration = evenly(sorted(arguments.calibration.glob("*.jpg")), arguments.calibration_limit)
    detector = cora.load(arguments.model)
    vocabulary = detector.vocabulary(pictures.classes, distractors=())
    stored = folder / "stored.safetensors"
    detector.save(stored)
    models = [contender("float, PyTorch", detector, [stored], pictures.classes)]
    for backend, mode in itertools.product(arguments.backends, MODES):
        start = time.perf_counter()
        target = folder / f"{backend}-{mode}{SUFFIXES[backend]}"
        if backend == "torchao":
            quantize_detector(detector, mode=mode, vocabulary=vocabulary, calibration=calibration).save(target)
            made = load_int8(target)
        else:
            plain = folder / f"float{SUFFIXES[backend]}"
            if not plain.exists():
                export_folded(detector, plain, model=arguments.model)
                runner = load_exported(plain, load_text_model=lambda _: detector, threads=arguments.threads)
                models.append(contender(f"float, {backend}", runner, files_of(plain), pictures.classes))
            quantize = quantize_onnx_file if backend == "onnxruntime" else quantize_openvino_file
            feeds = calibration_feeds(detector.preprocessor, vocabulary, calibration) if mode == "static" else None
            quantize(plain, target, feeds=feeds, keep=FloatWeights(detector))
            made = load_exported(target, load_text_model=lambda _: detector, threads=arguments.threads)
        print(f"INT8 {mode}, {backend}: made in {time.perf_counter() - start:.0f} s", flush=True)
        models.append(contender(f"INT8 {mode}, {backend}", made, files_of(target), pictures.classes))
    return compare(models, pictures)


def evenly(paths: Sequence[Path], count: int) -> list[Path]:
    """At most `count`, from all over the list."""
    return [paths[place * len(paths) // count] for place in range(count)] if len(paths) > count else list(paths)


if __name__ == "__main__":
    main()
