"""Quantize a model, measure what it lost, and write it only if that is within the limits."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from cora.apps.files import find_images
from cora.apps.measure import Setting, prepare
from cora.apps.model_options import read_names
from cora.apps.open_model import open_detector, open_torch_detector
from cora.compress.quantize import SUFFIXES, files_of, quantize_model
from cora.compress.quantize_check import (
    COMPARED_BOXES,
    Contender,
    Measured,
    Pictures,
    compare,
    contender,
    reasons_to_refuse,
    with_interval,
)
from cora.console import output_console, tracked, working
from cora.data.order import subsample
from cora.detector import Detector
from cora.errors import CoraError, DataError
from cora.files import write_json
from cora.images import read_image
from cora.regions import EVERYDAY_NAMES


def quantize(args: argparse.Namespace) -> int:
    """Quantize, compare, print, write; returns exit code 0.

    Raises:
        CoraError: bad input, or a model that lost too much without --force; nothing is written then.
    """
    calibration = _check(args)
    pictures = _pictures(args)
    detector = open_torch_detector(args.model, "cpu", needs="cora quantize")
    place = next(parent for parent in args.output.absolute().parents if parent.is_dir())
    # In the file system of the output, so that a finished model is renamed and not copied.
    with tempfile.TemporaryDirectory(dir=place, prefix=".cora-quantize-") as name:
        folder = Path(name)
        target = folder / args.output.name
        with working(f"quantizing {args.model} with {args.backend}"):
            plain = quantize_model(
                detector,
                target,
                backend=args.backend,
                mode=args.mode,
                model=args.model,
                classes=pictures.classes,
                calibration=calibration,
            )
        rows = compare(
            _contenders(args, detector, plain, target, pictures.classes),
            pictures,
            progress=lambda places: tracked(places, "measuring"),
        )
        out = output_console()
        out.print(_table(rows, pictures))
        _say_what_was_not_checked(out, args, pictures)
        reasons = reasons_to_refuse(rows[0], rows[-1], max_loss=args.max_loss, min_agreement=args.min_agreement)
        if reasons and not args.force:
            raise CoraError(f"refused: {'; '.join(reasons)}; nothing was written, --force writes it all the same")
        if args.json is not None:
            write_json(args.json, _report(args, rows, pictures, reasons))
        _move(files_of(target), args.output.parent)
    out.print(f"written: {args.output}" + (f" (forced: {'; '.join(reasons)})" if reasons else ""), soft_wrap=True)
    return 0


def _contenders(
    args: argparse.Namespace, detector: Detector, plain: Path | None, target: Path, classes: Sequence[str]
) -> list[Contender]:
    """The model as it was, the float export that was quantized if there is one, and what came out."""
    stored = target.with_name("stored.safetensors")
    detector.save(stored)
    models = [contender("float, PyTorch", detector, (stored,), classes)]
    if plain is not None:
        exported = open_detector(str(plain), "cpu")
        models.append(contender(f"float, {args.backend}", exported, files_of(plain), classes))
    quantized = open_detector(str(target), "cpu")
    models.append(contender(f"INT8 {args.mode}, {args.backend}", quantized, files_of(target), classes))
    return models


def _check(args: argparse.Namespace) -> tuple[Path, ...]:
    """Refuse what cannot work before the model is loaded; returns the images to calibrate on."""
    suffix = SUFFIXES[args.backend]
    if args.output.suffix.lower() != suffix:
        raise CoraError(f"expected an output that ends in {suffix} for {args.backend}, got {args.output}; rename it")
    if args.annotations is not None and args.classes is not None:
        raise DataError("expected --classes or --annotations, got both; the annotations name their classes")
    if args.annotations is None and args.split is not None:
        raise DataError("expected --annotations with --split, got none; name the annotation file")
    if args.mode == "dynamic":
        if args.calibration is not None:
            raise DataError("expected --calibration with --mode static, got it with dynamic, which needs none; drop it")
        return ()
    if args.calibration is None:
        raise DataError("expected --calibration DIR with --mode static, got none; name a folder of typical images")
    found = find_images([str(args.calibration)]).paths
    return tuple(subsample(found, args.calibration_limit))


def _pictures(args: argparse.Namespace) -> Pictures:
    if args.annotations is not None:
        options = {"resamples": 1, "templates": None, "descriptions": None, "device": "cpu"}
        return _annotated(prepare(argparse.Namespace(**{**vars(args), **options})))
    paths = find_images([str(args.images)]).paths[: args.limit]
    classes = EVERYDAY_NAMES if args.classes is None else read_names(args.classes)
    return Pictures(read=lambda place: (read_image(paths[place]), place + 1), count=len(paths), classes=tuple(classes))


def _annotated(setting: Setting) -> Pictures:
    dataset = setting.dataset

    def read(place: int) -> tuple[Image.Image, int]:
        image, _, image_id = dataset[setting.indices[place]]
        return image, image_id

    return Pictures(
        read=read,
        count=len(setting.indices),
        classes=setting.class_names,
        truth=setting.truth,
        groups=setting.groups,
    )


def _table(rows: Sequence[Measured], pictures: Pictures) -> Table:
    groups = list(rows[0].ap50)
    threads = torch.get_num_threads()
    title = f"{pictures.count} images, {len(pictures.classes)} classes, {threads} CPU threads"
    table = Table(
        "model", "MB", "ms an image", "speed", *(f"AP50 {group}" for group in groups), "agreement", title=title
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row.name,
            f"{row.megabytes:.1f}",
            f"{row.milliseconds:.0f}",
            f"{rows[0].milliseconds / row.milliseconds:.2f}x",
            *(with_interval(row.ap50[group]) for group in groups),
            "-" if row.agreement is None else f"{row.agreement:.1f}",
        )
    return table


def _say_what_was_not_checked(out: Console, args: argparse.Namespace, pictures: Pictures) -> None:
    out.print(
        f"agreement: AP50 of the {COMPARED_BOXES} best boxes of an image, with those of the first row as the truth"
    )
    if pictures.truth is None:
        out.print("AP was not checked: there are no annotations (--annotations)")
    else:
        out.print("in brackets: 95 % intervals by resampling images")


def _report(
    args: argparse.Namespace, rows: Sequence[Measured], pictures: Pictures, reasons: Sequence[str]
) -> dict[str, object]:
    return {
        "model": str(args.model),
        "backend": args.backend,
        "mode": args.mode,
        "pictures": pictures.count,
        "classes": list(pictures.classes),
        "ap_checked": pictures.truth is not None,
        "threads": torch.get_num_threads(),
        "max_loss": args.max_loss,
        "min_agreement": args.min_agreement,
        "forced": list(reasons),
        "rows": [asdict(row) for row in rows],
    }


def _move(files: Sequence[Path], folder: Path) -> None:
    """Into the folder, the named file last: what it refers to is there before it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in reversed(files):
        shutil.move(file, folder / file.name)
