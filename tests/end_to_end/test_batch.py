"""`cora batch` with a real if random network: the same boxes as `predict`, bound to the model and its words."""

import json
from pathlib import Path

import numpy as np
import pytest

import cora
from cora.apps.cli import main

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ["cat", "coffee cup", "astronaut"]


def test_batch_gives_what_predict_gives(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["batch", str(EXAMPLES), "--classes", ", ".join(NAMES), "--model", str(tiny_model), "--device", "cpu"]
    assert main([*command, "--score", "0.002", "--keep", "0.001"]) == 0
    content = json.loads(Path("cora-batch/annotations.json").read_text())
    assert [category["name"] for category in content["categories"]] == NAMES
    detector = cora.load(tiny_model)
    for image in content["images"]:
        found = detector.predict(EXAMPLES / image["file_name"], NAMES, score=0.002)
        assert (image["height"], image["width"]) == found.image_size
        expected = found.to_coco(image["id"])
        boxes = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        assert len(boxes) == len(expected) > 0
        assert [entry["category_id"] for entry in boxes] == [entry["category_id"] for entry in expected]
        np.testing.assert_allclose([entry["bbox"] for entry in boxes], [entry["bbox"] for entry in expected], atol=0.02)
    capsys.readouterr()
    assert main([*command, "--score", "0.9", "--templates", "imagenet"]) == 2
    assert "expected the settings that its batch began with, got another text around names" in capsys.readouterr().err
    assert main([*command[:-4], "--score", "0.9"]) == 2
    assert "got another model" in capsys.readouterr().err
