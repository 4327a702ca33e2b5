"""The tables: what is written is found, exactly or through partitions, and damage is told in one line."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cora.errors import MissingExtraError
from cora.retrieval import RetrievalError
from cora.retrieval import store as store_module
from cora.retrieval.manifest import MANIFEST, Manifest, RegionSettings
from cora.retrieval.regions import Regions
from cora.retrieval.store import PictureFile, RegionStore
from tests.retrieval.conftest import WIDTH, manifest, regions

pytestmark = pytest.mark.integration


def put(store: RegionStore, content: str, *files: str, seed: int = 0, count: int = 3) -> Regions:
    found = regions(seed, count)
    store.add([PictureFile(file, content, 1, 2) for file in files], {content: found})
    return found


def test_what_is_stored_comes_back(store: RegionStore) -> None:
    found = put(store, "one", "a.png", "it's.png")
    put(store, "two", "b.png", seed=1)
    again = RegionStore.open(store.place)
    assert again.manifest == store.manifest
    assert again.count() == 6
    assert again.pictures()["it's.png"] == PictureFile("it's.png", "one", 1, 2)
    assert again.files_of(["one", "three"]) == {"one": ["a.png", "it's.png"]}
    best = again.nearest(found.embeddings[1].numpy(), 1)[0]
    assert (best.content, best.label) == ("one", None)
    assert best.similarity == pytest.approx(1, abs=1e-5)
    assert best.score == pytest.approx(float(found.scores[1]))
    assert best.box_xyxy_px == pytest.approx(found.boxes_xyxy_px[1].tolist())


def test_order_is_that_of_the_cosines(store: RegionStore) -> None:
    stored = torch.cat([put(store, str(seed), f"{seed}.png", seed=seed, count=20).embeddings for seed in range(5)])
    query = F.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(7)), dim=0)
    got = [region.similarity for region in store.nearest((3 * query).numpy(), 10)]
    np.testing.assert_allclose(got, (stored @ query).sort(descending=True).values[:10], atol=1e-5)


def test_removed_files_leave_regions_until_no_file_has_them(store: RegionStore) -> None:
    put(store, "one", "a.png", "copy.png")
    store.remove(["a.png"])
    assert store.drop_orphans() == 0
    assert store.count() == 3
    store.remove(["copy.png"])
    assert store.drop_orphans() == 1
    assert store.count() == 0


def test_a_reader_sees_what_others_write(store: RegionStore) -> None:
    reader = RegionStore.open(store.place)
    assert reader.nearest(np.ones(WIDTH, dtype=np.float32), 5) == []
    put(store, "one", "a.png")
    store.tidy()
    assert len(reader.nearest(np.ones(WIDTH, dtype=np.float32), 5)) == 3


def test_partitions_find_what_looking_at_all_finds(store: RegionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PARTITION_FROM", 400)
    for seed in range(5):
        put(store, str(seed), f"{seed}.png", seed=seed, count=100)
    store.tidy()
    assert RegionStore.open(store.place).manifest.partitions == round(500**0.5)
    put(store, "late", "late.png", seed=9)  # not in the partitions yet, found all the same
    late = regions(9).embeddings[0].numpy()
    assert store.nearest(late, 1)[0].content == "late"
    store.tidy()
    assert store.nearest(late, 1)[0].content == "late"
    queries = F.normalize(torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(3)), dim=-1).numpy()
    shared = [
        len({(r.content, r.box_xyxy_px) for r in store.nearest(query, 5)}
            & {(r.content, r.box_xyxy_px) for r in store.nearest(query, 5, exact=True)})
        for query in queries
    ]  # fmt: skip
    # Random directions have no clusters, the worst case there is; benchmarks/retrieval.py measures real ones.
    assert sum(shared) / (5 * len(queries)) > 0.4


def test_interrupted_creation_is_made_anew(store: RegionStore, folder: Path) -> None:
    put(store, "one", "a.png")
    (store.place / MANIFEST).unlink()
    with pytest.raises(RetrievalError, match="got a folder without one"):
        RegionStore.open(store.place)
    assert RegionStore.create(store.place, manifest(folder)).count() == 0


def test_a_place_with_something_else_is_left_alone(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(RetrievalError, match=r"got a folder with a\.png"):
        RegionStore.create(folder, manifest(folder))
    with pytest.raises(RetrievalError, match="got a file"):
        RegionStore.create(folder / "a.png", manifest(folder))


@pytest.mark.parametrize("part", ["data", "_versions"])
def test_damaged_tables_are_told(store: RegionStore, part: str) -> None:
    put(store, "one", "a.png")
    for file in (store.place / "regions.lance" / part).iterdir():
        file.write_bytes(b"junk")
    with pytest.raises(RetrievalError, match="trouble with its files") as caught:
        RegionStore.open(store.place).nearest(np.ones(WIDTH, dtype=np.float32), 5)
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_told(store: RegionStore) -> None:
    shutil.rmtree(store.place / "pictures.lance")
    with pytest.raises(RetrievalError, match="trouble with its files"):
        RegionStore.open(store.place)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "trouble with its files"),
        ("[]", "trouble with its files"),
        ('{"format": 1}', "trouble with its files"),
        ('{"format": 99}', "expected format 1, got 99"),
    ],
)
def test_a_damaged_manifest_is_told(store: RegionStore, content: str, message: str) -> None:
    (store.place / MANIFEST).write_text(content)
    with pytest.raises(RetrievalError, match=message):
        RegionStore.open(store.place)


def test_nothing_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match=r"got nothing; make it: cora index DIR --db .*none"):
        RegionStore.open(tmp_path / "none")


def test_the_extra_is_named(store: RegionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingExtraError, match=r"cora-ovd\[search\]"):
        RegionStore.open(store.place)


def test_manifest_and_settings_survive_the_file(tmp_path: Path) -> None:
    settings = RegionSettings(classes=("cat", "red cup"), score=0.2, max_regions=7)
    before = Manifest(model="m", model_name="nano", width=4, folder="/photos", settings=settings, partitions=3)
    before.write(tmp_path)
    assert Manifest.read(tmp_path) == before


@pytest.mark.parametrize(("name", "value"), [("score", 1.5), ("max_regions", 0), ("nms_iou", 0.0)])
def test_impossible_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected"):
        RegionSettings(**{name: value})  # type: ignore[arg-type]
