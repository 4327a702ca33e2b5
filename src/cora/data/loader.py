"""Batches in an order that depends only on (seed, epoch), so that a run can resume at any batch of any epoch.

The augmentation of an item is seeded by (seed, epoch, index). So neither the number of workers nor an interruption
changes what an epoch contains, and several processes together see the same as one.
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
    """A dataset indexed by (epoch, index), whose items may differ from epoch to epoch."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> Any: ...


class AugmentedDataset(Dataset[tuple[Image.Image, Targets]]):
    """Transforms the items of a dataset anew in every epoch.

    Args:
        dataset: items (image, Targets, id).
        transform: (image, Targets) -> (image, Targets), random or not.
        seed: seed of the transform, together with epoch and index.
    """

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
    """Collates images that have their training size already into (ImageBatch, tuple[Targets]).

    Args:
        to_batch: normalises and pads images, as `Preprocessor.collate` does.
    """

    def __init__(self, *, to_batch: Callable[[list[Image.Image]], ImageBatch]) -> None:
        self.to_batch = to_batch

    def __call__(self, items: Sequence[tuple[Image.Image, Targets]]) -> tuple[ImageBatch, tuple[Targets, ...]]:
        """The images of a list of items as one batch, and their targets, in the same order."""
        return self.to_batch([image for image, _ in items]), tuple(targets for _, targets in items)


class EpochLoader(Generic[Batch]):
    """Loads the batches of an epoch from any position on: ``loader.epoch(3, start=17)``.

    Its length is the number of batches in an epoch.

    Args:
        dataset: indexed by (epoch, index).
        batch_size: items in a batch of this process; a smaller last batch is dropped unless it is the only one.
        collate: list of items -> batch.
        seed: seed of the order.
        shuffle: whether to shuffle the items in every epoch; otherwise they come in file order.
        workers: processes that load items; with 0, this process loads them.
        shape_key: (epoch, index) -> number that is similar for items of similar shape. Batches then hold similar items,
            which need less padding; the batches are in random order.
        pin_memory: whether to pin the memory of batches, for faster copies to a GPU.
        weights: [n] expected number of appearances of each item in an epoch (`cora.data.sampling`); None for 1 each.
        blocks: sizes of the runs of consecutive items that are stored together (shards). Items are then read nearly
            block by block, the blocks in random order.
        rank: rank of this process.
        world: number of processes that train together. Batch i of all ranks, joined in order of rank, is batch i of a
            single process with `world` times the batch size and the same `lanes`.
        lanes: with `blocks`, number of parts of the order that are read side by side, each from blocks of its own. The
            default is `world`, so that every rank reads shards of its own.

    Raises:
        DataError: the weights are unusable, the options exclude each other, or an epoch has fewer items than the
            processes need for one batch.
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
            # A generator of its own: every iterator draws a base seed, which must not advance the global generator.
            generator=torch.Generator().manual_seed(seed),
        )

    def __len__(self) -> int:
        return len(self._share.order)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Batches of `epoch` (from 0) beginning with batch number `start`."""
        self._share.epoch, self._share.start = epoch, start
        return iter(self._loader)


class _Share(Sampler[list[tuple[int, int]]]):
    """The part of this rank in every batch of an `EpochOrder`, from batch number `start` on."""

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
    """Seed the global generators of torch, numpy and Python by `key`, and restore them afterwards."""
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
