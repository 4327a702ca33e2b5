from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cora.data.loader import AugmentedDataset, EpochLoader, ImageCollate
from cora.errors import DataError
from cora.images import Preprocessor
from cora.structures import Targets


class Numbers:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


class Photos:
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Image.Image, Targets, int]:
        pixels = np.full((32, 32 + 4 * index, 3), index, dtype=np.uint8)
        targets = Targets(boxes_cxcywh=torch.full((1, 4), 0.5), classes=torch.tensor([index]))
        return Image.fromarray(pixels), targets, index


def jitter(image: Image.Image, targets: Targets) -> tuple[Image.Image, Targets]:
    moved = targets.boxes_cxcywh + torch.rand(())
    return image, Targets(boxes_cxcywh=moved, classes=targets.classes)


def numbers(**options: Any) -> EpochLoader[list[tuple[int, int]]]:
    return EpochLoader(dataset=Numbers(23), batch_size=4, collate=list, **options)


def test_epochs_differ_and_repeat() -> None:
    loader = numbers(seed=1)
    first, second = list(loader.epoch(0)), list(loader.epoch(1))
    assert len(loader) == len(first) == 5
    assert {index for batch in first for _, index in batch} != {index for batch in second for _, index in batch}
    assert list(loader.epoch(0)) == first
    assert list(numbers(seed=2).epoch(0)) != first


def test_an_epoch_goes_on_at_any_batch() -> None:
    whole = list(numbers().epoch(3))
    for start in range(6):
        assert list(numbers().epoch(3, start=start)) == whole[start:]


def test_order_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(numbers().epoch(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_depends_on_seed_epoch_and_index_only(workers: int) -> None:
    dataset = AugmentedDataset(dataset=Photos(), transform=jitter, seed=5)
    loader = EpochLoader(
        dataset=dataset, batch_size=2, collate=ImageCollate(to_batch=Preprocessor().collate), workers=workers
    )
    for epoch in (0, 1):
        for batch, targets in loader.epoch(epoch):
            for i, one in enumerate(targets):
                index = int(one.classes)
                assert batch.sizes[i] == (32, 32 + 4 * index)
                torch.testing.assert_close(one.boxes_cxcywh, dataset[(epoch, index)][1].boxes_cxcywh)
    assert not torch.equal(dataset[(0, 1)][1].boxes_cxcywh, dataset[(1, 1)][1].boxes_cxcywh)


def test_like_shapes_meet_in_a_batch() -> None:
    keys = np.random.default_rng(0).random(64)
    loader = EpochLoader(dataset=Numbers(64), batch_size=8, collate=list, shape_key=lambda _epoch, i: float(keys[i]))
    batches = [[keys[i] for _, i in batch] for batch in loader.epoch(0)]
    assert sorted(np.concatenate(batches)) == sorted(keys)
    assert max(np.ptp(batch) for batch in batches) < 0.5
    assert list(loader.epoch(0)) != list(loader.epoch(1))


def test_a_small_dataset_makes_one_batch() -> None:
    loader = EpochLoader(dataset=Numbers(3), batch_size=8, collate=list)
    assert [len(batch) for batch in loader.epoch(0)] == [3]


WEIGHTS = torch.linspace(0.2, 2.0, 23, dtype=torch.float64)


@pytest.mark.parametrize("options", [{}, {"shape_key": lambda _epoch, i: float(i % 5)}, {"weights": WEIGHTS}])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_together_see_what_one_sees(options: dict[str, Any], world: int) -> None:
    def loader(**share: int) -> EpochLoader[list[tuple[int, int]]]:
        return EpochLoader(dataset=Numbers(23), collate=list, seed=4, **share, **options)

    for start in (0, 2):
        whole = list(loader(batch_size=2 * world).epoch(1, start=start))
        shares = [list(loader(batch_size=2, rank=rank, world=world).epoch(1, start=start)) for rank in range(world)]
        assert [list(chain(*batches)) for batches in zip(*shares, strict=True)] == whole


def test_processes_need_a_whole_batch() -> None:
    with pytest.raises(DataError, match="2 processes of batch size 4 need 8 images an epoch, got 7"):
        EpochLoader(dataset=Numbers(7), batch_size=4, collate=list, rank=1, world=2)


BLOCKS = (5, 9, 7, 4, 8, 6, 9)


def test_blocks_are_read_nearly_one_after_the_other() -> None:
    loader = EpochLoader(dataset=Numbers(48), batch_size=4, collate=list, blocks=BLOCKS)
    block_of = np.repeat(np.arange(len(BLOCKS)), BLOCKS)
    for epoch in range(3):
        order = [index for batch in loader.epoch(epoch) for _, index in batch]
        assert sorted(order) == list(range(48))
        first_four = {int(block_of[index]) for index in order[: min(BLOCKS)]}
        assert len(first_four) <= 4
        assert order != sorted(order)
    assert list(loader.epoch(0)) != list(loader.epoch(1))


def test_every_process_reads_blocks_of_its_own() -> None:
    blocks = (6,) * 8
    shares = [
        list(EpochLoader(dataset=Numbers(48), batch_size=3, collate=list, blocks=blocks, rank=r, world=2).epoch(5))
        for r in range(2)
    ]
    one = EpochLoader(dataset=Numbers(48), batch_size=6, collate=list, blocks=blocks, lanes=2)
    assert [a + b for a, b in zip(*shares, strict=True)] == list(one.epoch(5))
    seen = [{index // 6 for batch in share for _, index in batch} for share in shares]
    assert not seen[0] & seen[1]
    assert len(one) == 8


def test_blocks_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="sum to 23 items, got the sum 20"):
        numbers(blocks=(10, 10))
    with pytest.raises(DataError, match="no shape_key"):
        numbers(blocks=(10, 13), shape_key=lambda _epoch, i: float(i))
    with pytest.raises(DataError, match="no blocks"):
        numbers(blocks=(10, 13), weights=WEIGHTS)
