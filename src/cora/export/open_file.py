"""Opens an exported file by its ending: the runtime that executes it, and its manifest."""

from __future__ import annotations

from pathlib import Path

from cora.errors import ModelError
from cora.export.backends import Backend, LiteRt, OnnxRuntime, OpenVino
from cora.export.litert_file import read_litert_manifest
from cora.export.manifest import Manifest
from cora.export.onnx_file import read_onnx_manifest
from cora.export.openvino_file import read_openvino_manifest
from cora.export.program import output_names


def open_file(file: Path, *, device: str, threads: int) -> tuple[Backend, Manifest]:
    """Open *.onnx, *.xml or *.tflite; see `load_exported`.

    Raises:
        MissingExtraError: the runtime is not installed.
        ModelError: the file is not there, or not one that `cora export` wrote.
        CoraError: the runtime has no such device.
    """
    ending = file.suffix.lower()
    if ending == ".onnx":
        manifest = read_onnx_manifest(file)
        return OnnxRuntime(file, device=device, threads=threads), manifest
    if ending == ".xml":
        manifest = read_openvino_manifest(file)
        return OpenVino(file, device=device, threads=threads), manifest
    if ending == ".tflite":
        manifest = read_litert_manifest(file)
        return LiteRt(file, outputs=output_names(manifest), device=device, threads=threads), manifest
    raise ModelError(f"model {file}: expected an exported file that ends in .onnx, .xml or .tflite, got another ending")
