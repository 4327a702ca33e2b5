"""Batches in an order that depends only on (seed, epoch), so that a run can go on at any batch of any epoch.

Every item's augmentation is seeded by (seed, epoch, index): neither the number of workers nor where a run was
interrupted changes what an epoch contains.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from cora.structures import ImageBatch, Targets

Batch = TypeVar("Batch")
Transform = Callable[[Image.Image, Targets], tuple[Image.Image, Targets]]

#: Batches are made of items of similar shape drawn from windows of this many batches.
WINDOW = 16


class EpochDataset(Protocol):
    """Items that may differ from epoch to epoch: indexed by (epoch, index)."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Any: ...


class AugmentedDataset(Dataset[tuple[Image.Image, Targets]]):
    """Items (photo, Targets) of a dataset of (photo, Targets, id), transformed anew in every epoch."""

    def __init__(self, *, dataset: Any, transform: Transform, seed: int = 0) -> None:
        self.dataset, self.transform, self.seed = dataset, transform, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Image.Image, Targets]:
        epoch, index = key
        image, targets = self.dataset[index][:2]
        with seeded(self.seed, epoch, index):
            return self.transform(image, targets)


class ImageCollate:
    """Photos already at their training size -> (ImageBatch, tuple[Targets]).

    Args:
        to_batch: normalises and pads, that is `Preprocessor.collate`.
    """

    def __init__(self, *, to_batch: Callable[[list[Image.Image]], ImageBatch]) -> None:
        self.to_batch = to_batch

    def __call__(self, items: Sequence[tuple[Image.Image, Targets]]) -> tuple[ImageBatch, tuple[Targets, ...]]:
        return self.to_batch([image for image, _ in items]), tuple(targets for _, targets in items)


class EpochLoader(Generic[Batch]):
    """Batches of an epoch from any position: ``loader.epoch(3, start=17)``; ``len(loader)`` batches an epoch.

    Args:
        dataset: indexed by (epoch, index).
        batch_size: items a batch; a last smaller batch is dropped unless it is the only one.
        collate: list of items -> batch.
        seed: of the order.
        shuffle: in file order otherwise.
        workers: processes that load; 0 loads in this one.
        shape_key: (epoch, index) -> number by which items of like shape can be grouped (less padding); the
            order stays random across groups.
        pin_memory: for faster copies to a GPU.
    """

    def __init__(
        self,
        *,
        dataset: EpochDataset,
        batch_size: int,
        collate: Callable[[Any], Batch],
        seed: int = 0,
        shuffle: bool = True,
        workers: int = 0,
        shape_key: Callable[[int, int], float] | None = None,
        pin_memory: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if len(dataset) < 1:
            raise ValueError("expected a dataset with at least one item, got none")
        self._order = _EpochOrder(
            size=len(dataset), batch_size=batch_size, seed=seed, shuffle=shuffle, shape_key=shape_key
        )
        self._loader: DataLoader[Any] = DataLoader(
            dataset,  # type: ignore[arg-type]  # indexed by (epoch, index), which DataLoader allows
            batch_sampler=self._order,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=_one_thread if workers else None,
            # Of its own, since making an iterator draws a base seed, which must not move the global stream.
            generator=torch.Generator().manual_seed(seed),
        )

    def __len__(self) -> int:
        return len(self._order.full())

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Batches of `epoch` (from 0) beginning with batch number `start`."""
        self._order.epoch, self._order.start = epoch, start
        return iter(self._loader)


class _EpochOrder(Sampler[list[tuple[int, int]]]):
    def __init__(
        self,
        *,
        size: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        shape_key: Callable[[int, int], float] | None,
    ) -> None:
        self.size, self.batch_size, self.seed, self.shuffle, self.shape_key = (
            size,
            batch_size,
            seed,
            shuffle,
            shape_key,
        )
        self.epoch, self.start = 0, 0

    def full(self) -> range:
        return range(max(1, self.size // self.batch_size))

    def __len__(self) -> int:
        return max(0, len(self.full()) - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # numpy's Philox streams keyed by (seed, epoch): independent of the global generators.
        random_order = np.random.default_rng((self.seed, self.epoch))
        order = random_order.permutation(self.size) if self.shuffle else np.arange(self.size)
        if self.shape_key is not None and self.shuffle:
            order = self._grouped(order, self.shape_key)
        batches = [order[i * self.batch_size : (i + 1) * self.batch_size] for i in self.full()]
        if self.shape_key is not None and self.shuffle:
            batches = [batches[i] for i in random_order.permutation(len(batches))]
        epoch = self.epoch
        return iter([[(epoch, int(index)) for index in batch] for batch in batches[self.start :]])

    def _grouped(self, order: np.ndarray, shape_key: Callable[[int, int], float]) -> np.ndarray:
        keys = np.array([shape_key(self.epoch, int(index)) for index in order])
        window = WINDOW * self.batch_size
        parts = [
            order[i : i + window][np.argsort(keys[i : i + window], kind="stable")] for i in range(0, len(order), window)
        ]
        return np.concatenate(parts)


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed torch's, numpy's and Python's global generators by `key` and put them back afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    seed = int(np.random.SeedSequence([abs(part) for part in key]).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
