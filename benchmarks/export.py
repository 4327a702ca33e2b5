"""Exported detectors against the original: AP50, agreement of boxes, milliseconds and megabytes, in one process.

    python benchmarks/export.py --kit ../shared/kit/coco_ovd_mini --threads 1
    python benchmarks/export.py --kit ../shared/kit/coco_ovd_mini --threads 1 --files nano.onnx nano.xml
    python benchmarks/export.py --kit ../shared/kit/coco_ovd_mini --threads 1 --size 480 640 --formats onnx litert

Every format is exported anew, unless files are named, checked as `cora export` does, and measured with the 65 classes
of the kit given at run time (LiteRT has them fixed). The original works in its default way, in float32: it scores as
many boxes, and pools as many exactly, as the graphs do. The models take turns on every image, and the first pass of
each is not timed. Milliseconds are medians of an image from pixels to boxes. Brackets: 95 % intervals by resampling
images, for the last AP50 column with the same resamples of both. Graphs of one size are compared with the original on
the same pixels, fitted and padded as for them. Exit code 1: AP50 of a group is off by more than --max-difference.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

import cora
from cora.compress.quantize_check import Measured, Pictures, compare, contender
from cora.data.class_split import read_class_split
from cora.data.read import read_dataset
from cora.detector import Detector
from cora.evaluation.base_novel import class_groups
from cora.evaluation.predict import ground_truth
from cora.export import FORMATS, ExportedDetector, ExportSettings, export_detector, load_exported
from cora.export.backends import Program
from cora.export.manifest import METADATA_KEY, Manifest
from cora.export.openvino_file import companions
from cora.predictor import Predictor

#: Formats that run here, of any size or of one; TensorRT engines do not.
_FORMATS = ("onnx", "openvino", "exported-program")
_ALL_FORMATS = (*_FORMATS, "litert")

#: A model and what it is stored in.
Other = tuple[ExportedDetector, tuple[Path, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True, help="folder with val/, val.json and class_split.json")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--formats", nargs="+", choices=_ALL_FORMATS, default=_FORMATS)
    parser.add_argument("--files", nargs="+", type=Path, help="measure these files of `cora export` instead")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="export for one size (default: any)")
    parser.add_argument("--exact-boxes", type=int, help="boxes pooled exactly, 0 for all (default: the model's)")
    parser.add_argument("--max-difference", type=float, default=0.1, help="from the original's AP50, in points")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="only the first images")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    detector = cora.load(arguments.model).detector
    detector.precision = "float32"
    size = None if arguments.size is None else (arguments.size[0], arguments.size[1])
    settings = ExportSettings(size_hw=size, batch=None if size is None else 1, exact_boxes=arguments.exact_boxes)
    pictures = kit_pictures(arguments.kit, arguments.limit)
    with tempfile.TemporaryDirectory() as folder:
        others = [
            *(opened(file, detector, arguments) for file in arguments.files or ()),
            *(
                exported(detector, name, Path(folder), settings, pictures.classes, arguments)
                for name in (() if arguments.files else arguments.formats)
            ),
        ]
        sizes = {other.manifest.settings.size_hw for other, _ in others}
        if len(sizes) > 1:
            sys.exit("expected files of one size, or of any, got several; measure them one after the other")
        detector.preprocessor = others[0][0].preprocessor
        suffix = "any size" if None in sizes else "x".join(str(side) for size_hw in sizes for side in size_hw)
        contenders = [contender(f"PyTorch, {suffix}", detector, (), pictures.classes)] + [
            contender(f"{other.backend.name}, {suffix}", other, files, pictures.classes) for other, files in others
        ]
        rows = compare(contenders, pictures, progress=lambda places: track(places, console=Console(stderr=True)))
    print(f"{arguments.model}, {pictures.count} images, {len(pictures.classes)} classes, {arguments.threads} threads\n")
    print_table(rows)
    most = arguments.max_difference
    off = [row.name for row in rows if any(abs(one.value or 0) > most for one in row.change.values())]
    if off:
        sys.exit(f"AP50 is off by more than {most:g}: {', '.join(off)}")


def kit_pictures(kit: Path, limit: int | None) -> Pictures:
    dataset = read_dataset(images=kit / "val", annotations=kit / "val.json")
    split = read_class_split(kit / "class_split.json")
    indices = range(len(dataset))[:limit]

    def read(place: int) -> tuple:
        image, _, image_id = dataset[place]
        return image, image_id

    return Pictures(
        read=read,
        count=len(indices),
        classes=dataset.class_names,
        truth=ground_truth(dataset, indices=indices),
        groups=class_groups(split.base, split.novel),
    )


def opened(file: Path, detector: Detector, arguments: argparse.Namespace) -> Other:
    other = load_exported(file, load_text_model=lambda _: detector, threads=arguments.threads)
    beside = {".xml": companions(file), ".tflite": (file.with_suffix(".json"),)}
    return other, (file, *beside.get(file.suffix, ()))


def exported(
    detector: Detector,
    name: str,
    folder: Path,
    settings: ExportSettings,
    classes: Sequence[str],
    arguments: argparse.Namespace,
) -> Other:
    print(f"exporting: {name}", file=sys.stderr, flush=True)
    path = folder / f"model{FORMATS[name]}"
    fixed = Predictor(detector).vocabulary(classes, distractors=()) if name == "litert" else None
    written = export_detector(detector, path, format=name, model=arguments.model, settings=settings, vocabulary=fixed)
    print(f"{name}: {written.difference}", file=sys.stderr, flush=True)
    if name != "exported-program":
        return opened(path, detector, arguments)
    said = {METADATA_KEY: ""}
    program = torch.export.load(path, extra_files=said)  # written above, hence trusted
    manifest = Manifest.from_json(said[METADATA_KEY], str(path))
    model = ExportedDetector(backend=Program(program), manifest=manifest, load_text_model=lambda _: detector)
    return model, written.files


def print_table(rows: list[Measured]) -> None:
    groups = list(rows[0].ap50)
    heads = (*(f"AP50 {group}" for group in groups), "all, minus PyTorch", "agreement", "ms", "times PyTorch", "MB")
    print(f"| runtime | {' | '.join(heads)} |")
    print("| --- |" + " ---: |" * len(heads))
    for row in rows:
        cells = (
            *(row.ap50[group].text(scale=1, form="z.2f", between=" to ") for group in groups),
            row.change["all"].text(scale=1, form="z.2f", between=" to ") if row is not rows[0] else "",
            "-" if row.agreement is None else f"{row.agreement:.1f}",
            f"{row.milliseconds:.0f}",
            f"{rows[0].milliseconds / row.milliseconds:.2f}",
            f"{row.megabytes:.1f}" if row.megabytes else "",
        )
        print(f"| {row.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
