"""Exports a detector: traces it, writes a temporary file, compares that with the original, then moves it into place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch.export import ExportedProgram

import cora
from cora.detector import Detector, check_no_variant
from cora.detector.fingerprint import weights_fingerprint
from cora.errors import CoraError, ModelError
from cora.export.backends import Backend, LiteRt, OnnxRuntime, OpenVino, Program
from cora.export.check import Difference, compare, drawn_pictures
from cora.export.fixed_size import check_size
from cora.export.litert_file import check_litert, fixed_settings, write_litert
from cora.export.manifest import METADATA_KEY, ExportSettings, Manifest
from cora.export.onnx_file import check_onnx, write_onnx
from cora.export.openvino_file import check_openvino, write_openvino
from cora.export.program import output_names, trace
from cora.export.runtime import ExportedDetector
from cora.export.suppression import Suppress, kept_boxes, kept_boxes_in_steps, kept_boxes_operator
from cora.export.tensorrt_engine import check_tensorrt, write_engine
from cora.predictor import Predictor, network_of
from cora.regions import Vocabulary

Format = Literal["onnx", "openvino", "tensorrt", "litert", "exported-program"]

#: Format -> ending of its file.
FORMATS: dict[Format, str] = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "tensorrt": ".engine",
    "litert": ".tflite",
    "exported-program": ".pt2",
}

#: Implementation of suppression for the formats that do not use the operator.
_SUPPRESS: dict[Format, Suppress] = {"exported-program": kept_boxes, "litert": kept_boxes_in_steps}

#: Class names to compare with where the vocabulary is an input; two lists, so that the number of classes changes.
_NAMES = (("cat", "dog", "car", "chair", "person"), ("bottle", "tree"))


@dataclass(frozen=True)
class Written:
    """Result of an export.

    Attributes:
        files: all files, the one to open first.
        difference: from the original detector, in boxes and scores. For a TensorRT engine, it is that of the ONNX graph
            that the engine was built from.
    """

    files: tuple[Path, ...]
    difference: Difference


def export_detector(
    detector: Predictor | Detector,
    output: Path,
    *,
    format: Format,
    model: str,
    settings: ExportSettings | None = None,
    vocabulary: Vocabulary | None = None,
    pictures: Sequence[Image.Image] = (),
    force: bool = False,
) -> Written:
    """Write a detector for another runtime, and compare it with the original before it gets its name.

    Args:
        detector: to export; on the CPU, in float32.
        output: file to write; its name ends in .onnx, .xml (OpenVINO), .engine (TensorRT), .tflite (LiteRT) or .pt2
            (exported program).
        format: "onnx", "openvino", "tensorrt", "litert" or "exported-program".
        model: name or path of the detector; where names are given at run time, its text tower embeds them.
        settings: what is constant in the graph; None for nothing. Size and number of images are always constant for
            LiteRT, see `fixed_settings`.
        vocabulary: classes, weights and distractors to be fixed in the graph, from `Predictor.vocabulary`; None makes
            class embeddings an input.
        pictures: images to compare on; drawn ones if there are none.
        force: keep the files also when they differ from the original.

    Returns:
        The files, and by how much the exported detector differs from the original.

    Raises:
        MissingExtraError: what the format needs is not installed.
        ModelError: wrong ending, the exported detector differs from the original, or a runtime refuses it.
        CoraError: the files cannot be written, or there is no GPU for TensorRT.
    """
    check_output(output, format, names_fixed=vocabulary is not None)
    if format == "openvino":
        check_openvino()
    if format in ("onnx", "openvino", "tensorrt"):  # the other two are made from an ONNX file
        check_onnx()
    detector = network_of(detector).eval()
    settings = settings or ExportSettings()
    if format == "litert":
        settings = fixed_settings(settings, detector.config.preprocess)
    manifest = describe(detector, model=model, settings=settings, vocabulary=vocabulary)
    operator = _SUPPRESS.get(format, kept_boxes_operator)
    with _staged(output) as staged:  # around the tracing, too: a folder that cannot be written fails before the work
        program = trace(detector, manifest, vocabulary, suppress=operator)
        backend = _write(program, manifest, staged, format)
        exported = ExportedDetector(
            backend=backend, manifest=manifest, load_text_model=lambda _: detector, source=str(output)
        )
        vocabularies = (
            [vocabulary] if vocabulary is not None else [Predictor(detector).vocabulary(names) for names in _NAMES]
        )
        difference = compare(detector, exported, pictures or drawn_pictures(), vocabularies)
        if not difference.passes and not force:
            raise ModelError(
                f"{output}: expected what the original gives, got another ({difference}); "
                "nothing was written, --force keeps it"
            )
        if format == "tensorrt":
            write_engine(staged.with_suffix(".onnx"), manifest, staged)
            staged.with_suffix(".onnx").unlink()
    written = (output, *sorted(other for other in _beside(output, format) if other.is_file()))
    return Written(written, difference)


def check_output(output: Path, format: Format, *, names_fixed: bool) -> None:
    """Check what can be checked before the export.

    Raises:
        ModelError: the name has another ending than the format's, or class names are open where the format fixes them.
        MissingExtraError: tensorrt or litert-torch is not installed, where it is asked for.
        CoraError: there is no GPU for TensorRT.
    """
    if output.suffix.lower() != FORMATS[format]:
        raise ModelError(f"{output}: expected a name that ends in {FORMATS[format]} for {format}; rename it")
    if format == "tensorrt":
        check_tensorrt()
    if format == "litert":
        if not names_fixed:
            raise ModelError(
                f"{output}: expected class names to fix in the file, since LiteRT takes no varying number of them, got "
                "none; name them with --classes"
            )
        check_litert()


def describe(detector: Detector, *, model: str, settings: ExportSettings, vocabulary: Vocabulary | None) -> Manifest:
    """The manifest of the exported file.

    Raises:
        ModelError: the model does not take images of the size, or is a variant of CORA.
    """
    if settings.size_hw is not None:
        check_size(settings.size_hw, detector.config.preprocess)
    check_no_variant(detector.config, "export")
    others = None if vocabulary is None else vocabulary.distractors
    return Manifest(
        model=model,
        fingerprint=weights_fingerprint(detector),
        text_fingerprint=detector.text_tower.fingerprint,
        vocabulary="input" if vocabulary is None else "fixed",
        class_names=() if vocabulary is None else vocabulary.names,
        distractors=0 if others is None else len(others),
        settings=settings,
        config=detector.config,
        version=cora.__version__,
    )


def _write(program: ExportedProgram, manifest: Manifest, path: Path, format: Format) -> Backend:
    """Write the files of a format; returns what runs them for the comparison, of TensorRT the ONNX graph."""
    if format == "exported-program":
        torch.export.save(program, path, extra_files={METADATA_KEY: manifest.to_json()})
        return Program(torch.export.load(path))
    if format == "litert":
        write_litert(program, manifest, path)
        return LiteRt(path, outputs=output_names(manifest))
    onnx_path = path.with_suffix(".onnx")
    write_onnx(program, manifest, onnx_path)
    if format != "openvino":
        return OnnxRuntime(onnx_path)
    write_openvino(onnx_path, manifest, path)
    onnx_path.unlink()
    return OpenVino(path)


def _beside(output: Path, format: Format) -> list[Path]:
    endings = {"openvino": (".bin", ".json"), "tensorrt": (".json",), "litert": (".json",)}.get(format, ())
    return [output.with_suffix(ending) for ending in endings]


@contextmanager
def _staged(output: Path) -> Iterator[Path]:
    """A path to write to, in a temporary folder beside `output`; its files are moved beside `output` at the end."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
            staged = Path(folder) / output.name
            yield staged
            # The file that is opened by name comes last: where it is, the others are, too.
            for file in sorted(Path(folder).iterdir(), key=lambda file: file == staged):
                file.replace(output.parent / file.name)
    except OSError as error:
        raise CoraError(
            f"expected to write {output}, got {error.strerror or error}; free or choose another place"
        ) from None
