"""Shards hold what was written into them, refuse what is broken, and are read shard by shard."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cora.data.coco import CocoDataset
from cora.data.loader import EpochLoader
from cora.data.shards import ShardDataset, write_shards
from cora.errors import DataError

COUNT = 12


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    """Images of several kinds and sizes; every third without boxes, one with a crowd, one class without boxes."""
    random = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    images, annotations = [], []
    for i in range(COUNT):
        name = f"{'sub/' if i % 4 == 1 else ''}p{i}{('.jpg', '.png', '.webp', '.bmp')[i % 4]}"
        pixels = random.integers(0, 255, (40 + i, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": 100 + i, "file_name": name, "width": 50, "height": 40 + i})
        for k in range(i % 3):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + i,
                    "category_id": 7 - k,
                    "bbox": [1.25 + k, 2, 10, 12.5],
                    "iscrowd": int(i == 5 and k == 1),
                }
            )
    categories = [{"id": 7, "name": "dog"}, {"id": 6, "name": "cat"}, {"id": 9, "name": "ibex"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    return CocoDataset(annotations=tmp_path / "boxes.json", images=folder)


def put(folder: Path, members: dict[str, Any], *, shard: str = "a.tar") -> Path:
    """A shard of images (sizes) and annotations (objects)."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / shard, "w") as tar:
        for name, content in members.items():
            if isinstance(content, tuple):
                buffer = io.BytesIO()
                Image.new("RGB", content).save(buffer, "PNG")
                data = buffer.getvalue()
            else:
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return folder


def note(image_id: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "width": 8,
        "height": 6,
        "boxes_xyxy_px": [[1, 1, 4, 4]],
        "classes": ["dog"],
    } | changes


def test_what_is_read_is_what_was_written(dataset: CocoDataset, tmp_path: Path) -> None:
    shards = write_shards(dataset, folder=tmp_path / "shards", max_bytes=40_000, seed=None)
    read = ShardDataset(folder=tmp_path / "shards")
    assert len(shards) == len(read.blocks) > 1
    assert all(shard.stat().st_size <= 50_000 for shard in shards)
    assert sum(read.blocks) == len(read) == COUNT
    assert read.class_names == dataset.class_names == ("dog", "cat", "ibex")
    assert read.to_coco() == dataset.to_coco()
    assert torch.equal(read.class_counts(), dataset.class_counts())
    for i in range(COUNT):
        (image, targets, image_id), (expected, wanted, wanted_id) = read[i], dataset[i]
        assert image_id == wanted_id
        assert np.array_equal(np.asarray(image), np.asarray(expected))
        assert torch.equal(targets.boxes_cxcywh, wanted.boxes_cxcywh)
        assert torch.equal(targets.classes, wanted.classes)


def test_photos_are_shuffled_when_written(dataset: CocoDataset, tmp_path: Path) -> None:
    orders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_shards(dataset, folder=tmp_path / name, seed=seed)
        orders.append([record.image_id for record in ShardDataset(folder=tmp_path / name).records])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == [record.image_id for record in dataset.records]


def test_classes_and_photos_can_be_chosen(dataset: CocoDataset, tmp_path: Path) -> None:
    write_shards(dataset, folder=tmp_path / "shards", max_bytes=40_000, seed=None)
    read = ShardDataset(folder=tmp_path / "shards", class_names=["cat"], keep_empty=False)
    assert len(read) == sum(read.blocks) == sum(bool((record.classes == 1).any()) for record in dataset.records)
    assert [read[i][2] for i in range(len(read))] == [record.image_id for record in read.records]


