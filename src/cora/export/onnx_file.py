"""ONNX: writes a traced detector, and reads the description in a file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.console import quiet
from cora.errors import ModelError, needs_extra
from cora.export.manifest import METADATA_KEY, Manifest
from cora.export.program import input_names, output_names
from cora.files import content_of, head_of, not_fetched

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

OPSET = 18

#: Largest file in bytes: the format itself ends there, weights in further files are not read.
MAX_BYTES = 2**31 - 1


def check_onnx() -> None:
    """The packages that write an ONNX file, and that run it for the comparison.

    Raises:
        MissingExtraError: one is not installed.
    """
    with needs_extra("exporting to ONNX", extra="onnx"):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401 - the exporter's own import gives no extra's name


def write_onnx(program: ExportedProgram, manifest: Manifest, path: Path) -> None:
    """Write a program, traced with `suppression.kept_boxes_operator`, as one ONNX file.

    Raises:
        MissingExtraError: a package for it is not installed.
        ModelError: the weights do not fit into one file.
    """
    check_onnx()
    import onnx
    import torch

    with torch.no_grad(), quiet("torch.onnx", "onnxscript", "onnx_ir"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes of the exporter for its developers
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=input_names(manifest),
            output_names=output_names(manifest),
            custom_translation_table={torch.ops.cora.kept_boxes.default: _non_maximum_suppression()},
            external_data=False,
        )
        assert exported is not None
    proto: Any = exported.model_proto
    # The exporter's notes at every node name files of the machine that exported.
    for function_or_graph in (proto.graph, *proto.functions):
        for node in function_or_graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
    write_manifest(proto, manifest)
    size = proto.ByteSize()
    if size > MAX_BYTES:
        raise ModelError(
            f"{path}: expected weights of at most 2 GB for ONNX, got {size / 1e9:.1f}; use a smaller model"
        )
    onnx.save_model(proto, str(path))


def write_manifest(model: ModelProto, manifest: Manifest) -> None:
    """Put the description into a model in memory; replaces an earlier one."""
    import onnx

    others = {entry.key: entry.value for entry in model.metadata_props if entry.key != METADATA_KEY}
    onnx.helper.set_model_props(model, others | {METADATA_KEY: manifest.to_json()})


def read_onnx_manifest(path: Path) -> Manifest:
    """Read the description in an ONNX file, which is not trusted.

    Raises:
        MissingExtraError: onnx is not installed.
        ModelError: no such file, too large, no ONNX, not one that `cora export` wrote, or with weights elsewhere.
    """
    check_size(path, MAX_BYTES)
    with needs_extra("reading an ONNX file", extra="onnx"):
        import onnx
        from google.protobuf.message import DecodeError
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        found = (content_of(head_of(path)) or ("a damaged file or one of another kind", ""))[0]
        raise ModelError(f"{path}: expected an ONNX file, got {found}; export it again") from error
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(f"{path}: expected all weights in this file, got some in another; export it again")
    said = {entry.key: entry.value for entry in model.metadata_props}
    return Manifest.from_json(said.get(METADATA_KEY), str(path))


def check_size(path: Path, most: int) -> None:
    """Check that a file is there, and of at most `most` bytes, before it is read.

    Raises:
        ModelError: it is missing, a folder, a placeholder for a file that was not downloaded, or too large.
    """
    if path.is_dir():
        raise ModelError(f"model {path}: expected a file that `cora export` wrote, got a folder; name a file in it")
    if not path.is_file():
        raise ModelError(f"model {path}: expected an existing file, got none; check the path")
    if not_there := not_fetched(head_of(path)):
        raise ModelError(f"model {path}: expected a file that `cora export` wrote, {not_there}")
    size = path.stat().st_size
    if size > most:
        raise ModelError(f"model {path}: expected a file of at most {most / 1e6:.0f} MB, got {size} bytes")


def _non_maximum_suppression() -> Any:
    """The translation of `cora::kept_boxes`."""
    from onnxscript import opset18

    op: Any = opset18

    def kept_boxes(boxes_xyxy: Any, scores: Any, iou: float, min_score: float) -> Any:
        chosen = op.NonMaxSuppression(
            boxes_xyxy,
            scores,
            op.Slice(op.Shape(boxes_xyxy), [1], [2]),
            op.Constant(value_floats=[iou]),
            op.Constant(value_floats=[min_score]),
        )
        count = op.Slice(op.Shape(chosen), [0], [1])
        ones = op.Expand(op.Constant(value_float=1.0), count)
        return op.ScatterND(op.ConstantOfShape(op.Shape(scores)), chosen, ones)

    return kept_boxes
