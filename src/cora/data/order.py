"""The order of the items in an epoch, which depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from torch import Tensor

from cora.data.sampling import check_weights, draw, epoch_length
from cora.errors import DataError

#: Items are grouped by shape within windows of this many batches, so that the order stays random beyond them.
WINDOW = 16
#: Items are shuffled among this many consecutive blocks (shards).
OPEN_BLOCKS = 4

Item = TypeVar("Item")


def subsample(items: Sequence[Item], most: int) -> Sequence[Item]:
    """At most `most` items, evenly spaced over the list, since neighbours in a folder are often alike."""
    if len(items) <= most:
        return items
    return [items[place * len(items) // most] for place in range(most)]


class EpochOrder:
    """The batches of item indices of every epoch.

    Args:
        size: number of items.
        batch_size: items in a batch of all processes; a smaller last batch is dropped unless it is the only one.
        seed: seed of the order, together with the epoch.
        shuffle: as for `EpochLoader`, as are the other arguments.
        shape_key: (epoch, index) -> number by which items are grouped into batches.
        weights: [size] expected number of appearances of each item; None for 1 each.
        blocks: sizes of the runs of consecutive items that are stored together.
        lanes: parts of the order that are read side by side; 1 without `blocks`.

    Raises:
        DataError: the weights are unusable, or the options exclude each other.
    """

    def __init__(
        self,
        *,
        size: int,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        shape_key: Callable[[int, int], float] | None = None,
        weights: Tensor | None = None,
        blocks: Sequence[int] | None = None,
        lanes: int = 1,
    ) -> None:
        if weights is not None:
            check_weights(weights, size)
            if not shuffle or blocks is not None:
                raise DataError("weights need shuffle=True and no blocks, since an epoch is drawn from all images")
        if blocks is not None and (not shuffle or shape_key is not None):
            raise DataError("blocks need shuffle=True and no shape_key, since items stay near their block")
        if blocks is not None and (sum(blocks) != size or min(blocks) < 1):
            raise DataError(f"expected blocks of at least 1 that sum to {size} items, got the sum {sum(blocks)}")
        if blocks is None or lanes < 1:
            lanes = 1
        if lanes > 1 and (batch_size % lanes or size // lanes < batch_size // lanes):
            raise DataError(
                f"expected lanes that divide the batch of {batch_size} and {batch_size} items or more, got {lanes} "
                f"lanes and {size} items"
            )
        self.size, self.batch_size, self.seed, self.shuffle = size, batch_size, seed, shuffle
        self.shape_key, self.weights, self.blocks, self.lanes = shape_key, weights, blocks, lanes
        #: Number of items in an epoch, including those that fill no last batch.
        self.length = size if weights is None else epoch_length(weights)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return max(1, self.length // self.lanes // (self.batch_size // self.lanes))

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Item indices of every batch of an epoch."""
        # A generator of its own, keyed by (seed, epoch), so that the order is independent of the global generators.
        random = np.random.default_rng((self.seed, epoch))
        order = self._order(random)
        if self.shape_key is not None and self.shuffle:
            order = self._grouped(order, epoch)
        batches = [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self))]
        if self.shape_key is not None and self.shuffle:
            batches = [batches[i] for i in random.permutation(len(batches))]
        return batches

    def _order(self, random: np.random.Generator) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.size)
        if self.weights is not None:
            return draw(self.weights, random)
        if self.blocks is not None:
            return self._side_by_side(_block_after_block(self.blocks, random))
        return random.permutation(self.size)

    def _side_by_side(self, order: np.ndarray) -> np.ndarray:
        """Cut the order into `lanes` equal parts, of which every batch takes the same number of items, lane by lane."""
        if self.lanes == 1:
            return order
        share = self.batch_size // self.lanes
        lane_length = len(order) // self.lanes
        lanes = order[: self.lanes * lane_length].reshape(self.lanes, lane_length)
        whole = lane_length // share * share
        return lanes[:, :whole].reshape(self.lanes, -1, share).transpose(1, 0, 2).reshape(-1)

    def _grouped(self, order: np.ndarray, epoch: int) -> np.ndarray:
        assert self.shape_key is not None
        keys = np.array([self.shape_key(epoch, int(index)) for index in order])
        window = WINDOW * self.batch_size
        parts = [
            order[i : i + window][np.argsort(keys[i : i + window], kind="stable")] for i in range(0, len(order), window)
        ]
        return np.concatenate(parts)


def _block_after_block(blocks: Sequence[int], random: np.random.Generator) -> np.ndarray:
    """Blocks in random order, items shuffled among `OPEN_BLOCKS` neighbours, so that few files are open at a time."""
    starts = np.concatenate([[0], np.cumsum(blocks)])
    shuffled = random.permutation(len(blocks))
    parts: list[np.ndarray] = []
    for i in range(0, len(shuffled), OPEN_BLOCKS):
        opened = [np.arange(starts[b], starts[b + 1]) for b in shuffled[i : i + OPEN_BLOCKS]]
        parts.append(random.permutation(np.concatenate(opened)))
    return np.concatenate(parts)
