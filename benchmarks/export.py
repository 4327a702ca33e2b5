"""Exported detectors against the original: AP50, agreement of boxes, milliseconds and megabytes, in one process.

    python benchmarks/export.py --kit ../shared/kit/coco_ovd_mini --threads 2
    python benchmarks/export.py --kit ../shared/kit/coco_ovd_mini --limit 4 --files nano.onnx nano.xml

Every format is exported anew, unless files are named, checked as `cora export` does, and measured with the 65 classes
of the kit given at run time. The original works in its default way, in float32: it scores as many boxes, and pools as
many exactly, as the graphs do. The models take turns on every photo, and the first pass of each is not timed.
Milliseconds are medians of a photo from pixels to boxes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import cora
from cora.compress.quantize_check import Contender, Measured, Pictures, compare, contender
from cora.data.class_split import read_class_split
from cora.data.read import read_dataset
from cora.detector import Detector
from cora.evaluation.base_novel import class_groups
from cora.evaluation.predict import ground_truth
from cora.export import FORMATS, ExportedDetector, ExportSettings, export_detector, load_exported
from cora.export.backends import Program
from cora.export.manifest import METADATA_KEY, Manifest
from cora.export.openvino_file import companions

_NAMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "exported-program": "exported program"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True, help="folder with val/, val.json and class_split.json")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--formats", nargs="+", choices=tuple(_NAMES), default=tuple(_NAMES))
    parser.add_argument("--files", nargs="+", type=Path, help="measure these files of `cora export` instead")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="export for one size (default: any)")
    parser.add_argument("--exact-boxes", type=int, help="boxes pooled exactly, 0 for all (default: the model's)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="only the first photos")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    detector = cora.load(arguments.model)
    detector.precision = "float32"
    size = None if arguments.size is None else (arguments.size[0], arguments.size[1])
    settings = ExportSettings(size_hw=size, batch=None if size is None else 1, exact_boxes=arguments.exact_boxes)
    pictures = kit_pictures(arguments.kit, arguments.limit)
    with tempfile.TemporaryDirectory() as folder:
        contenders = [contender("PyTorch", detector, (), pictures.classes)]
        for file in arguments.files or ():
            other = load_exported(file, load_text_model=lambda _: detector, threads=arguments.threads)
            files = (file, *(beside for beside in companions(file) if file.suffix == ".xml"))
            contenders.append(contender(other.backend.name, other, files, pictures.classes))
        for name in () if arguments.files else arguments.formats:
            print(f"exporting: {name}", file=sys.stderr, flush=True)
            contenders.append(exported(detector, name, Path(folder), settings, arguments, pictures))
        rows = compare(contenders, pictures, progress=lambda places: track(places, console=Console(stderr=True)))
    print_table(arguments, pictures, rows)


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


def exported(
    detector: Detector,
    name: str,
    folder: Path,
    settings: ExportSettings,
    arguments: argparse.Namespace,
    pictures: Pictures,
) -> Contender:
    path = folder / f"model{FORMATS[name]}"
    written = export_detector(detector, path, format=name, model=arguments.model, settings=settings)
    print(f"{name}: {written.difference}", file=sys.stderr, flush=True)
    if name == "exported-program":
        said = {METADATA_KEY: ""}
        program = torch.export.load(path, extra_files=said)  # written above, hence trusted
        other = ExportedDetector(
            backend=Program(program),
            manifest=Manifest.from_json(said[METADATA_KEY], str(path)),
            load_text_model=lambda _: detector,
        )
    else:
        other = load_exported(path, load_text_model=lambda _: detector, threads=arguments.threads)
    return contender(_NAMES[name], other, written.files, pictures.classes)


def print_table(arguments: argparse.Namespace, pictures: Pictures, rows: list[Measured]) -> None:
    groups = list(pictures.groups)
    title = f"{arguments.model}, {pictures.count} photos, {len(pictures.classes)} classes, {arguments.threads} threads"
    measures = (*(f"AP50 {group}" for group in groups), "agreement", "ms", "times PyTorch", "MB")
    table = Table("runtime", *measures, title=title)
    for row in rows:
        table.add_row(
            row.name,
            *("-" if row.ap50[group] is None else f"{row.ap50[group]:.2f}" for group in groups),
            "-" if row.agreement is None else f"{row.agreement:.2f}",
            f"{row.milliseconds:.0f}",
            f"{rows[0].milliseconds / row.milliseconds:.2f}",
            f"{row.megabytes:.1f}" if row.megabytes else "-",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
