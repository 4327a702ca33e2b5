"""How models are compared on images and their mirror images (`recipes/nano/compare.py`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tests.recipe_modules import RECIPES, recipe_module
from tests.toy_nano import nano_config, toy_nano, write_boxed_photos


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with recipe_module(RECIPES / "nano/compare.py", monkeypatch) as module:
        yield module


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A kit whose `coco_more` has two images that choices are made on."""
    photos, kit = write_boxed_photos(tmp_path / "photos"), tmp_path / "kit"
    content = json.loads((photos / "boxes.json").read_text())
    (kit / "coco_ovd_mini").mkdir(parents=True)
    shutil.copy(photos / "split.json", kit / "coco_ovd_mini/class_split.json")
    shutil.copytree(photos / "images", kit / "coco_more/photos")
    shutil.copy(photos / "images/0.png", kit / "coco_more/photos/6.png")
    content["images"].append(content["images"][0] | {"id": 6, "file_name": "6.png"})
    boxes = [box for box in content["annotations"] if box["image_id"] == 0]
    content["annotations"] += [box | {"image_id": 6, "id": 100 + box["id"]} for box in boxes]
    (kit / "coco_more/all.json").write_text(json.dumps(content))
    return kit


def test_mirror_images_have_their_boxes(recipe: ModuleType, kit: Path, tmp_path: Path) -> None:
    sources = recipe.choice_images(recipe.coco(kit / "coco_more/all.json", kit / "coco_more/photos", "more"))
    assert [source.key for source in sources] == ["more/0", "more/6"]
    names = ["red square", "blue square"]
    folders = [tmp_path / "plain", tmp_path / "mirrored"]
    for folder in folders:
        folder.mkdir()
    plain, mirrored = recipe.plain(sources, names, folders[0]), recipe.mirrored(sources, names, folders[1])
    assert [record.path for record in plain.records] == [source.path for source in sources]
    for ours, theirs in zip(plain.records, mirrored.records, strict=True):
        seen = Image.open(ours.path)
        assert ImageOps.mirror(seen).tobytes() == Image.open(theirs.path).tobytes()
        assert torch.equal(ours.classes, theirs.classes)
        left, top, right, bottom = ours.boxes_xyxy_px.unbind(1)
        expected = torch.stack([seen.width - right, top, seen.width - left, bottom], dim=1)
        torch.testing.assert_close(theirs.boxes_xyxy_px, expected, rtol=0, atol=1e-3)


def test_prints_a_row_for_each_group_and_model(
    recipe: ModuleType, kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = nano_config(detector=False, box_stages=(3, 4), fine_bins=2)
    for seed, name in enumerate(("one.safetensors", "other.safetensors")):
        toy_nano(tmp_path / "cache", config, seed=seed).save(tmp_path / name)
    models = [str(tmp_path / name) for name in ("one.safetensors", "other.safetensors")]
    recipe.main(["--kit", str(kit), "--models", *models, "--resamples", "20"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    groups, names = ("novel", "base", "all"), ("one.safetensors", "other.safetensors")  # no class has ten boxes
    assert [row[:2] for row in rows[2:]] == [[group, name] for group in groups for name in names]
    assert all(row[5] == "+0.0 (+0.0 to +0.0)" for row in rows[2:] if row[1] == names[0])


def test_frequent_classes_are_a_group(recipe: ModuleType, kit: Path) -> None:
    sources = recipe.choice_images(recipe.coco(kit / "coco_more/all.json", kit / "coco_more/photos", "more"))
    split = recipe.read_class_split(kit / "coco_ovd_mini/class_split.json")
    assert set(recipe.groups_of(split, 4 * sources)) == {"novel", "base", "all"}
    assert recipe.groups_of(split, 5 * sources)["frequent"] == ("red square", "blue square")


def test_both_kinds_count_alike(recipe: ModuleType) -> None:
    found = {"all": np.array([[0.2, 0.1, 0.3], [0.4, 0.3, 0.5]])}
    better = {"all": found["all"] + [[0.1], [-0.04]]}
    _, _, first, second = recipe.table(["a", "b"], [found, better])
    assert first.startswith("| all | a | 20.0 | 40.0 | 30.0 (20.")
    assert second.startswith("| all | b | 30.0 | 36.0 | 33.0 (23.")
    assert second.endswith("+3.0 (+3.0 to +3.0) |")