def test_an_epoch_goes_shard_by_shard_for_every_process(dataset: CocoDataset, tmp_path: Path) -> None:
    write_shards(dataset, folder=tmp_path / "shards", max_bytes=40_000)
    read = ShardDataset(folder=tmp_path / "shards")

    class Ids:
        def __len__(self) -> int:
            return len(read)

        def __getitem__(self, key: tuple[int, int]) -> int:
            return read[key[1]][2]

    def epoch(**options: int) -> list[list[int]]:
        return list(EpochLoader(dataset=Ids(), collate=list, blocks=read.blocks, seed=2, **options).epoch(3))

    shares = [epoch(batch_size=2, rank=rank, world=2) for rank in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == epoch(batch_size=4, lanes=2)
    assert len({image_id for share in shares for batch in share for image_id in batch}) == COUNT


def test_shards_of_others_need_no_list_of_classes(tmp_path: Path) -> None:
    folder = put(
        tmp_path, {"x/1.png": (8, 6), "x/1.json": note(), "y/1.cls": b"3", "y/1.json": note(2), "y/1.png": (8, 6)}
    )
    read = ShardDataset(folder=folder)
    assert read.class_names == ("dog",)
    assert read[1][2] == 2
    torch.testing.assert_close(read[0][1].boxes_cxcywh, torch.tensor([[2.5 / 8, 2.5 / 6, 3 / 8, 3 / 6]]))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.png": (8, 6)}, "1 image without an annotation"),
        ({"1.json": note()}, "1 annotation without an image"),
        ({"1.png": (8, 6), "1.json": b"{"}, "1 annotation without image_id, height and width"),
        ({"1.png": (8, 6), "1.json": note(width=True)}, "1 annotation without image_id, height and width"),
        ({"1.png": (8, 6), "1.json": note(file_name="../../x")}, "1 file name that leaves the image folder"),
        ({"1.png": (8, 6), "1.json": note(classes=[])}, "1 annotation whose boxes and classes differ in number"),
        ({"1.png": (8, 6), "1.json": note(boxes_xyxy_px=[[0, 0, 1e400, 1]])}, "1 box that is not four finite"),
        (
            {"1.png": (8, 6), "1.json": note(), "2.png": (8, 6), "2.json": note()},
            r"1 duplicate image id \(first: a.tar/2: 1\)",
        ),
        ({"1.png": (8, 6), "1.jpg": (8, 6), "1.json": note()}, "1 member that is too large or there twice"),
    ],
)
def test_what_cannot_be_used_is_counted(tmp_path: Path, members: dict[str, Any], message: str) -> None:
    folder = put(tmp_path / "shards", members | {"9.png": (8, 6), "9.json": note(9)})
    with pytest.raises(DataError, match=message):
        ShardDataset(folder=folder)
    assert 9 in {record.image_id for record in ShardDataset(folder=folder, skip_bad=True).records}


def test_links_and_large_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path / "shards", {"1.png": (8, 6), "1.json": note()})
    with tarfile.open(folder / "b.tar", "w") as tar:
        link = tarfile.TarInfo("2.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"1 member that is no plain file \(first: b.tar/2.png\)"):
        ShardDataset(folder=folder)
    (folder / "b.tar").unlink()
    monkeypatch.setattr("cora.data.shards.MAX_PHOTO_BYTES", 10)
    with pytest.raises(DataError, match="1 member that is too large"):
        ShardDataset(folder=folder)


def test_photos_that_are_none_are_named(tmp_path: Path) -> None:
    folder = put(tmp_path, {"1.png": b"no photo", "1.json": note(), "2.png": (9, 6), "2.json": note(2)})
    read = ShardDataset(folder=folder)
    with pytest.raises(DataError, match=r"a.tar: 1 is no image that can be read"):
        read[0]
    with pytest.raises(DataError, match=r"should have 8x6 px, the image has 9x6"):
        read[1]


def test_folders_that_do_not_fit(dataset: CocoDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected shards"):
        ShardDataset(folder=tmp_path / "none")
    write_shards(dataset, folder=tmp_path / "shards")
    with pytest.raises(DataError, match="expected a folder without shards"):
        write_shards(dataset, folder=tmp_path / "shards")
    next((tmp_path / "shards").glob("*.tar")).write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match="cannot be read as an uncompressed tar file"):
        ShardDataset(folder=tmp_path / "shards")


def test_an_interrupted_writing_leaves_no_shards(dataset: CocoDataset, tmp_path: Path) -> None:
    dataset.records[8].path.unlink()
    with pytest.raises(DataError, match=r"p8.jpg cannot be read \(No such file or directory\)"):
        write_shards(dataset, folder=tmp_path / "shards", max_bytes=40_000, seed=None)
    assert not list((tmp_path / "shards").glob("*.tar"))
