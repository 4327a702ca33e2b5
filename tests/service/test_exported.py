"""A service of an exported model, as `cora serve --model FILE.onnx` opens it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from cora.apps.serve import ServeOptions, load
from cora.detector import Detector
from cora.export import ExportSettings, export_detector
from cora.predictor import Predictor
from tests.service.conftest import EXAMPLES, make_app, make_service, upload

pytestmark = pytest.mark.integration

NAMES = ["cat", "dog"]
SCORE = 0.01


@pytest.fixture(scope="module")
def file(tiny: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names in the graph, and one image in a pass."""
    path = tmp_path_factory.mktemp("secret-place") / "tiny.onnx"
    vocabulary = Predictor(tiny).vocabulary(NAMES, distractors=["tree"])
    export_detector(tiny, path, format="onnx", model="tiny", settings=ExportSettings(batch=1), vocabulary=vocabulary)
    return path


@pytest.fixture(scope="module")
def client(file: Path) -> Iterator[TestClient]:
    detector, _ = load(ServeOptions(model=str(file), device="cpu"))
    with TestClient(make_app(make_service(detector))) as opened:
        yield opened


def test_answers_are_those_of_the_original(client: TestClient, tiny: Detector) -> None:
    photos = ["cat.jpg", "coffee.jpg", "cat.jpg"]
    content = upload(*[(EXAMPLES / photo).read_bytes() for photo in photos])
    answer = client.post("/detect", files=content, data={"classes": "dog, cat", "score": str(SCORE)})
    assert answer.status_code == 200, answer.text
    vocabulary = Predictor(tiny).vocabulary(["dog", "cat"], distractors=["tree"])
    for entry, photo in zip(answer.json()["images"], photos, strict=True):
        expected = Predictor(tiny).predict(Image.open(EXAMPLES / photo), vocabulary, score=SCORE)
        found = entry["detections"]
        assert [one["name"] for one in found] == expected.names != []
        scores, boxes = torch.tensor([one["score"] for one in found]), torch.tensor([one["box"] for one in found])
        torch.testing.assert_close(scores, expected.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(boxes, expected.boxes_xyxy_px, atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "zebra"}, "expected some of the 2 that were exported with the model, got 'zebra'"),
        ({"classes": "cat", "distractors": "dog"}, "distractors cannot be changed"),
    ],
)
def test_what_the_graph_has_not(client: TestClient, options: dict[str, Any], message: str) -> None:
    answer = client.post("/detect", files=upload((EXAMPLES / "cat.jpg").read_bytes()), data=options)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]
    # Nothing about this machine's folders.
    assert "secret-place" not in answer.json()["detail"]
