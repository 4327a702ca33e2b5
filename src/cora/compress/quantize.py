"""INT8 models by ONNX Runtime's quantizer, OpenVINO's NNCF, or torchao."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray

from cora.compress.quantize_float import FloatWeights
from cora.compress.quantize_onnx import quantize_onnx_file
from cora.compress.quantize_openvino import quantize_openvino_file
from cora.compress.quantize_torch import Mode, quantize_detector
from cora.detector import Detector
from cora.errors import ModelError
from cora.export.graph import class_inputs
from cora.export.manifest import ExportSettings
from cora.export.onnx_file import write_onnx
from cora.export.openvino_file import companions, write_openvino
from cora.export.program import trace
from cora.export.suppression import kept_boxes_operator
from cora.export.write import describe
from cora.images import ImageSource, Preprocessor, read_image
from cora.predictor import Predictor, at_precision
from cora.regions import Vocabulary, by_themselves

Backend = Literal["onnxruntime", "openvino", "torchao"]

#: Ending of the file that each backend writes.
SUFFIXES: dict[Backend, str] = {"onnxruntime": ".onnx", "openvino": ".xml", "torchao": ".safetensors"}


def quantize_model(
    detector: Detector,
    target: Path,
    *,
    backend: Backend,
    mode: Mode,
    model: str,
    classes: Sequence[str],
    calibration: Sequence[ImageSource] = (),
) -> Path | None:
    """Write an INT8 copy of a detector.

    Args:
        detector: the float model, on the CPU; it stays as it is.
        target: the file to write, into a folder that exists. The files that belong to it are written beside it, and so
            is the float export, whose name begins with `float-`.
        backend: the tool.
        mode: whether scales of inputs are found when they come ("dynamic") or on the calibration images ("static").
        model: name or path of the detector, under which an exported file finds its text tower again.
        classes: names to look for while calibrating.
        calibration: images; static mode only.

    Returns:
        The float export that was quantized; None where the detector itself was.

    Raises:
        MissingExtraError: the tool is not installed.
        ModelError: static mode without images, or the tool fails.
        ImageError: an image cannot be read.
    """
    if mode == "static" and not calibration:
        raise ModelError("static quantization: expected images to calibrate with, got none")
    vocabulary = Predictor(detector).vocabulary(by_themselves(classes), distractors=())
    if backend == "torchao":
        quantize_detector(detector, mode=mode, vocabulary=vocabulary, calibration=calibration).save(target)
        return None
    plain = export_folded(detector, target.with_name(f"float-{target.stem}{SUFFIXES[backend]}"), model=model)
    feeds = calibration_feeds(detector.preprocessor, vocabulary, calibration) if mode == "static" else None
    quantize = quantize_onnx_file if backend == "onnxruntime" else quantize_openvino_file
    quantize(plain, target, feeds=feeds, keep=FloatWeights(detector))
    return plain


def export_folded(detector: Detector, path: Path, *, model: str, settings: ExportSettings | None = None) -> Path:
    """Export a detector with batch norms folded into convolutions; class names are given at run time.

    The runtimes could fold them, too, but would copy the last stage's weights for every use.

    Args:
        detector: to export.
        path: *.onnx or *.xml.
        model: name or path of the detector, for the manifest.
        settings: what is constant in the graph; any size and batch if None.
    """
    manifest = describe(detector, model=model, settings=settings or ExportSettings(), vocabulary=None)
    with torch.no_grad():
        program = trace(at_precision(detector, "float32"), manifest, None, suppress=kept_boxes_operator)
    onnx_path = path.with_suffix(".onnx")
    write_onnx(program, manifest, onnx_path)
    if path.suffix == ".xml":
        write_openvino(onnx_path, manifest, path)
        onnx_path.unlink()
    return path


def calibration_feeds(
    preprocessor: Preprocessor, vocabulary: Vocabulary, pictures: Sequence[ImageSource]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Inputs of the exported graph, by name, one image at a time.

    Raises:
        ImageError: an image cannot be read.
    """
    embeddings, log_weights = (value.cpu().numpy() for value in class_inputs(vocabulary))
    for source in pictures:
        batch = preprocessor([read_image(source)])
        yield {
            "pixels": batch.pixels.numpy(),
            "sizes_hw": torch.tensor(batch.sizes).numpy(),
            "embeddings": embeddings,
            "log_weights": log_weights,
        }


def files_of(path: Path) -> tuple[Path, ...]:
    """The files of a model: its own and, of OpenVINO, those of weights and description beside it."""
    return (path, *companions(path)) if path.suffix.lower() == ".xml" else (path,)


def move_files(path: Path, folder: Path) -> None:
    """Move a model's files into a folder; the named one comes last, so that the files it needs are there before."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in reversed(files_of(path)):
        shutil.move(file, folder / file.name)
