"""One artefact per detector: a safetensors file whose metadata holds the configuration."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cora.detector.config import DetectorConfig
from cora.errors import ModelError

FORMAT = "cora-detector"
FORMAT_VERSION = 1
DTYPES = (torch.float16, torch.float32)
#: Stored in float32 whatever the rest: a few numbers, on which all class embeddings depend.
WHOLE = "learned_text."


def write_checkpoint(
    path: str | Path,
    config: DetectorConfig,
    weights: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write config and weights; the file appears whole or not at all.

    Args:
        path: the file to write, usually ending in .safetensors; its folder is made if needed.
        config: goes into the metadata as JSON.
        weights: state dict; floating tensors are stored as `dtype`, those of learned text as float32.
        dtype: torch.float16 or torch.float32.

    Raises:
        ModelError: the file cannot be written, or a weight does not fit into half precision.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype of a checkpoint: expected float16 or float32, got {dtype}")
    target = Path(path)
    tensors = {}
    for name, value in weights.items():
        stored_as = torch.float32 if name.startswith(WHOLE) else dtype
        stored = value.detach().to(device="cpu", dtype=stored_as if value.is_floating_point() else None)
        if value.is_floating_point() and not bool(stored.isfinite().all()):
            raise ModelError(f"{target}: expected finite weights, {name} is not in {stored_as}; save as float32")
        tensors[name] = stored
    metadata = {"format": FORMAT, "version": str(FORMAT_VERSION), "config": json.dumps(config.to_dict())}
    write_tensors(target, tensors, metadata)


def write_tensors(target: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file with its metadata, whole or not at all; its folder is made if needed.

    Raises:
        ModelError: the file cannot be written.
    """
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    part = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as handle:
            part = handle.name
        save_file(whole, part, metadata=metadata)
        os.chmod(part, 0o644)
        os.replace(part, target)
    except (OSError, SafetensorError) as error:
        if part is not None:
            Path(part).unlink(missing_ok=True)
        raise ModelError(f"file {target}: cannot be written ({error}); is the folder writable?") from error


def read_checkpoint(path: str | Path) -> tuple[DetectorConfig, dict[str, Tensor]]:
    """Configuration and float32 weights of a checkpoint.

    Raises:
        ModelError: no such file, not a detector's checkpoint, or one of another format version.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"checkpoint {file}: expected an existing file, got none")
    try:
        with safe_open(str(file), framework="pt") as content:
            metadata = content.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ModelError(
                    f"checkpoint {file}: expected a file that Detector.save wrote, got one without its "
                    "configuration; published checkpoints are turned into one by `cora convert`"
                )
            if metadata.get("version") != str(FORMAT_VERSION):
                raise ModelError(
                    f"checkpoint {file}: expected format version {FORMAT_VERSION}, "
                    f"got {metadata.get('version')}; install the version of cora-ovd that wrote it"
                )
            config = DetectorConfig.from_dict(json.loads(metadata["config"]))
            weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(
            f"checkpoint {file}: expected a safetensors file that Detector.save wrote, "
            f"could not read it ({error}); published checkpoints are turned into one by `cora convert`"
        ) from error
    return config, {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
