"""Model files: one safetensors file per detector, whose metadata holds the configuration.

A model file may share tensors with another one in its folder (`write_sharing_checkpoint`); both are read as one.
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
#: Prefix of tensors always stored in float32: a few numbers, on which all class embeddings depend.
WHOLE = "learned_text."
#: Files may come from anyone; such a name cannot lead out of their folder.
_BARE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Shares:
    """Tensors of a checkpoint that lie in another file of its folder.

    Attributes:
        file: name of that file, without a folder.
        tensors: their names, the same in both files.
        fingerprint: SHA-256 over names, types, shapes and values, see `fingerprint_of`.
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
    """Write config and weights; the file appears whole or not at all.

    Args:
        path: the file to write, usually ending in .safetensors; its folder is made if needed.
        config: goes into the metadata as JSON.
        weights: state dict; floating tensors are stored as `dtype`, those of learned text as float32.
        dtype: torch.float16 or torch.float32.

    Raises:
        ModelError: the file cannot be written, or a weight does not fit into half precision.
    """
    target = Path(path)
    write_tensors(target, _as_stored(target, weights, dtype), _metadata(config))


def write_sharing_checkpoint(
    path: str | Path,
    config: DetectorConfig,
    weights: Mapping[str, Tensor],
    *,
    beside: str | Path,
    dtype: torch.dtype = torch.float16,
) -> tuple[str, ...]:
    """Write config and weights, but for the weights that another checkpoint in the folder holds bit for bit.

    Args:
        path: the file to write.
        config: goes into the metadata as JSON.
        weights: state dict of the whole detector, stored as `write_checkpoint` stores it.
        beside: the other checkpoint, a whole one; the written file needs it from now on.
        dtype: torch.float16 or torch.float32; what is shared is compared as stored.

    Returns:
        Names of the shared tensors. Without any the file is a whole one.

    Raises:
        ModelError: `beside` is in another folder, no whole checkpoint or the file to write; else as `write_checkpoint`.
    """
    target, other = Path(path), Path(beside)
    if target.parent.resolve() != other.parent.resolve() or target.name == other.name:
        raise ModelError(f"checkpoint {target}: expected another file of its folder to share with, got {other}")
    if not _BARE_NAME.fullmatch(other.name):
        raise ModelError(
            f"checkpoint {target}: expected a file *.safetensors to share with, its name of letters, digits, "
            f"'.', '_' and '-', got {_short(other.name)}; rename it"
        )
    tensors = _as_stored(target, weights, dtype)
    with _opened(other) as (content, metadata):
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
    """Write a safetensors file with its metadata, whole or not at all; its folder is made if needed.

    Raises:
        ModelError: the file cannot be written.
    """
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        write_safetensors(target, whole, metadata)
    except CoraError as error:
        raise ModelError(str(error)) from error


def read_checkpoint(path: str | Path) -> tuple[DetectorConfig, dict[str, Tensor]]:
    """Configuration and float32 weights of a checkpoint, with those that it shares with another file.

    Raises:
        ModelError: no such file, not a detector's checkpoint, one of another format version, or one whose shared
            tensors are not beside it as they were when it was written.
    """
    file = Path(path)
    with _opened(file) as (content, metadata):
        config, shares = _config(metadata), _shares(metadata, file)
        weights = {name: _usable(content.get_tensor(name)) for name in content.keys()}  # noqa: SIM118 - not a mapping
    if shares is not None:
        weights |= _read_shared(file, shares, own=weights)
    return config, weights


def check_model_file(output: Path) -> None:
    """Raise ModelError unless the name of a model file to write ends as it should."""
    if output.suffix != ".safetensors":
        raise ModelError(f"expected an output file *.safetensors, got {output}; change its suffix")


def exact_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """float16 if it holds all weights exactly (they were loaded from it), else float32."""
    numbers = (value for value in tensors.values() if value.is_floating_point())
    return torch.float16 if all(torch.equal(value.half().to(value), value) for value in numbers) else torch.float32


def read_config(path: str | Path) -> tuple[DetectorConfig, str | None]:
    """Configuration of a checkpoint, and the name of the file that it shares tensors with; no weights are read.

    Raises:
        ModelError: no such file, not a detector's checkpoint, or one of another format version.
    """
    file = Path(path)
    with _opened(file) as (_, metadata):
        shares = _shares(metadata, file)
        return _config(metadata), None if shares is None else shares.file


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors as they are stored, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(_bytes(value).numpy().tobytes())
    return digest.hexdigest()


def _metadata(config: DetectorConfig) -> dict[str, str]:
    return {"format": FORMAT, "version": str(FORMAT_VERSION), "config": json.dumps(config.to_dict())}


def _as_stored(target: Path, weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    if dtype not in DTYPES:
        raise ModelError(f"dtype of a checkpoint: expected float16 or float32, got {dtype}")
    tensors = {}
    for name, value in weights.items():
        stored_as = torch.float32 if name.startswith(WHOLE) else dtype
        stored = value.detach().to(device="cpu", dtype=stored_as if value.is_floating_point() else None)
        if value.is_floating_point() and not bool(stored.isfinite().all()):
            raise ModelError(f"{target}: expected finite weights, {name} is not in {stored_as}; save as float32")
        tensors[name] = stored
    return tensors


def _usable(value: Tensor) -> Tensor:
    # A copy, since safetensors gives a view of the file, which may change.
    return value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)


def _bytes(value: Tensor) -> Tensor:
    return value.detach().contiguous().reshape(-1).view(torch.uint8)


def _identical(one: Tensor, other: Tensor) -> bool:
    # By bytes: 0.0 equals -0.0, and their fingerprints differ.
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bytes(one), _bytes(other))


def _short(value: object) -> str:
    return f"{value!r:.60}"


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """An open checkpoint of this format version, and its metadata."""
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
        raise ModelError(f"model {file}: expected a model file of cora, {_instead(file, error)}") from error


def _instead(file: Path, error: Exception) -> str:
    """What a file is that is no checkpoint, and what to do."""
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
    """What a checkpoint leaves to another file; None for a whole one."""
    if "shares" not in metadata:
        return None
    try:
        entries = json.loads(metadata["shares"])
        return Shares(entries["file"], tuple(entries["tensors"]), entries["fingerprint"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else "expected file, tensors and fingerprint, got others"
        raise ModelError(f"model {file}: shared tensors: {reason}; take it from where it was made") from error


def _read_shared(file: Path, shares: Shares, *, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The shared tensors of a checkpoint, as stored, if they are what they were when it was written."""
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
    with _opened(other) as (content, _):
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
        return {name: _usable(value) for name, value in shared.items()}
