"""`cora quantize`: converts a model to INT8, and measures it before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cora.apps import kinds
from cora.apps.argument_types import above_zero, positive
from cora.apps.command import Command
from cora.apps.data_options import check_evaluate_extra
from cora.apps.model_options import model_option
from cora.apps.options import option, switch
from cora.errors import CoraError, DataError
from cora.files import write_json

if TYPE_CHECKING:
    from cora.compress.quantize_check import Contender, Pictures
    from cora.detector import Detector


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """Options of `cora quantize`."""

    model: str = model_option("name or checkpoint")
    backend: Literal["onnxruntime", "openvino", "torchao"] = option(
        required=True, help="what quantizes, and runs the result"
    )
    mode: Literal["dynamic", "static"] = option(
        required=True,
        help="dynamic: the scale of an input is found when it comes; static: found before, on --calibration",
    )
    output: Path = option(
        required=True,
        writes=kinds.EXPORT,
        help="model to write: .onnx (onnxruntime), .xml (openvino) or .safetensors (torchao)",
    )
    images: Path = option(required=True, metavar="DIR", help="images that the result is measured on")
    annotations: Path | None = option(help="their boxes (COCO, LVIS, VOC or YOLO)")
    split: Path | None = option(help='with --annotations: JSON of "base" and "novel" classes, or "coco"')
    classes: str | None = option(
        metavar="NAMES",
        help='without --annotations: names to look for, "cat, dog" or @FILE (default: a hundred everyday ones)',
    )
    limit: int | None = option(type=positive, help="measure on the first N images only")
    calibration: Path | None = option(metavar="DIR", help="with --mode static: images like those that will come")
    calibration_limit: int = option(
        type=positive, default=100, help="calibrate on at most so many, evenly chosen (default: %(default)s)"
    )
    max_loss: float = option(
        type=above_zero,
        default=1.0,
        metavar="POINTS",
        help="refuse a model that loses more AP50 (0 to 100) in any group of classes (default: %(default)s)",
    )
    min_agreement: float = option(
        type=above_zero,
        default=50.0,
        metavar="POINTS",
        help="refuse a model whose boxes agree less with the float model's, 0 to 100 (default: %(default)s)",
    )
    force: bool = switch(help="write the model whatever it lost")
    json: Path | None = option(writes=kinds.QUANTIZED, help="also write the table to this file")


def run(options: QuantizeOptions) -> int:
    """Quantize, compare, print, write; returns exit code 0.

    Raises:
        CoraError: bad input, or a model that lost too much without --force; nothing is written then.
    """
    import tempfile

    import torch

    from cora.apps.open_model import open_torch_detector
    from cora.compress.quantize import move_files, quantize_model
    from cora.compress.quantize_check import COMPARED_BOXES, compare, comparison_table, reasons_to_refuse
    from cora.console import output_console, tracked, working

    check_evaluate_extra("cora quantize")
    _check_options(options)
    calibration = _calibration(options)
    images = _images(options)
    detector = open_torch_detector(options.model, "cpu", needs="cora quantize")
    place = next(parent for parent in options.output.absolute().parents if parent.is_dir())
    # In the file system of the output, so that a finished model is renamed and not copied.
    with tempfile.TemporaryDirectory(dir=place, prefix=".cora-quantize-") as folder:
        target = Path(folder) / options.output.name
        with working(f"quantizing {options.model} with {options.backend}"):
            plain = quantize_model(
                detector,
                target,
                backend=options.backend,
                mode=options.mode,
                model=options.model,
                classes=images.classes,
                calibration=calibration,
            )
        rows = compare(
            _contenders(options, detector, plain, target, images.classes),
            images,
            progress=lambda places: tracked(places, "measuring"),
        )
        out = output_console()
        out.print(comparison_table(rows, images))
        out.print(
            f"agreement: AP50 of the {COMPARED_BOXES} best boxes of an image, with those of the first row as the truth"
        )
        if images.truth is None:
            out.print("AP was not checked: there are no annotations (--annotations)")
        else:
            out.print("in brackets: 95 % intervals by resampling images")
        reasons = reasons_to_refuse(rows[0], rows[-1], max_loss=options.max_loss, min_agreement=options.min_agreement)
        if reasons and not options.force:
            raise CoraError(f"refused: {'; '.join(reasons)}; nothing was written, --force writes it all the same")
        if options.json is not None:
            content = {
                "model": options.model,
                "backend": options.backend,
                "mode": options.mode,
                "pictures": images.count,
                "classes": list(images.classes),
                "ap_checked": images.truth is not None,
                "threads": torch.get_num_threads(),
                "max_loss": options.max_loss,
                "min_agreement": options.min_agreement,
                "forced": reasons,
                "rows": [asdict(row) for row in rows],
            }
            write_json(options.json, content)
        move_files(target, options.output.parent)
    forced = f" (forced: {'; '.join(reasons)})" if reasons else ""
    out.print(f"written: {options.output}{forced}", soft_wrap=True)
    return 0


def _contenders(
    options: QuantizeOptions, detector: Detector, plain: Path | None, target: Path, classes: Sequence[str]
) -> list[Contender]:
    """The models to compare: the original, the float export that was quantized if there is one, and the INT8 model."""
    from cora.apps.open_model import open_detector
    from cora.compress.quantize import files_of
    from cora.compress.quantize_check import contender

    stored = target.with_name(f"stored-{target.stem}.safetensors")
    detector.save(stored)
    models = [contender("float, PyTorch", detector, (stored,), classes)]
    exported = [] if plain is None else [(f"float, {options.backend}", plain)]
    for name, file in (*exported, (f"INT8 {options.mode}, {options.backend}", target)):
        models.append(contender(name, open_detector(str(file), "cpu"), files_of(file), classes))
    return models


def _check_options(options: QuantizeOptions) -> None:
    """Refuse options that contradict each other, before a file is read."""
    from cora.compress.quantize import SUFFIXES

    suffix = SUFFIXES[options.backend]
    if options.output.suffix.lower() != suffix:
        raise CoraError(
            f"expected an output that ends in {suffix} for {options.backend}, got {options.output}; rename it"
        )
    if options.annotations is not None and options.classes is not None:
        raise DataError("expected --classes or --annotations, got both; the annotations name their classes")
    if options.annotations is None and options.split is not None:
        raise DataError("expected --annotations with --split, got none; name the annotation file")
    if options.mode == "dynamic" and options.calibration is not None:
        raise DataError("expected --calibration with --mode static, got it with dynamic, which needs none; drop it")
    if options.mode == "static" and options.calibration is None:
        raise DataError("expected --calibration DIR with --mode static, got none; name a folder of typical images")


def _calibration(options: QuantizeOptions) -> tuple[Path, ...]:
    """The images to calibrate on; none for dynamic quantization."""
    from cora.data.order import subsample
    from cora.data.sources import find_images

    if options.calibration is None:
        return ()
    return tuple(subsample(find_images([str(options.calibration)]).paths, options.calibration_limit))


def _images(options: QuantizeOptions) -> Pictures:
    from cora.compress.quantize_check import Pictures
    from cora.data.name_file import read_names
    from cora.data.sources import find_images
    from cora.images import read_image
    from cora.regions import EVERYDAY_NAMES

    if options.annotations is not None:
        return _annotated(options, options.annotations)
    paths = find_images([str(options.images)]).paths[: options.limit]
    classes = EVERYDAY_NAMES if options.classes is None else read_names(options.classes)
    return Pictures(read=lambda place: (read_image(paths[place]), place + 1), count=len(paths), classes=tuple(classes))


def _annotated(options: QuantizeOptions, annotations: Path) -> Pictures:
    from PIL import Image

    from cora.compress.quantize_check import Pictures
    from cora.evaluation.setting import read_setting

    setting = read_setting(
        images=options.images, annotations=annotations, split=options.split, limit=options.limit, resamples=1
    )
    dataset = setting.dataset

    def read(place: int) -> tuple[Image.Image, int]:
        image, _, image_id = dataset[setting.indices[place]]
        return image, image_id

    return Pictures(
        read=read, count=len(setting.indices), classes=setting.class_names, truth=setting.truth, groups=setting.groups
    )


COMMAND = Command(
    name="quantize",
    options=QuantizeOptions,
    run=run,
    help="a model in INT8, with what it costs",
    description="A model in INT8: smaller, faster where the processor helps, and measured before it is written.",
    epilog="Exit code: 0 done; 2 bad input, or a model that lost too much, and nothing written.",
)
