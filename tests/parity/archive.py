"""Tensors in little space: the bytes of each are laid out by significance, then compressed with xz.

Weights drawn at random hardly compress, but their exponents do, once they stand side by side.
"""

import json
import lzma
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import torch as safetensors
from torch import Tensor


def write_archive(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors; equal inputs give equal files."""
    planes, layout = {}, {}
    for name, value in sorted(tensors.items()):
        array = value.contiguous().numpy()
        flat = array.reshape(-1).view(np.uint8).reshape(-1, array.itemsize)
        planes[name] = torch.from_numpy(np.ascontiguousarray(flat.T))
        layout[name] = [str(array.dtype), list(array.shape)]
    content = safetensors.save(planes, metadata={"layout": json.dumps(layout)})
    path.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


def read_archive(path: Path) -> dict[str, Tensor]:
    """The tensors that `write_archive` was given, bit for bit."""
    content = lzma.decompress(path.read_bytes())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    layout = json.loads(header["__metadata__"]["layout"])
    tensors = {}
    for name, planes in safetensors.load(content).items():
        dtype, shape = layout[name]
        flat = np.ascontiguousarray(planes.numpy().T).reshape(-1).view(dtype)
        tensors[name] = torch.from_numpy(flat.reshape(shape).copy())
    return tensors
