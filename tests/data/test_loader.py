import numpy as np
import pytest
import torch
from PIL import Image

from cora.data.loader import AugmentedDataset, EpochLoader, ImageCollate
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


def numbers(**options: int) -> EpochLoader[list[tuple[int, int]]]:
    return EpochLoader(dataset=Numbers(23), batch_size=4, collate=list, **options)  # type: ignore[arg-type]


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
