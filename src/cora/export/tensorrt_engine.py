"""TensorRT: builds an engine for the GPU of this machine from an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cora.errors import CoraError, ModelError, needs_extra
from cora.export.description import write_description
from cora.export.manifest import Manifest

#: Least, usual and largest size that an engine is built for, where the graph leaves it open.
_BATCH, _CLASSES = (1, 1, 8), (1, 65, 2048)
_LEAST_SIDE = 192


def check_tensorrt() -> Any:
    """Import the package, and check that there is a GPU.

    Raises:
        MissingExtraError: tensorrt is not installed.
        CoraError: there is no NVIDIA GPU; an engine only fits the GPU that it is built on.
    """
    with needs_extra("building a TensorRT engine", extra="tensorrt"):
        import tensorrt
    if not torch.cuda.is_available():
        raise CoraError(
            "TensorRT: expected an NVIDIA GPU, since an engine is built for the one that runs it, got none; "
            "export to onnx here and build the engine there"
        )
    return tensorrt


def write_engine(onnx_path: Path, manifest: Manifest, path: Path) -> None:
    """Build an engine from an ONNX file; the description goes beside it as .json.

    Raises:
        MissingExtraError: tensorrt is not installed.
        CoraError: there is no GPU.
        ModelError: TensorRT cannot build it.
    """
    tensorrt = check_tensorrt()
    log = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(log)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_path)):
        reasons = "; ".join(str(parser.get_error(index)) for index in range(min(3, parser.num_errors)))
        raise ModelError(f"{path}: TensorRT cannot read the graph: {reasons[:200]}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for name, shapes in profile_shapes(manifest).items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ModelError(f"{path}: TensorRT could not build an engine of the graph; its own messages say why")
    path.write_bytes(engine)
    write_description(manifest, path)


def profile_shapes(manifest: Manifest) -> dict[str, list[tuple[int, ...]]]:
    """Input -> its least, usual and largest shape, for every input of the graph."""
    settings, preprocess = manifest.settings, manifest.config.preprocess
    batches = _BATCH if settings.batch is None else (settings.batch,) * 3
    short, long = preprocess.short_side, preprocess.long_side
    short, long = (-(-side // preprocess.multiple) * preprocess.multiple for side in (short, long))
    sizes = [(min(_LEAST_SIDE, short),) * 2, (short, long), (long, long)]
    if settings.size_hw is not None:
        sizes = [settings.size_hw] * 3
    shapes: dict[str, list[tuple[int, ...]]] = {
        "pixels": [(batch, 3, *size) for batch, size in zip(batches, sizes, strict=True)],
        "sizes_hw": [(batch, 2) for batch in batches],
    }
    if manifest.vocabulary == "input":
        shapes["embeddings"] = [(count, manifest.config.tower.embed_dim) for count in _CLASSES]
        shapes["log_weights"] = [(count,) for count in _CLASSES]
    return shapes
