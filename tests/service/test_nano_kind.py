"""The service around a model on a timm backbone: images of several shapes in one request."""

import io
from pathlib import Path

import torch
from fastapi.testclient import TestClient

from cora.predictor import Predictor
from tests.service.conftest import make_app, make_service, upload
from tests.toy_nano import NAMES, picture, toy_nano


def test_answers_are_those_of_predict(tmp_path: Path) -> None:
    detector = toy_nano(tmp_path, seed=1)
    photos = [picture(120, 160), picture(151, 101, seed=1)]
    files = []
    for photo in photos:
        file = io.BytesIO()
        photo.save(file, format="PNG")
        files.append(file.getvalue())
    data = {"classes": ", ".join(NAMES), "score": "0.01"}
    with TestClient(make_app(make_service(detector, max_batch=1))) as client:
        answer = client.post("/detect", files=upload(*files), data=data)
    assert answer.status_code == 200, answer.text
    for entry, photo in zip(answer.json()["images"], photos, strict=True):
        expected = Predictor(detector).predict(photo, NAMES, score=0.01)
        scores = torch.tensor([one["score"] for one in entry["detections"]])
        assert len(scores) > 0
        torch.testing.assert_close(scores, expected.scores, atol=1e-4, rtol=0)
