"""Batches in an order that depends only on (seed, epoch), so that a run can go on at any batch of any epoch.

Every item's augmentation is seeded by (seed, epoch, index): neither the number of workers nor where a run was
interrupted changes what an epoch contains, and several processes together see what one would.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cora.data.order import EpochOrder
from cora.errors import DataError
from cora.structures import ImageBatch, Targets

Batch = TypeVar("Batch")
Transform = Callable[[Image.Image, Targets], tuple[Image.Image, Targets]]


class EpochDataset(Protocol):
    """Items that may differ from epoch to epoch: indexed by (epoch, index)."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Any: ...


class AugmentedDataset(Dataset[tuple[Image.Image, Targets]]):
    """Items (image, Targets) of a dataset of (image, Targets, id), transformed anew in every epoch."""

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
    """Images already at their training size -> (ImageBatch, tuple[Targets]).

    Args:
        to_batch: normalises and pads, that is `Preprocessor.collate`.
    """

    def __init__(self, *, to_batch: Callable[[list[Image.Image]], ImageBatch]) -> None:
        self.to_batch = to_batch

    def __call__(self, items: Sequence[tuple[Image.Image, Targets]]) -> tuple[ImageBatch, tuple[Targets, ...]]:
        """Images of a list of items as one batch, and their targets, in the same order."""
        return self.to_batch([image for image, _ in items]), tuple(targets for _, targets in items)


class EpochLoader(Generic[Batch]):
    """Batches of an epoch from any position: ``loader.epoch(3, start=17)``; ``len(loader)`` batches an epoch.

    Args:
        dataset: indexed by (epoch, index).
        batch_size: items a batch of this process; a last smaller batch is dropped unless it is the only one.
        collate: list of items -> batch.
        seed: of the order.
        shuffle: in file order otherwise.
        workers: processes that load; 0 loads in this one.
        shape_key: (epoch, index) -> number by which items of like shape can be grouped (less padding); the
            order stays random across groups.
        pin_memory: for faster copies to a GPU.
        weights: [n] how often each item is to appear in an epoch (`cora.data.sampling`); None for once each.
        blocks: sizes of the runs of consecutive items that are stored together (shards); items are then read
            nearly block after block, in random order of the blocks.
        rank: of this process.
        world: processes that train together. Batch number i of all ranks, one after the other, is batch number
            i of a single process with `world` times the batch size (and as many `lanes`).
        lanes: parts of the order that are read side by side, each from blocks of its own; only of interest with
            `blocks`. Default: `world`, so that every rank reads shards of its own.

    Raises:
        DataError: weights that do not fit, an order that these options cannot give, fewer items an epoch than
            the processes need for one batch.
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
        weights: Tensor | None = None,
        blocks: Sequence[int] | None = None,
        rank: int = 0,
        world: int = 1,
        lanes: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world:
            raise ValueError(f"expected 0 <= rank < world, got rank {rank} of {world}")
        if len(dataset) < 1:
            raise ValueError("expected a dataset with at least one item, got none")
        self.rank, self.world = rank, world
        order = EpochOrder(
            size=len(dataset),
            batch_size=world * batch_size,
            seed=seed,
            shuffle=shuffle,
            shape_key=shape_key,
            weights=weights,
            blocks=blocks,
            lanes=lanes or world,
        )
        if world > 1 and order.length < world * batch_size:
            raise DataError(
                f"{world} processes of batch size {batch_size} need {world * batch_size} images an epoch, got "
                f"{order.length}; take fewer processes or smaller batches"
            )
        self._share = _Share(order=order, rank=rank, world=world)
        self._loader: DataLoader[Any] = DataLoader(
            dataset,  # type: ignore[arg-type]  # indexed by (epoch, index), which DataLoader allows
            batch_sampler=self._share,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=_one_thread if workers else None,
            # Of its own, since making an iterator draws a base seed, which must not move the global stream.
            generator=torch.Generator().manual_seed(seed),
        )

    def __len__(self) -> int:
        return len(self._share.order)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Batches of `epoch` (from 0) beginning with batch number `start`."""
        self._share.epoch, self._share.start = epoch, start
        return iter(self._loader)


class _Share(Sampler[list[tuple[int, int]]]):
    """This rank's part of every batch of an `EpochOrder`, from batch number `start` on."""

    def __init__(self, *, order: EpochOrder, rank: int, world: int) -> None:
        self.order, self.rank, self.world = order, rank, world
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        return max(0, len(self.order) - self.start)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        for batch in self.order.batches(epoch)[self.start :]:
            size = len(batch) // self.world
            mine = batch if self.world == 1 else batch[self.rank * size : (self.rank + 1) * size]
            yield [(epoch, int(index)) for index in mine]


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
