from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cora.data.feature_cache import SIZE_SAMPLE, FeatureCache, build_feature_cache, collate_features
from cora.data.loader import AugmentedDataset, EpochLoader
from cora.data.transforms import AugmentConfig, TrainTransform
from cora.errors import DataError
from cora.images import Preprocessor
from cora.structures import FeatureMap, ImageBatch, Targets
from tests.tolerances import assert_near

TRANSFORM = TrainTransform(
    config=AugmentConfig(short_sides=(64, 96), long_side=160, crop_short_sides=(64,), crop_sides=(48, 64))
)


class Photos:
    class_names = ("a", "b")

    def __init__(self, count: int = 5) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, Targets, int]:
        random = np.random.default_rng(index)
        image = Image.fromarray(random.integers(0, 255, (80, 100 + 10 * index, 3), dtype=np.uint8))
        boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4]]).expand(index % 3, 4)
        return image, Targets(boxes_cxcywh=boxes, classes=torch.zeros(index % 3, dtype=torch.int64)), index


class Tower(nn.Module):
    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__()
        self.c3 = nn.Conv2d(3, 6, 16, stride=16)
        self.c4 = nn.Conv2d(6, 8, 2, stride=2)
        self.calls, self.fail_after = 0, fail_after

    def features(self, batch: ImageBatch) -> tuple[FeatureMap, FeatureMap]:
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise RuntimeError("power cut")
        c3 = self.c3(batch.pixels)
        c4 = self.c4(c3)
        return self._masked(c3, batch.mask), self._masked(c4, batch.mask)

    @staticmethod
    def _masked(features: Tensor, mask: Tensor) -> FeatureMap:
        resized = F.interpolate(mask[:, None].float(), size=features.shape[-2:])
        return FeatureMap(features=features, mask=resized[:, 0] > 0.5)


def tower(fail_after: int | None = None) -> Tower:
    torch.manual_seed(0)
    return Tower(fail_after)


def build(folder: Path, net: Tower | None = None, **options: Any) -> FeatureCache:
    arguments: dict[str, Any] = {
        "dataset": Photos(),
        "transform": TRANSFORM,
        "versions": 3,
        "seed": 4,
    } | options
    return build_feature_cache(tower=net or tower(), to_batch=Preprocessor().collate, folder=folder, **arguments)


def test_the_cache_holds_what_the_tower_gives(tmp_path: Path) -> None:
    cache, net = build(tmp_path), tower()
    augmented = AugmentedDataset(dataset=Photos(), transform=TRANSFORM, seed=4)
    for epoch, index in ((0, 0), (1, 4), (5, 2)):
        image, targets = augmented[(cache.version(epoch, index), index)]
        c3, c4 = net.features(Preprocessor().collate([image]))
        item = cache[(epoch, index)]
        assert_near(item.c3.float(), c3.features[0], computed_in=torch.float16)
        assert_near(item.c4.float(), c4.features[0], computed_in=torch.float16)
        torch.testing.assert_close(item.targets.boxes_cxcywh, targets.boxes_cxcywh)
        assert cache.shapes[index][cache.version(epoch, index)] == tuple(item.c3.shape[1:])


def test_padding_to_a_multiple_is_not_kept(tmp_path: Path) -> None:
    cache = build_feature_cache(
        dataset=Photos(),
        transform=TRANSFORM,
        tower=tower(),
        to_batch=Preprocessor(multiple=64).collate,
        folder=tmp_path / "padded",
        versions=1,
    )
    augmented = AugmentedDataset(dataset=Photos(), transform=TRANSFORM, seed=0)
    for index in range(5):
        height = augmented[(0, index)][0].height
        assert abs(cache[(0, index)].c3.shape[1] - height / 16) <= 1


def test_every_version_is_seen_equally(tmp_path: Path) -> None:
    cache = build(tmp_path)
    for index in range(len(cache)):
        assert sorted(cache.version(epoch, index) for epoch in range(6)) == [0, 0, 1, 1, 2, 2]


def test_batches_are_padded_and_masked(tmp_path: Path) -> None:
    cache = build(tmp_path)
    loader = EpochLoader(dataset=cache, batch_size=5, collate=collate_features, shape_key=cache.aspect)
    c3, c4, targets = next(loader.epoch(0))
    assert c3.features.dtype == torch.float32
    assert len(targets) == 5
    assert c3.features.masked_select(c3.mask[:, None].expand_as(c3.features)).abs().sum() == 0
    assert int(c4.extents_hw.max()) == max(c4.features.shape[-2:])


def test_an_interrupted_build_goes_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        build(tmp_path, tower(fail_after=7))
    with pytest.raises(DataError, match="no finished feature cache"):
        FeatureCache(folder=tmp_path)
    net = tower()
    build(tmp_path, net)
    assert net.calls == 15 - 7
    again = tower()
    build(tmp_path, again)
    assert again.calls == 0


def test_a_cache_of_something_else_is_refused(tmp_path: Path) -> None:
    build(tmp_path)
    with pytest.raises(DataError, match="feature cache of other versions"):
        build(tmp_path, versions=2)
    torch.manual_seed(1)
    with pytest.raises(DataError, match="feature cache of other fingerprint"):
        build(tmp_path, Tower())


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in (".safetensors", ".part"))


def test_the_size_is_bounded(tmp_path: Path) -> None:
    build(tmp_path / "whole")
    whole = size(tmp_path / "whole")
    build(tmp_path / "fits", max_gigabytes=whole / 1e9)
    bound = 0.6 * whole
    with pytest.raises(DataError, match=r"would need 0\.0 GB, more than the bound"):
        build(tmp_path / "small", max_gigabytes=bound / 1e9)
    assert 0 < size(tmp_path / "small") <= bound
    # What an earlier call left behind counts, too.
    with pytest.raises(DataError, match="more than the bound"):
        build(tmp_path / "small", max_gigabytes=bound / 1e9)
    assert size(tmp_path / "small") <= bound


def test_a_cache_that_would_be_too_large_is_noticed_early(tmp_path: Path) -> None:
    build(tmp_path / "few")
    net, a_file = tower(), size(tmp_path / "few") / 15
    with pytest.raises(DataError, match="more than the bound"):
        build(tmp_path / "many", net, dataset=Photos(40), max_gigabytes=40 * a_file / 1e9)
    assert net.calls == SIZE_SAMPLE


def test_one_map_for_both_is_stored_once(tmp_path: Path) -> None:
    class OneMap(Tower):
        def features(self, batch: ImageBatch) -> tuple[FeatureMap, FeatureMap]:
            c3, _ = super().features(batch)
            return c3, c3

    both = build(tmp_path / "both")
    torch.manual_seed(0)
    one = build(tmp_path / "one", OneMap())
    item = one[(0, 0)]
    assert item.c4 is item.c3
    assert torch.equal(item.c3, both[(0, 0)].c3)
    c3, c4, _ = collate_features([one[(0, 0)], one[(0, 1)]])
    assert c3 is c4
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).rglob("*.safetensors")) for name in ("both", "one")]
    assert sizes[1] < sizes[0]
