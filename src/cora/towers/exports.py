"""Files that hold a graph for some runtime, told from files of weights: nothing here can be made of them."""

from __future__ import annotations

import zipfile
from pathlib import Path

#: Bytes -> where they stand -> what people call such a file.
_MARKS = (
    (0, b"ftrt", "an engine of TensorRT"),
    (4, b"TFL3", "a model of TensorFlow Lite"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes it"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"<?xml", "a model of OpenVINO, or another XML file"),
)
_ENDINGS = {
    ".pt2": "a program of torch.export (.pt2)",
    ".onnx": "a graph in ONNX",
    ".engine": "an engine of TensorRT",
    ".plan": "an engine of TensorRT",
    ".mlmodel": "a model of Core ML",
    ".ptl": "a model of PyTorch Mobile",
}
_HEAD = 16


def export_kind(path: Path) -> str | None:
    """What people call an exported model, with its article; None for a file that may hold weights.

    A TorchScript archive holds its weights by name, too, and is none.

    Args:
        path: of an existing file.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    for place, mark, kind in _MARKS:
        if head[place:].startswith(mark):
            return kind
    if zipfile.is_zipfile(path):
        return _archive_kind(path)
    return _ENDINGS.get(path.suffix.lower())


def is_torchscript(path: Path) -> bool:
    """Whether a file is TorchScript: only then does it hold code beside its tensors."""
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
