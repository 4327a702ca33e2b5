"""The endpoints: what they answer, and what they refuse."""

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image, ImageColor

from cora.detector import Detector
from cora.draw import class_colours, text_colour
from tests.service.conftest import EXAMPLES, image_file, make_app, make_service, upload

CAT = (EXAMPLES / "cat.jpg").read_bytes()
COFFEE = (EXAMPLES / "coffee.jpg").read_bytes()
NAMES = ["cat", "coffee cup"]


@pytest.fixture(scope="module")
def client(nano: Detector) -> Iterator[TestClient]:
    limits: dict[str, Any] = {"max_body_bytes": 2**20, "max_pixels": 1_000_000, "max_images": 3, "max_classes": 20}
    with TestClient(make_app(make_service(nano, **limits))) as opened:
        yield opened


def boxes(entry: dict[str, Any]) -> list[tuple[str, float, list[float]]]:
    return [(found["name"], found["score"], found["box"]) for found in entry["detections"]]


def test_answers_are_those_of_predict(client: TestClient, nano: Detector) -> None:
    response = client.post("/detect", files=upload(CAT, COFFEE), data={"classes": "cat, coffee cup", "score": "0.05"})
    assert response.status_code == 200, response.text
    entries = response.json()["images"]
    total = 0
    for entry, photo in zip(entries, ("cat.jpg", "coffee.jpg"), strict=True):
        expected = nano.predict(EXAMPLES / photo, NAMES, score=0.05)
        assert (entry["height"], entry["width"]) == expected.image_size
        assert [name for name, _, _ in boxes(entry)] == expected.names
        torch.testing.assert_close(
            torch.tensor([score for _, score, _ in boxes(entry)]), expected.scores, atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            torch.tensor([box for _, _, box in boxes(entry)]).view(-1, 4), expected.boxes_xyxy_px, atol=0.05, rtol=0
        )
        total += len(expected)
    assert total > 0


def test_json_form_and_data_url_are_the_same(client: TestClient) -> None:
    text = base64.b64encode(CAT).decode()
    options: dict[str, Any] = {"classes": NAMES, "score": 0.05, "max_detections": 3}
    by_form = client.post(
        "/detect", files=upload(CAT), data={"classes": NAMES, "score": "0.05", "max_detections": "3"}
    ).json()
    by_json = client.post("/detect", json={"images": [text], **options}).json()
    by_url = client.post("/detect", json={"images": [f"data:image/jpeg;base64,{text}"], **options}).json()
    assert by_form == by_json == by_url
    assert 0 < len(by_form["images"][0]["detections"]) <= 3


def test_a_class_with_several_prompts(client: TestClient, nano: Detector) -> None:
    classes = ["pet = cat | kitten", "coffee cup"]
    expected = nano.predict(EXAMPLES / "cat.jpg", classes, score=0.05)
    assert "pet" in expected.names
    text = base64.b64encode(CAT).decode()
    by_json = client.post("/detect", json={"images": [text], "classes": classes, "score": 0.05})
    assert by_json.status_code == 200, by_json.text
    assert [name for name, _, _ in boxes(by_json.json()["images"][0])] == expected.names
    assert set(by_json.json()["colours"]) == {"pet", "coffee cup"}
    by_form = client.post("/detect", files=upload(CAT), data={"classes": ", ".join(classes), "score": "0.05"})
    assert by_form.json() == by_json.json()


def test_colours_are_those_of_drawn_pictures(client: TestClient) -> None:
    names = ["cat", "Dog", "coffee cup", "Café", "犬", "a, b"]
    answer = client.post("/detect", json={"images": [base64.b64encode(CAT).decode()], "classes": [" cat ", *names[1:]]})
    colours = answer.json()["colours"]
    assert list(colours) == names
    for name, colour in class_colours(names).items():
        assert ImageColor.getrgb(colours[name]["box"]) == colour
        assert ImageColor.getrgb(colours[name]["text"]) == text_colour(colour)


def test_distractors_compete(client: TestClient) -> None:
    asked = {"images": [base64.b64encode(CAT).decode()], "classes": ["dog"], "score": 0}
    alone = client.post("/detect", json={**asked, "distractors": []}).json()["images"][0]
    beside = client.post("/detect", json={**asked, "distractors": ["cat"]}).json()["images"][0]
    assert {found["name"] for found in beside["detections"]} == {"dog"}
    assert beside["detections"][0]["score"] < alone["detections"][0]["score"]


def test_upright_and_transparent_pictures(client: TestClient) -> None:
    file = io.BytesIO()
    picture = Image.new("RGB", (60, 20), "white")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(file, format="JPEG", exif=exif)
    clear = io.BytesIO()
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(clear, format="PNG")
    answer = client.post("/detect", files=upload(file.getvalue(), clear.getvalue()), data={"classes": "cat"}).json()
    assert [(entry["width"], entry["height"]) for entry in answer["images"]] == [(20, 60), (10, 10)]


