"""Names with underscores, through the commands: one class however it is spelled, reported as it was written."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cora
from cora.apps.cli import main
from cora.batch.settings import Thresholds
from cora.evaluation.synonyms import rename
from tests.detector.conftest import tiny_detector


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images with boxes of classes as LVIS writes them, and a model."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    tiny_detector(tmp_path / "cache").save(tmp_path / "model.safetensors")
    images: list[dict[str, object]] = []
    boxes: list[dict[str, object]] = []
    generator = np.random.default_rng(0)
    for number in range(1, 4):
        Image.fromarray(generator.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(f"photos/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
        for category in (1, 2):
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": [40 * (category - 1) + 4, 8, 40, 40],
                    "area": 1600,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 1, "name": "coffee_cup"}, {"id": 2, "name": "bow_(weapon)"}]
    Path("boxes.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return tmp_path


def detected(classes: str, *options: str) -> dict[str, list[dict[str, object]]]:
    arguments = ["detect", "photos", "--classes", classes, "--model", "model.safetensors", "--device", "cpu"]
    assert main([*arguments, "--score", "0", "--json", "found.json", *options]) == 0
    found: dict[str, list[dict[str, object]]] = json.loads(Path("found.json").read_text())
    return found


def test_detections_are_the_same_and_names_stay_as_written(here: Path) -> None:
    first, second = detected("coffee_cup, bow_(weapon)"), detected("coffee cup, bow  (weapon)")
    assert first["annotations"] == second["annotations"]
    assert [one["name"] for one in first["categories"]] == ["coffee_cup", "bow_(weapon)"]
    assert [one["name"] for one in second["categories"]] == ["coffee cup", "bow  (weapon)"]
    # A distractor that is a class by another spelling does not compete with itself.
    alone = detected("coffee_cup", "--distractors", "none")
    assert detected("coffee_cup", "--distractors", "coffee cup")["annotations"] == alone["annotations"]


def test_two_spellings_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["detect", "photos", "--classes", "coffee_cup, coffee cup", "--model", "model.safetensors"]
    assert main(arguments) == 2
    assert "got 'coffee_cup' and 'coffee cup', which is the same" in capsys.readouterr().err


def test_an_exemplar_joins_the_class_of_its_name(here: Path) -> None:
    found = detected("coffee_cup", "--exemplar", "Coffee cup=photos/1.png", "--exemplar", "coffee__cup=photos/2.png")
    assert [one["name"] for one in found["categories"]] == ["coffee_cup"]


def test_splits_weights_and_renames_may_be_spelled_otherwise(here: Path) -> None:
    Path("split.json").write_text('{"base": ["coffee cup"], "novel": ["Bow (weapon)"]}')
    Path("weights.json").write_text('{"bow_(weapon)": 8}')
    Path("names.json").write_text('{"Coffee_cup": ["mug", "coffee mug"], "bow (weapon)": "longbow"}')
    options = ["--images", "photos", "--annotations", "boxes.json", "--model", "model.safetensors", "--device", "cpu"]
    options += ["--class-weights", "weights.json", "--rename", "names.json", "--split", "split.json"]
    assert main(["evaluate", *options, "--resamples", "2", "--json", "report.json"]) == 0
    report = json.loads(Path("report.json").read_text())
    assert report["vocabulary"] == ["coffee cup", "Bow (weapon)"]
    assert report["boxes"] == 6
    assert report["class_weights"] == {"Bow (weapon)": 8.0}
    assert report["synonyms"]["renamed"] == {"coffee cup": ["mug", "coffee mug"], "Bow (weapon)": "longbow"}


def test_thresholds_and_renames_by_class() -> None:
    assert Thresholds(usual=0.3, by_class={"coffee cup": 0.5}).of(["dog", "Coffee_cup"]) == (0.3, 0.5)
    renamed, changed = rename(["coffee_cup", "dog"], {"coffee cup": ("mug",)})
    assert (list(renamed), changed) == (["mug", "dog"], ["coffee_cup"])


def test_names_are_taught_and_kept_by_class(here: Path) -> None:
    arguments = ["text-prompts", "--method", "offsets", "--images", "photos", "--annotations", "boxes.json"]
    arguments += ["--model", "model.safetensors", "--device", "cpu", "--epochs", "1"]
    assert main([*arguments, "--output", "text.safetensors", "--save-model", "own.safetensors"]) == 0
    encoder = cora.load("own.safetensors").vocabulary_encoder
    embeddings = [encoder.encode([name]).embeddings for name in ("coffee_cup", "coffee cup", "Coffee  Cup")]
    assert all(one.equal(embeddings[0]) for one in embeddings)
