"""Traces a detector as one program, from which all formats are written."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from cora.detector import Detector
from cora.export.graph import DetectorGraph, FixedVocabularyGraph
from cora.export.manifest import Manifest
from cora.export.suppression import Suppress
from cora.pyramid import STRIDE
from cora.regions import Vocabulary

# Any sizes but 1 will do for tracing: the tracer takes a 1 for a constant.
_TRACED_BATCH, _TRACED_CLASSES = 2, 3


def input_names(manifest: Manifest) -> list[str]:
    """Names of the graph's inputs, in order."""
    return ["pixels", "sizes_hw", *(("embeddings", "log_weights") if manifest.vocabulary == "input" else ())]


def output_names(manifest: Manifest) -> list[str]:
    """Names of the graph's outputs, in order."""
    return ["boxes", "scores", *(("labels",) if manifest.settings.nms == "inside" else ())]


def trace(
    detector: Detector, manifest: Manifest, vocabulary: Vocabulary | None, *, suppress: Suppress
) -> ExportedProgram:
    """Trace the detector as a program of standard operators.

    Args:
        detector: on the CPU, in float32.
        manifest: what is constant and what is not.
        vocabulary: to fix in the graph, with weights and distractors; None makes it an input.
        suppress: how the format expresses suppression.
    """
    inner = DetectorGraph(detector=detector, manifest=manifest, suppress=suppress)
    graph: nn.Module = inner if vocabulary is None else FixedVocabularyGraph(graph=inner, vocabulary=vocabulary)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations inside PyTorch
        return torch.export.export(
            graph.eval(),
            example_inputs(manifest),
            dynamic_shapes=tuple(_open_sizes(manifest).values()),
            strict=False,
        )


def example_inputs(manifest: Manifest) -> tuple[Tensor, ...]:
    """Inputs of the right shapes, to trace with."""
    height, width = manifest.settings.size_hw or _traced_size(manifest.config.tower.pool_size)
    batch = manifest.settings.batch or _TRACED_BATCH
    inputs = [torch.zeros(batch, 3, height, width), torch.tensor([[height, width]] * batch)]
    if manifest.vocabulary == "input":
        width = manifest.config.tower.embed_dim
        inputs += [torch.eye(_TRACED_CLASSES, width), torch.zeros(_TRACED_CLASSES)]
    return tuple(inputs)


def _traced_size(pool_size: int) -> tuple[int, int]:
    """Height and width to trace with: more cells than the grid of a region, so that no bin takes a single sample."""
    height = max(192, STRIDE * (pool_size + 1))
    return height, height + 2 * STRIDE


def _open_sizes(manifest: Manifest) -> dict[str, dict[int, Any]]:
    """Input -> its dimensions that may be of any size."""
    any_size = torch.export.Dim.DYNAMIC
    batch = {0: any_size} if manifest.settings.batch is None else {}
    sides: dict[int, Any] = {}
    if manifest.settings.size_hw is None:
        step = manifest.config.preprocess.multiple
        names = {2: "rows", 3: "columns"}
        sides = {axis: any_size if step == 1 else step * torch.export.Dim(name) for axis, name in names.items()}
    sizes: dict[str, dict[int, Any]] = {"pixels": batch | sides, "sizes_hw": batch}
    if manifest.vocabulary == "input":
        sizes |= {"embeddings": {0: any_size}, "log_weights": {0: any_size}}
    return sizes
