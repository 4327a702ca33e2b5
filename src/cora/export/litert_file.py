"""LiteRT (formerly TensorFlow Lite), for phones: writes a traced detector, and reads the description of a file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from cora.errors import ModelError, needs_extra
from cora.export.backends import reported, unguarded
from cora.export.description import read_description, write_description
from cora.export.manifest import ExportSettings, Manifest
from cora.export.onnx_file import MAX_BYTES, check_size
from cora.export.program import example_inputs, input_names, output_names
from cora.files import content_of, head_of
from cora.images import PreprocessConfig


def fixed_settings(settings: ExportSettings, config: PreprocessConfig) -> ExportSettings:
    """The settings with one input size and one batch size, since a LiteRT graph has no open ones.

    By default that is one image, in a square that every image fits into at the model's usual size.
    """
    side = -(-config.long_side // config.multiple) * config.multiple
    return replace(settings, size_hw=settings.size_hw or (side, side), batch=settings.batch or 1)


def check_litert() -> Any:
    """Import the converter.

    Raises:
        MissingExtraError: litert-torch is not installed.
    """
    with needs_extra("exporting to LiteRT", extra="litert"):
        import litert_torch
    return litert_torch


def write_litert(program: ExportedProgram, manifest: Manifest, path: Path) -> None:
    """Convert a program, traced with `suppression.kept_boxes_in_steps`; the description goes beside it as .json.

    Raises:
        MissingExtraError: litert-torch is not installed.
        ModelError: LiteRT cannot convert it.
    """
    litert_torch = check_litert()
    graph = _Named(unguarded(_without_splits(program)), output_names(manifest))
    inputs = dict(zip(input_names(manifest), example_inputs(manifest), strict=True))
    with reported(f"{path}: LiteRT cannot convert the graph"), torch.no_grad(), _quiet():
        litert_torch.convert(graph, sample_kwargs=inputs).export(str(path))
    write_description(manifest, path)


def read_litert_manifest(path: Path) -> Manifest:
    """Read the description beside a LiteRT file; neither file is trusted.

    Raises:
        ModelError: a file is missing or too large, or `cora export` did not write it.
    """
    check_size(path, MAX_BYTES)
    if (head := head_of(path))[4:8] != b"TFL3":
        found = (content_of(head) or ("a file of another kind", ""))[0]
        raise ModelError(f"model {path}: expected a LiteRT file that `cora export` wrote, got {found}")
    return read_description(path)


class _Named(nn.Module):
    """Gives the inputs and outputs of a graph the names that they have in the file.

    Args:
        graph: with the inputs of a graph of fixed names, and a tuple of outputs.
        outputs: their names.
    """

    def __init__(self, graph: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.traced = graph  # PyTorch keeps `graph` for itself
        self.outputs = outputs
        self.training = False  # `eval` is not for traced graphs, which refuse it

    def forward(self, pixels: Tensor, sizes_hw: Tensor) -> dict[str, Tensor]:
        """Outputs by name, in the order of the graph."""
        return dict(zip(self.outputs, self.traced(pixels, sizes_hw), strict=True))


def _without_splits(program: ExportedProgram) -> ExportedProgram:
    """The program with slices in place of splits: the converter fails at a split into a single part."""
    aten = torch.ops.aten
    table = {aten.split.Tensor: _slices, aten.split_with_sizes.default: _slices}
    sliced: ExportedProgram = program.run_decompositions(table)
    return sliced


def _slices(tensor: Tensor, sizes: int | Sequence[int], dim: int = 0) -> list[Tensor]:
    """The parts that `torch.split` gives."""
    length = tensor.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, length - start) for start in range(0, length, sizes)]
    starts = accumulate(sizes, initial=0)
    return [tensor.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=False)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the converter's progress, and its warnings, which are for developers."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