def test_health_metrics_and_openapi(client: TestClient) -> None:
    health = client.get("/health").json()
    assert health["status"] == "ok"
    assert (health["model"], health["search"], health["token"], health["waiting"]) == ("nano", False, False, 0)
    assert health["limits"]["max_images"] == 3
    client.post("/detect", files=upload(CAT), data={"classes": "cat"})
    client.post("/detect", json={})
    client.get("/no/such/path")
    metrics = client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    for line in (
        'cora_requests_total{path="/detect",status="200"}',
        'cora_requests_total{path="/detect",status="422"}',
        'cora_requests_total{path="other",status="404"}',
        'cora_request_seconds_bucket{le="0.01",path="/detect"}',
        "cora_batch_pictures_count",
        "cora_model_seconds_total",
        "cora_waiting_pictures 0.0",
    ):
        assert line in metrics.text
    assert "/no/such" not in metrics.text
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/detect", "/search", "/health", "/metrics"}
    assert set(paths["/detect"]["post"]["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert {"200", "401", "403", "413", "422", "429", "503", "504"} <= set(paths["/detect"]["post"]["responses"])


@pytest.mark.parametrize("path", ["/detect", "/search"])
def test_pages_of_other_sites_cannot_make_the_service_work(client: TestClient, path: str) -> None:
    foreign = client.post(path, headers={"Sec-Fetch-Site": "cross-site"}, json={})
    assert foreign.status_code == 403
    assert foreign.json()["detail"].startswith("expected a request of the service's own page")
    for site in ("same-origin", "none"):
        assert client.post(path, headers={"Sec-Fetch-Site": site}, json={}).status_code != 403


def test_page_and_its_headers(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        assert f"page/{name}" in page.text
        file = client.get(f"/page/{name}")
        assert file.status_code == 200
        assert file.headers["content-type"].startswith(kind)
        assert "http://" not in file.text.replace("http://www.w3.org/2000/svg", "")
    for name in ("cat.jpg", "coffee.jpg", "astronaut.jpg"):
        assert f'data-image="page/{name}"' in page.text
        file = client.get(f"/page/{name}")
        assert (file.status_code, file.headers["content-type"]) == (200, "image/jpeg")
        assert len(file.content) < 60_000
        with Image.open(io.BytesIO(file.content)) as copy, Image.open(EXAMPLES / name) as original:
            assert copy.size == original.size
    assert client.head("/").content == b""
    assert client.get("/page/../app.py").status_code == 404
    assert client.get("/page/%2e%2e/%2e%2e/app.py").status_code == 404


PNG = base64.b64encode(image_file()).decode()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "images: expected this field, got none"),
        ({"images": [PNG], "classes": []}, 422, "at least 1, got 0; leave it out for the built-in vocabulary"),
        ({"images": [], "classes": ["cat"]}, 422, "images: expected at least 1, got 0"),
        ({"images": [PNG], "classes": "cat"}, 422, "classes"),
        ({"images": [PNG], "classes": ["cat"], "scroe": 0.1}, 422, "scroe: expected no such field"),
        ({"images": [PNG], "classes": ["cat"], "score": 1.5}, 422, "score"),
        ({"images": [PNG], "classes": ["cat"], "max_detections": 0}, 422, "max_detections"),
        ({"images": [PNG], "classes": ["cat", " "]}, 422, "a blank one at position 2"),
        ({"images": [PNG], "classes": ["cat", "CAT"]}, 422, "'cat' twice"),
        ({"images": [PNG], "classes": ["pet = cat", "pet"]}, 422, "'pet' twice"),
        ({"images": [PNG], "classes": ["cat . dog ."]}, 422, "got several in one, 'cat . dog .'; write ['cat', 'dog']"),
        ({"images": [PNG], "classes": ["cat; dog"]}, 422, "write ['cat', 'dog']"),
        ({"images": [PNG], "classes": ["cat"], "distractors": ["a | b"]}, 422, "distractors: expected one name in"),
        ({"images": [PNG], "classes": ["= cat"]}, 422, "expected a class name before"),
        ({"images": [PNG], "classes": ["pet = cat |"]}, 422, "expected text in each prompt"),
        ({"images": [PNG], "classes": ["cat"], "distractors": ["a = b"]}, 422, "distractors: expected names without"),
        ({"images": [PNG], "classes": ["pet = " + "|".join(map(str, range(21)))]}, 413, "prompts and distractors"),
        ({"images": [PNG], "classes": ["pet = cat | " + "x" * 101]}, 413, "at most 100 characters, got 101"),
        ({"images": [PNG], "classes": ["pet =" + "|x" * 2000]}, 413, "at most 2000 characters, got 4005"),
        ({"images": [PNG], "classes": ["!?" * 50]}, 422, "the text tower's context"),
        ({"images": [PNG], "classes": ["x" * 101]}, 413, "at most 100 characters, got 101"),
        (
            {"images": [PNG], "classes": [f"n{n}" for n in range(15)], "distractors": [f"m{n}" for n in range(6)]},
            413,
            "21",
        ),
        ({"images": [PNG] * 4, "classes": ["cat"]}, 413, "at most 3 in a request"),
        ({"images": [PNG, "?"], "classes": ["cat"]}, 422, "image 2: expected an image file in base64"),
        ({"images": ["aGVsbG8="], "classes": ["cat"]}, 422, "image 1: expected an image (JPEG"),
        ({"images": [""], "classes": ["cat"]}, 422, "got nothing"),
        ({"images": [PNG[:80]], "classes": ["cat"]}, 422, "image 1: "),
    ],
)
def test_bad_json(client: TestClient, body: dict[str, Any], status: int, message: str) -> None:
    response = client.post("/detect", json=body)
    assert response.status_code == status, response.text
    assert message in response.json()["detail"]
    assert "\n" not in response.json()["detail"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat, dog,", ["cat", "dog"]),
        ("cat . dog .", ["cat", "dog"]),
        ("cat; dog | cup", ["cat", "dog", "cup"]),
        ('"salt,fine"', ["salt,fine"]),
        ("pet = cat | dog, cup", ["pet", "cup"]),
        (["cat", "dog; cup"], ["cat", "dog", "cup"]),
    ],
)
def test_names_of_a_form_are_written_as_on_the_command_line(client: TestClient, text: Any, names: list[str]) -> None:
    response = client.post("/detect", files=upload(image_file()), data={"classes": text, "distractors": "sky; sea,"})
    assert response.status_code == 200, response.text
    assert (list(response.json()["colours"]), response.json()["distractors"]) == (names, 2)


