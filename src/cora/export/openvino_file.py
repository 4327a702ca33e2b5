"""OpenVINO: converts an ONNX file, and reads the description beside a converted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cora.errors import ModelError, needs_extra
from cora.export.backends import reported
from cora.export.description import check_beside, read_description, write_description
from cora.export.manifest import Manifest
from cora.export.onnx_file import MAX_BYTES, check_size
from cora.files import content_of, head_of

#: Largest graph in bytes; its weights are in another file.
MAX_GRAPH_BYTES = 200_000_000


def companions(path: Path) -> tuple[Path, Path]:
    """The files beside an .xml file: weights and description."""
    return path.with_suffix(".bin"), path.with_suffix(".json")


def check_openvino() -> Any:
    """Import the converter.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    with needs_extra("exporting to OpenVINO", extra="openvino"):
        import openvino
    return openvino


def write_openvino(onnx_path: Path, manifest: Manifest, path: Path) -> None:
    """Convert an ONNX file; writes the graph (.xml), its weights (.bin) and the description (.json).

    Raises:
        MissingExtraError: openvino is not installed.
        ModelError: OpenVINO cannot convert it.
    """
    openvino = check_openvino()
    with reported(f"{path}: OpenVINO cannot convert the graph"):
        model = openvino.convert_model(str(onnx_path))
    openvino.save_model(model, str(path), compress_to_fp16=False)
    write_description(manifest, path)


def read_openvino_manifest(path: Path) -> Manifest:
    """Read the description beside an OpenVINO file; no file of them is trusted.

    Raises:
        ModelError: a file is missing or too large, or `cora export` did not write it.
    """
    check_size(path, MAX_GRAPH_BYTES)
    if b"<net" not in (head := head_of(path)):
        found = (content_of(head) or ("a file of another kind", ""))[0]
        raise ModelError(f"model {path}: expected a graph of OpenVINO that `cora export` wrote, got {found}")
    weights, _ = companions(path)
    check_beside(weights, path)
    check_size(weights, MAX_BYTES)
    return read_description(path)
