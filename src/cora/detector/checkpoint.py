"""Model files: one safetensors file per detector, with the configuration in its metadata.

A model file can leave out tensors that another one in its folder contains (`write_sharing_checkpoint`); reading it then
reads both. So `nano-ovcoco` stores only what differs from `nano`.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cora.detector.config import DetectorConfig
from cora.errors import CoraError, ModelError
from cora.files import content_of, head_of, not_fetched, write_safetensors
from cora.towers.weights import check_no_export

FORMAT = "cora-detector"
FORMAT_VERSION = 1
DTYPES = (torch.float16, torch.float32)
#: Prefix of tensors that are always stored in float32: few numbers, but all class embeddings depend on them.
FLOAT32_PREFIX = "learned_text."
#: File name without a folder. A model file may come from anyone, and must not refer to files outside its folder.
_BARE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Shares:
    """Which tensors of a model file are stored in another file of its folder.

    Attributes:
        file: name of the other file, without a folder.
        tensors: names of the tensors.
        fingerprint: `fingerprint_of` these tensors, to notice that the other file was replaced.
    """

    file: str
    tensors: tuple[str, ...]
    fingerprint: str

    def __post_init__(self) -> None:
        if not isinstance(self.file, str) or not _BARE_NAME.fullmatch(self.file):
            raise ValueError(f"expected the name of a .safetensors file without a folder, got {_short(self.file)}")
        names = self.tensors
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise ValueError("expected names of tensors, each once, got others")
        if not isinstance(self.fingerprint, str) or not _DIGEST.fullmatch(self.fingerprint):
            raise ValueError(f"expected a fingerprint of 64 hexadecimal digits, got {_short(self.fingerprint)}")


def write_checkpoint(
    path: str | Path,
    config: DetectorConfig,
    weights: Mapping[str, Tensor],
    *,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write config and weights atomically.

    Args:
        path: the file to write, usually *.safetensors; its folder is created if needed.
        config: stored in the metadata as JSON.
        weights: state dict. Floating-point tensors are stored as `dtype`, those of learned text as float32.
        dtype: torch.float16 or torch.float32.

    Raises:
        ModelError: the file cannot be written, or a weight does not fit into half precision.
    """
    target = Path(path)
    write_tensors(target, _to_stored(target, weights, dtype), _metadata(config))


def write_sharing_checkpoint(
    path: str | Path,
    config: DetectorConfig,
    weights: Mapping[str, Tensor],
    *,
    beside: str | Path,
    dtype: torch.dtype = torch.float16,
) -> tuple[str, ...]:
    """Write config and weights, without the tensors that another model file in the folder contains bit for bit.

    Args:
        path: the file to write.
        config: stored in the metadata as JSON.
        weights: state dict of the whole detector, stored as in `write_checkpoint`.
        beside: the other model file, which itself shares with none. The written file cannot be read without it.
        dtype: torch.float16 or torch.float32. Tensors are compared after the conversion.

    Returns:
        Names of the shared tensors. If there are none, the written file is complete.

    Raises:
        ModelError: `beside` is in another folder, is not a complete model file or is `path`; else as
            `write_checkpoint`.
    """
    target, other = Path(path), Path(beside)
    if target.parent.resolve() != other.parent.resolve() or target.name == other.name:
        raise ModelError(f"checkpoint {target}: expected another file of its folder to share with, got {other}")
    if not _BARE_NAME.fullmatch(other.name):
        raise ModelError(
            f"checkpoint {target}: expected a file *.safetensors to share with, its name of letters, digits, "
            f"'.', '_' and '-', got {_short(other.name)}; rename it"
        )
    tensors = _to_stored(target, weights, dtype)
    with _open_checkpoint(other) as (content, metadata):
        if _shares(metadata, other) is not None:
            raise ModelError(
                f"checkpoint {target}: expected a whole file to share with, got {other}, which shares, too"
            )
        shared = {}
        for name in sorted(tensors.keys() & set(content.keys())):
            if _identical(tensors[name], content.get_tensor(name)):
                shared[name] = tensors.pop(name)
    entries = _metadata(config)
    if shared:
        entries["shares"] = json.dumps(asdict(Shares(other.name, tuple(shared), fingerprint_of(shared))))
    write_tensors(target, tensors, entries)
    return tuple(shared)


def write_tensors(target: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file with metadata atomically; its folder is created if needed.

    Raises:
        ModelError: the file cannot be written.
    """
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        write_safetensors(target, whole, metadata)
    except CoraError as error:
        raise ModelError(str(error)) from error


def read_checkpoint(path: str | Path) -> tuple[DetectorConfig, dict[str, Tensor]]:
    """Read the configuration and the weights, in float32; shared tensors come from the other file.

    Raises:
        ModelError: no such file, not a model file, another format version, or shared tensors that are missing or have
            changed.
    """
    file = Path(path)
    with _open_checkpoint(file) as (content, metadata):
        config, shares = _config(metadata), _shares(metadata, file)
        weights = {name: _to_float32(content.get_tensor(name)) for name in content.keys()}  # noqa: SIM118 - not a mapping
    if shares is not None:
        weights |= _read_shared(file, shares, own=weights)
    return config, weights


def check_model_file(output: Path) -> None:
    """Raise ModelError unless the name of a model file to write ends in .safetensors."""
    if output.suffix != ".safetensors":
        raise ModelError(f"expected an output file *.safetensors, got {output}; change its suffix")


def exact_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """float16 if it can store all weights exactly (they were loaded from such a file), else float32."""
    numbers = (value for value in tensors.values() if value.is_floating_point())
    return torch.float16 if all(torch.equal(value.half().to(value), value) for value in numbers) else torch.float32


def read_config(path: str | Path) -> tuple[DetectorConfig, str | None]:
    """Read the configuration, and the name of the file that tensors are shared with, but no weights.

    Raises:
        ModelError: no such file, not a model file, or another format version.
    """
    file = Path(path)
    with _open_checkpoint(file) as (_, metadata):
        shares = _shares(metadata, file)
        return _config(metadata), None if shares is None else shares.file


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of tensors as they are stored, sorted by name."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(_bytes(value).numpy().tobytes())
    return digest.hexdigest()


def _metadata(config: DetectorConfig) -> dict[str, str]:
    return {"format": FORMAT, "version": str(FORMAT_VERSION), "config": json.dumps(config.to_dict())}


def _to_stored(target: Path, weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Convert weights to the dtype they are stored in, and check that none overflows; `target` is for the message."""
    if dtype not in DTYPES:
        raise ModelError(f"dtype of a checkpoint: expected float16 or float32, got {dtype}")
    tensors = {}
    for name, value in weights.items():
        stored_as = torch.float32 if name.startswith(FLOAT32_PREFIX) else dtype
        stored = value.detach().to(device="cpu", dtype=stored_as if value.is_floating_point() else None)
        if value.is_floating_point() and not bool(stored.isfinite().all()):
            raise ModelError(f"{target}: expected finite weights, {name} is not in {stored_as}; save as float32")
        tensors[name] = stored
    return tensors


def _to_float32(value: Tensor) -> Tensor:
    # A copy, since safetensors returns a view of the file, which may change.
    return value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)


