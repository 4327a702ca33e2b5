"""Recognise exported models (ONNX, TensorRT, ...): files that hold a graph for a runtime and cannot be loaded here."""

from __future__ import annotations

import zipfile
from pathlib import Path

#: (offset, magic bytes, name of the format with its article), for error messages.
_SIGNATURES = (
    (0, b"ftrt", "an engine of TensorRT"),
    (4, b"TFL3", "a model of TensorFlow Lite"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes it"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"<?xml", "a model of OpenVINO, or another XML file"),
)
_SUFFIXES = {
    ".pt2": "a program of torch.export (.pt2)",
    ".onnx": "a graph in ONNX",
    ".engine": "an engine of TensorRT",
    ".plan": "an engine of TensorRT",
    ".mlmodel": "a model of Core ML",
    ".ptl": "a model of PyTorch Mobile",
}
_HEAD_BYTES = 16


def export_kind(path: Path) -> str | None:
    """Name of an exported model's format, with its article; None for a file that may hold weights.

    None for a TorchScript archive as well: it holds a graph, but also weights by name.

    Args:
        path: of an existing file.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    for offset, magic, kind in _SIGNATURES:
        if head[offset:].startswith(magic):
            return kind
    if zipfile.is_zipfile(path):
        return _archive_kind(path)
    return _SUFFIXES.get(path.suffix.lower())


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a ZIP file with a folder `code` beside its tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as content:
        return any("/code/" in entry for entry in content.namelist())


def _archive_kind(path: Path) -> str | None:
    with zipfile.ZipFile(path) as content:
        entries = [entry.partition("/")[2] or entry for entry in content.namelist()]
    if "archive_format" in entries or any(entry.startswith("serialized_exported_program") for entry in entries):
        return "a program of torch.export (.pt2)"
    if any(entry.endswith(".keras") or entry in ("config.json", "model.weights.h5") for entry in entries):
        return "a model of Keras"
    return None
