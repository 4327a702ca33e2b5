"""Labels come back from the project's own readers as they were written."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from cora.batch import ExportSettings, Format, Photos
from cora.data.coco import CocoDataset
from cora.data.read import read_dataset
from tests.batch.fake import NAMES, label, settings, write_pictures, write_shard

#: How far a corner may lie from where it was, in pixels.
TOLERANCE = {"coco": 0.011, "yolo": 0.011, "voc": 0.501}
PHOTOS = {"coco": "images", "yolo": "images", "voc": "JPEGImages"}
ANNOTATIONS = {"coco": "annotations.json", "yolo": "labels", "voc": "Annotations"}

Boxes = dict[str, list[tuple[str, list[float]]]]


def read(format: str, out: Path, images: Path) -> CocoDataset:
    return read_dataset(images=images, annotations=out / ANNOTATIONS[format], class_names=NAMES)


def boxes_of(dataset: CocoDataset, images: Path) -> Boxes:
    return {
        record.path.relative_to(images).as_posix(): [
            (dataset.class_names[label], box)
            for label, box in zip(record.classes.tolist(), record.boxes_xyxy_px.tolist(), strict=True)
        ]
        for record in dataset.records
    }


def kept(out: Path, *, least: float = 0.3) -> Boxes:
    """What the parts hold, by name."""
    items = [json.loads(line) for line in (out / "batch" / "inputs.jsonl").read_text().splitlines()]
    found: Boxes = {}
    for part in sorted((out / "batch").glob("0*.jsonl")):
        for line in part.read_text().splitlines():
            number, *content = json.loads(line)
            if len(content) == 2:
                boxes = [(NAMES[box[0]], box[2:6]) for box in content[1] if box[1] >= least]
                found[items[number - 1]["name"]] = boxes
    return found


def assert_same(found: Boxes, expected: Boxes, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, boxes in expected.items():
        assert [label for label, _ in found[name]] == [label for label, _ in boxes]
        for (_, one), (_, other) in zip(found[name], boxes, strict=True):
            assert max(abs(a - b) for a, b in zip(one, other, strict=True)) <= tolerance


@pytest.mark.parametrize("format", ["coco", "yolo", "voc"])
@pytest.mark.parametrize("photos", ["none", "link", "copy"])
def test_round_trip(tmp_path: Path, format: Format, photos: Photos) -> None:
    images, out = write_pictures(tmp_path / "in", 14), tmp_path / "out"
    label(images, out, export=ExportSettings(format=format, photos=photos))
    expected = kept(out)
    assert sum(map(len, expected.values())) > 10
    assert any(not boxes for boxes in expected.values())
    if photos != "none":
        images = out / PHOTOS[format]
        assert (images / "001.png").is_symlink() == (photos == "link")
    assert_same(boxes_of(read(format, out, images), images), expected, TOLERANCE[format])


def test_copied_pictures_stand_alone(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 9, bad=(4,))
    out = tmp_path / "out"
    label(tmp_path / "in", out, export=ExportSettings(format="yolo", photos="copy"))
    expected = kept(out)
    shutil.rmtree(tmp_path / "in")
    out.rename(tmp_path / "moved")
    dataset = read_dataset(images=tmp_path / "moved" / "images")  # found by themselves
    assert_same(boxes_of(dataset, tmp_path / "moved" / "images"), expected, TOLERANCE["yolo"])


@pytest.mark.parametrize("format", ["coco", "yolo", "voc"])
def test_pictures_of_shards_are_written_out(tmp_path: Path, format: Format) -> None:
    write_shard(tmp_path / "in" / "s.tar", [f"{number}.png" for number in range(6)])
    out = tmp_path / "out"
    label(tmp_path / "in", out, export=ExportSettings(format=format, photos="link"))
    images = out / PHOTOS[format]
    assert_same(boxes_of(read(format, out, images), images), kept(out), TOLERANCE[format])


def test_names_that_need_quotes(tmp_path: Path) -> None:
    names = ('a "b" \\ c', "no", "ü: # é", "<&>")
    write_pictures(tmp_path / "in", 14)
    for format in ("yolo", "voc"):
        out = tmp_path / format
        label(tmp_path / "in", out, settings=settings(classes=names), export=ExportSettings(format=format))
        dataset = read_dataset(images=tmp_path / "in", annotations=out / ANNOTATIONS[format])
        assert set(dataset.class_names) <= set(names)
        assert len(dataset.class_names) > 2
    content = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text(encoding="utf-8"))
    assert tuple(content["names"].values()) == names


def test_coco_has_scores_areas_and_no_unreadable_picture(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 6, bad=(1,))
    label(tmp_path / "in", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert content["categories"] == [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)]
    assert [image["id"] for image in content["images"]] == [2, 3, 4, 5, 6]
    assert [entry["id"] for entry in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    for entry in content["annotations"]:
        assert entry["area"] == pytest.approx(entry["bbox"][2] * entry["bbox"][3], abs=0.01)
        assert 0.3 <= entry["score"] <= 1


@pytest.mark.integration
def test_no_boxes_at_all_are_valid_files(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_pictures(tmp_path / "in", 3, bad=(0, 1, 2))
    for format in ("coco", "yolo", "voc", "parquet"):
        label(tmp_path / "in", tmp_path / format, export=ExportSettings(format=format))
    assert json.loads((tmp_path / "coco" / "annotations.json").read_text())["images"] == []
    assert (tmp_path / "voc" / "Annotations").is_dir()
    assert parquet.read_table(tmp_path / "parquet" / "boxes.parquet").num_rows == 0


@pytest.mark.integration
def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cora.batch import writers

    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(writers.ParquetWriter, "_ROWS", 3)  # several row groups
    write_pictures(tmp_path / "in", 14, bad=(2,))
    out = tmp_path / "out"
    label(tmp_path / "in", out, export=ExportSettings(format="parquet"))
    images = parquet.read_table(out / "images.parquet").to_pylist()
    boxes = parquet.read_table(out / "boxes.parquet").to_pylist()
    expected = kept(out)
    assert [row["file_name"] for row in images] == list(expected)
    assert [row["boxes"] for row in images] == [len(found) for found in expected.values()]
    found: Boxes = {row["file_name"]: [] for row in images}
    for row in boxes:
        found[row["file_name"]].append((row["class"], [row[side] for side in ("left", "top", "right", "bottom")]))
        assert NAMES[row["class_id"]] == row["class"]
        assert (row["other_class"] is None) == (row["other_score"] is None)
    assert_same(found, expected, 1e-4)
    assert any(row["other_class"] for row in boxes)
    assert not list(out.rglob("*.new"))