def _bytes(value: Tensor) -> Tensor:
    return value.detach().contiguous().reshape(-1).view(torch.uint8)


def _identical(one: Tensor, other: Tensor) -> bool:
    # By bytes: 0.0 equals -0.0, and their fingerprints differ.
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bytes(one), _bytes(other))


def _short(value: object) -> str:
    """The repr, cut to 60 characters for messages."""
    return f"{value!r:.60}"


@contextmanager
def _open_checkpoint(file: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """An open model file of this format version, and its metadata; all errors of reading become ModelError."""
    if file.is_dir():
        raise ModelError(f"model {file}: expected a file, got a folder; name a file in it")
    if not file.is_file():
        raise ModelError(f"model {file}: expected an existing file, got none")
    check_no_export(file, source=f"model {file}")
    try:
        with safe_open(str(file), framework="pt") as content:
            metadata: dict[str, str] = content.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ModelError(
                    f"model {file}: expected a model file of cora, got a safetensors file of another program; "
                    "published checkpoints and CLIP's weights are turned into one by `cora convert`"
                )
            if metadata.get("version") != str(FORMAT_VERSION):
                raise ModelError(
                    f"model {file}: expected format version {FORMAT_VERSION}, "
                    f"got {metadata.get('version')}; install the version of cora-ovd that wrote it"
                )
            yield content, metadata
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(f"model {file}: expected a model file of cora, {_describe(file, error)}") from error


def _describe(file: Path, error: Exception) -> str:
    """Second half of the message about a file that is not a model file: what it is instead, and what to do."""
    head = head_of(file)
    if not_there := not_fetched(head):
        return not_there
    if zipfile.is_zipfile(file):
        return (
            "got a PyTorch file or another archive; published checkpoints and CLIP's weights are turned into one by "
            "`cora convert`, models of other programs by nothing here"
        )
    if "incomplete" in str(error).lower():
        return "got a part of one; get it again"
    if not isinstance(error, SafetensorError):
        return f"could not read it ({error}); take it from where it was made"
    kind = content_of(head) or ("a JSON file" if head.lstrip()[:1] in (b"{", b"[") else "a file of another kind", "")
    return f"got {kind[0]}; name a model file, which 'cora train' and 'cora convert' write"


def _config(metadata: Mapping[str, str]) -> DetectorConfig:
    values = json.loads(metadata["config"])
    if not isinstance(values, dict):
        raise ValueError("its configuration is no JSON object")
    return DetectorConfig.from_dict(values)


def _shares(metadata: Mapping[str, str], file: Path) -> Shares | None:
    """Which tensors are stored in another file; None for a complete model file."""
    if "shares" not in metadata:
        return None
    try:
        entries = json.loads(metadata["shares"])
        return Shares(entries["file"], tuple(entries["tensors"]), entries["fingerprint"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else "expected file, tensors and fingerprint, got others"
        raise ModelError(f"model {file}: shared tensors: {reason}; take it from where it was made") from error


def _read_shared(file: Path, shares: Shares, *, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the shared tensors from the other file, and refuse it if they changed since `file` was written."""
    other, count = file.with_name(shares.file), len(shares.tensors)
    if not other.is_file():
        raise ModelError(
            f"model {file}: expected {shares.file} in its folder, which holds {count} of its tensors, got none; "
            "keep both files together"
        )
    twice = sorted(own.keys() & set(shares.tensors))
    if twice:
        raise ModelError(
            f"model {file}: expected tensors either in it or in {shares.file}, got {len(twice)} in both, "
            f"for example {_short(twice[0])}; take it from where it was made"
        )
    with _open_checkpoint(other) as (content, _):
        missing = sorted(set(shares.tensors) - set(content.keys()))
        if missing:
            raise ModelError(
                f"model {file}: expected {count} shared tensors in {shares.file}, got {len(missing)} missing, "
                f"for example {_short(missing[0])}; take both files from one release"
            )
        shared = {name: content.get_tensor(name) for name in shares.tensors}
        found = fingerprint_of(shared)
        if found != shares.fingerprint:
            raise ModelError(
                f"model {file}: expected tensors of fingerprint {shares.fingerprint[:12]} in {shares.file}, "
                f"got {found[:12]}; take both files from one release"
            )
        return {name: _to_float32(value) for name, value in shared.items()}
