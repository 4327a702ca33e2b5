"""What a service takes from its model: the score threshold, and the names that compete unasked."""

import base64
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from cora.apps.open_model import distractors_line
from cora.data.builtin_names import builtin_names
from cora.detector import Detector
from cora.predictor import Predictor
from cora.regions import EVERYDAY_NAMES
from tests.service.conftest import EXAMPLES, make_app, make_service, upload

CAT = EXAMPLES / "cat.jpg"


@pytest.fixture(scope="module")
def strict(tiny: Detector) -> Detector:
    """The toy, half of whose boxes of a cat or dog are below its threshold."""
    detector = copy.copy(tiny)
    scores = Predictor(tiny).predict(Image.open(CAT), ["cat", "dog"], score=0.0).scores
    postprocess = replace(tiny.config.postprocess, score_threshold=float(scores.median()), distractors="everyday")
    detector.config = replace(tiny.config, postprocess=postprocess)
    return detector


def test_threshold_and_distractors_are_the_models(strict: Detector) -> None:
    own = strict.config.postprocess.score_threshold
    with TestClient(make_app(make_service(strict))) as client:
        health = client.get("/health").json()
        assert (health["score"], health["distractors"]) == (own, len(EVERYDAY_NAMES))
        asked = {"classes": "cat, dog"}
        answer = client.post("/detect", files=upload(CAT.read_bytes()), data=asked).json()
        assert (answer["score"], answer["distractors"]) == (own, len(EVERYDAY_NAMES) - 2)
        expected = Predictor(strict).predict(Image.open(CAT), ["cat", "dog"])
        assert len(answer["images"][0]["detections"]) == len(expected)
        alone = {**asked, "distractors": "", "score": "0.01"}
        answer = client.post("/detect", files=upload(CAT.read_bytes()), data=alone).json()
        assert (answer["score"], answer["distractors"]) == (0.01, 0)
        assert answer["images"][0]["detections"]


def test_distractors_in_a_word(strict: Detector, tiny: Detector) -> None:
    cat = base64.b64encode(CAT.read_bytes()).decode()
    for detector in (strict, tiny):
        with TestClient(make_app(make_service(detector, max_classes=3))) as client:

            def both(distractors: str, client: TestClient = client) -> list[dict[str, Any]]:
                asked = {"classes": "cat, dog", "distractors": distractors, "score": "0"}
                body = {"images": [cat], "classes": ["cat", "dog"], "distractors": distractors, "score": 0}
                answers = [
                    client.post("/detect", files=upload(CAT.read_bytes()), data=asked),
                    client.post("/detect", json=body),
                ]
                return [answer.json() for answer in answers]

            for word, others in (("everyday", EVERYDAY_NAMES), ("none", ())):
                expected = Predictor(detector).predict(Image.open(CAT), ["cat", "dog"], distractors=others, score=0.0)
                for answer in both(word):
                    assert answer["distractors"] == max(0, len(others) - 2)
                    scores = [found["score"] for found in answer["images"][0]["detections"]]
                    assert scores == pytest.approx(expected.scores.tolist(), abs=1e-4)
            # Another word: in a form one name, in JSON no list.
            form, body = both("Everyday")
            assert form["distractors"] == 1
            assert "distractors" in body["detail"]


def test_without_classes_the_built_in_vocabulary_is_used_and_said(
    tiny: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = builtin_names()[:40]
    monkeypatch.setattr("cora.predictor.vocabulary.builtin_names", lambda: names)
    detector = copy.copy(tiny)
    detector.config = replace(tiny.config, postprocess=replace(tiny.config.postprocess, builtin_threshold=0.001))
    expected = Predictor(detector).predict(Image.open(CAT))
    assert len(expected) > 0
    text = base64.b64encode(CAT.read_bytes()).decode()
    with TestClient(make_app(make_service(detector, max_classes=5))) as client:
        health = client.get("/health").json()
        assert (health["classes"], health["built_in"]) == (40, True)
        by_form = client.post("/detect", files=upload(CAT.read_bytes())).json()
        by_json = client.post("/detect", json={"images": [text]}).json()
        assert by_form == by_json == client.post("/detect", json={"images": [text], "classes": None}).json()
        found = by_json["images"][0]["detections"]
        assert [one["name"] for one in found] == expected.names
        assert (by_json["score"], by_json["usual_score"], by_json["classes"], by_json["built_in"]) == (
            0.001,
            0.001,
            40,
            True,
        )
        assert set(by_json["colours"]) == set(expected.names)
        more = client.post("/detect", json={"images": [text], "class_agnostic": False}).json()
        assert len(more["images"][0]["detections"]) > len(found)
        named = client.post("/detect", json={"images": [text], "classes": ["cat"], "score": 0.5}).json()
        usual = tiny.config.postprocess.score_threshold
        assert (named["score"], named["usual_score"], named["classes"], named["built_in"]) == (0.5, usual, 1, False)
        empty = client.post("/detect", files=upload(CAT.read_bytes()), data={"classes": ""})
        assert empty.status_code == 422
        assert "leave it out for the built-in vocabulary" in empty.json()["detail"]


def test_a_fine_tuned_model_is_asked_for_its_own_names(tiny: Detector) -> None:
    detector = copy.copy(tiny)
    detector.config = replace(tiny.config, class_names=("cat", "dog"))
    with TestClient(make_app(make_service(detector))) as client:
        assert client.get("/health").json()["built_in"] is False
        answer = client.post("/detect", files=upload(CAT.read_bytes()), data={"score": "0"}).json()
        assert (answer["classes"], answer["built_in"]) == (2, False)
        assert {one["name"] for one in answer["images"][0]["detections"]} == {"cat", "dog"}


def test_the_line_of_the_command_names_the_requests(strict: Detector, tiny: Detector) -> None:
    line = distractors_line(strict, (), switch='"distractors": [] switches them off', yours="those of a request")
    assert line is not None
    assert "everyday names compete with those of a request" in line
    assert distractors_line(tiny, ()) is None


def test_the_page_begins_at_the_models_threshold() -> None:
    script = (Path(__file__).parents[2] / "src/cora/assets/page/page.js").read_text(encoding="utf-8")
    assert json.dumps("threshold") + ").value = String(service.score)" in script
