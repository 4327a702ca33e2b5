"""The images of a benchmark, where a command takes `--split coco` or `--split lvis`: chosen, and their number said."""

from __future__ import annotations

from typing import TypeVar

from cora.console import output_console, say
from cora.data.benchmarks import image_set
from cora.data.class_split import ClassSplit
from cora.data.coco import CocoDataset

_AnyDataset = TypeVar("_AnyDataset", bound=CocoDataset)


def training_images(dataset: _AnyDataset, split: ClassSplit | None) -> _AnyDataset:
    """Those that a benchmark is trained on, their number printed; all for another split.

    Raises:
        DataError: no image takes part.
    """
    return _chosen(dataset, split, training=True)


def testing_images(dataset: _AnyDataset, split: ClassSplit | None) -> _AnyDataset:
    """Those that a benchmark is tested on, their number printed; all for another split.

    Raises:
        DataError: no image takes part.
    """
    return _chosen(dataset, split, training=False)


def _chosen(dataset: _AnyDataset, split: ClassSplit | None, *, training: bool) -> _AnyDataset:
    kept, counts = image_set(dataset, split, training=training)
    if counts is not None:
        say(output_console(), str(counts))
    return kept
