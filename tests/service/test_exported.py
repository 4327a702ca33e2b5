"""A service of an exported model gives the same answers as one of the model itself."""

from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from cora.apps.open_model import open_detector
from cora.detector import Detector
from cora.export import export_detector
from tests.service.conftest import EXAMPLES, make_app, make_service, upload

PHOTOS = [(EXAMPLES / name).read_bytes() for name in ("cat.jpg", "coffee.jpg")]


@pytest.fixture(scope="module")
def model(tiny: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    tiny.save(path, dtype=torch.float32)
    return path


def test_names_at_run_time(model: Path, tiny: Detector) -> None:
    exported = model.with_suffix(".onnx")
    export_detector(tiny, exported, format="onnx", model=str(model))
    fields = {"classes": "cat,cup", "score": "0.001", "distractors": "dog"}
    answers = []
    for detector in (open_detector(str(exported)), open_detector(str(model))):
        with TestClient(make_app(make_service(detector))) as client:
            response = client.post("/detect", files=upload(*PHOTOS), data=fields)
            assert response.status_code == 200, response.text
            answers.append(response.json()["images"])
    for ours, theirs in zip(*answers, strict=True):
        assert len(ours["detections"]) == len(theirs["detections"]) > 0
        for one, other in zip(ours["detections"], theirs["detections"], strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-3)