def test_text_of_a_form_that_is_too_long_is_not_taken_apart(client: TestClient) -> None:
    response = client.post("/detect", files=upload(image_file()), data={"classes": "a. " * 700})
    assert response.status_code == 413
    assert "classes: expected at most 2000 characters, got 2100" in response.json()["detail"]


@pytest.mark.parametrize("source", ["/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/x.png", "../cat.jpg"])
def test_paths_and_addresses_are_not_read(client: TestClient, source: str) -> None:
    response = client.post("/detect", json={"images": [source], "classes": ["cat"]})
    assert response.status_code == 422
    assert "image 1: expected an image" in response.json()["detail"]


def test_bad_forms(client: TestClient) -> None:
    def post(**options: Any) -> tuple[int, str]:
        response = client.post("/detect", **options)
        return response.status_code, response.json()["detail"]

    assert post(data={"classes": "cat"}) == (
        415,
        "expected application/json or multipart/form-data, got application/x-www-form-urlencoded",
    )
    assert post(content=b"x")[0] == 415
    assert post(files={"images": (None, "text")}, data={"classes": "cat"})[0] == 422
    assert "at least one file" in post(files={"classes": (None, "cat")})[1]
    assert (
        "in the field 'images', got one in 'photo'"
        in post(files={"photo": ("a.png", image_file(), "image/png")}, data={"classes": "cat"})[1]
    )
    assert (
        "score: expected it once" in post(files=upload(image_file()), data={"classes": "cat", "score": ["0", "1"]})[1]
    )
    assert post(files=upload(*[image_file()] * 4), data={"classes": "cat"})[0] == 413
    assert post(content=b"--x\r\nbroken", headers={"content-type": "multipart/form-data"})[0] == 400
    assert post(content=b"{", headers={"content-type": "application/json"})[0] == 422
    assert client.get("/detect").status_code == 405


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"images": ["%s"], "classes": ["\\ud800"]}' % PNG.encode(),
        b'{"images": ["%s"], "classes": ["cat"], "score": NaN}' % PNG.encode(),
        b'{"images": ["%s"], "classes": ["cat"], "max_detections": 1e400}' % PNG.encode(),
    ],
)
def test_json_that_is_none(client: TestClient, body: bytes) -> None:
    response = client.post("/detect", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422, response.text
    assert "\n" not in response.json()["detail"]


def test_large_bodies(client: TestClient) -> None:
    announced = client.post("/detect", files=upload(b"0" * 2**21), data={"classes": "cat"})
    assert announced.status_code == 413
    assert "at most 1 MiB" in announced.json()["detail"]

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b"0" * 2**17

    for kind in ("application/json", "multipart/form-data; boundary=x"):
        assert client.post("/detect", content=chunks(), headers={"content-type": kind}).status_code == 413


def test_large_pictures_are_refused_before_they_are_decoded(client: TestClient) -> None:
    for width, height in ((2000, 501), (40_000, 40_000)):
        content = image_file()
        header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
        bomb = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
        response = client.post("/detect", files=upload(image_file(), bomb), data={"classes": "cat"})
        assert response.status_code == 413
        assert "image 2: expected at most 1 megapixels" in response.json()["detail"]


def test_other_hosts_are_refused(client: TestClient) -> None:
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/health", headers={"host": "localhost:8000"}).status_code == 200
