"""Searching an index over HTTP."""

import asyncio
import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from cora.apps.cli import main
from cora.detector import Detector
from cora.retrieval import Hit, RegionIndex, RegionSettings
from tests.service.conftest import EXAMPLES, make_app, make_service

pytestmark = pytest.mark.integration

CAT = (EXAMPLES / "cat.jpg").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("photos")
    for name in ("cat.jpg", "coffee.jpg"):
        shutil.copy(EXAMPLES / name, place)
    return place


@pytest.fixture(scope="module")
def index(folder: Path, tiny: Detector, tmp_path_factory: pytest.TempPathFactory) -> RegionIndex:
    settings = RegionSettings(classes=("cat", "cup"), score=0.0)
    made, _ = RegionIndex.build(tmp_path_factory.mktemp("db") / "index", folder, tiny, settings=settings)
    return made


@pytest.fixture(scope="module")
def client(index: RegionIndex, tiny: Detector) -> Iterator[TestClient]:
    with TestClient(make_app(make_service(tiny, index=index, max_pixels=1_000_000))) as opened:
        yield opened


def test_text_image_and_box_are_those_of_the_index(client: TestClient, index: RegionIndex, tiny: Detector) -> None:
    box = [20.0, 30.0, 200.0, 180.0]
    coded = base64.b64encode(CAT).decode()
    asked: list[tuple[dict[str, Any], list[Any]]] = [
        ({"text": "a cat", "top": 3}, index.search_text(tiny, "a cat", top=3)),
        ({"image": coded, "top": 4}, index.search_image(tiny, EXAMPLES / "cat.jpg", top=4)),
        ({"text": "cat", "top": 2, "per_picture": 1}, index.search_text(tiny, "cat", top=2, per_picture=1)),
        ({"image": coded, "box": box, "top": 2}, index.search_image(tiny, EXAMPLES / "cat.jpg", box=box, top=2)),
    ]
    for body, expected in asked:
        response = client.post("/search", json=body)
        assert response.status_code == 200, response.text
        regions = response.json()["regions"]
        assert len(regions) == body["top"]
        for region, hit in zip(regions, expected, strict=True):
            assert (region["file"], region["name"]) == (hit.file, hit.label)
            assert region["box"] == pytest.approx(hit.box_xyxy_px, abs=0.01)
            assert region["similarity"] == pytest.approx(hit.similarity, abs=1e-4)
            assert region["thumbnail"] is None


def test_form_with_thumbnails(client: TestClient, folder: Path) -> None:
    def search() -> list[dict[str, Any]]:
        files = {"image": ("cat.jpg", CAT, "image/jpeg")}
        fields = {"box": "20,30,200,180", "top": "40", "thumbnails": "true"}
        response = client.post("/search", files=files, data=fields)
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["regions"]
        return found

    for region in search():
        kind, _, content = region["thumbnail"].partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert max(picture.size) <= 200
    # An image that has gone since costs its thumbnail only.
    (folder / "coffee.jpg").unlink()
    assert {region["file"]: region["thumbnail"] is None for region in search()} == {
        "cat.jpg": False,
        "coffee.jpg": True,
    }
    shutil.copy(EXAMPLES / "coffee.jpg", folder)


def test_no_image_outside_the_folder(index: RegionIndex, folder: Path, tiny: Detector) -> None:
    outside = folder.parent / "outside.jpg"
    shutil.copy(EXAMPLES / "cat.jpg", outside)
    service = make_service(tiny)

    def thumbnail(file: str) -> str | None:
        hit = Hit(file, (20.0, 30.0, 200.0, 180.0), similarity=0.5, score=0.5, label=None)

        async def ask() -> list[str | None]:
            return await service.thumbnails(index, [hit], service.deadline())

        return asyncio.run(ask())[0]

    try:
        assert thumbnail("cat.jpg") is not None
        for file in ("../outside.jpg", f"x/../../{outside.name}", str(outside)):
            assert (folder / file).is_file() == ("x/" not in file)
            assert thumbnail(file) is None, file
    finally:
        outside.unlink()


def test_thumbnails_keep_to_the_limits(index: RegionIndex, folder: Path, tiny: Detector) -> None:
    def thumbnails(max_pixels: int) -> list[tuple[str, str | None]]:
        with TestClient(make_app(make_service(tiny, index=index, max_pixels=max_pixels))) as client:
            answer = client.post("/search", json={"text": "cat", "top": 40, "thumbnails": True}).json()
        return [(region["file"], region["thumbnail"]) for region in answer["regions"]]

    # cat.jpg has 451 x 300 pixels, coffee.jpg 600 x 400.
    there = {(file, small is not None) for file, small in thumbnails(451 * 300)}
    assert there == {("cat.jpg", True), ("coffee.jpg", False)}
    # An image that was replaced by one where the region is not: all of that, as small.
    Image.new("RGB", (4, 900)).save(folder / "coffee.jpg")
    try:
        for _, small in thumbnails(1_000_000):
            assert small is not None
            with Image.open(io.BytesIO(base64.b64decode(small.partition(",")[2]))) as picture:
                assert max(picture.size) <= 200
    finally:
        shutil.copy(EXAMPLES / "coffee.jpg", folder)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "expected either text or an image, got neither"),
        ({"text": "cat", "image": base64.b64encode(CAT).decode()}, 422, "got both"),
        ({"text": "cat", "box": [0, 0, 9, 9]}, 422, "box: expected an image"),
        ({"text": ""}, 422, "text"),
        ({"text": "  "}, 422, "expected a text to search for"),
        ({"text": "x" * 101}, 413, "at most 100 characters"),
        ({"text": "cat", "top": 201}, 422, "top"),
        ({"image": "/etc/passwd"}, 422, "image 1: "),
        ({"image": base64.b64encode(CAT).decode(), "box": [9, 9, 3, 3]}, 422, "left < right"),
        ({"image": base64.b64encode(CAT).decode(), "box": [900, 900, 950, 950]}, 422, "box"),
        ({"text": "cat", "db": "/other"}, 422, "db"),
    ],
)
def test_bad_searches(client: TestClient, body: dict[str, Any], status: int, message: str) -> None:
    response = client.post("/search", json=body)
    assert response.status_code == status, response.text
    assert message in response.json()["detail"]


def test_forms_that_make_no_sense(client: TestClient) -> None:
    image = ("image", ("cat.jpg", CAT, "image/jpeg"))
    for files, data, message in (
        ([image, image], {}, "expected one file, got 2"),
        ([image], {"text": "cat"}, "got both"),
        ([image], {"box": "1,2,3"}, "box"),
        ([image], {"box": "a,b,c,d"}, "box"),
    ):
        response = client.post("/search", files=files, data=data)
        assert response.status_code == 422, response.text
        assert message in response.json()["detail"]


def test_no_index_is_said(tiny: Detector) -> None:
    with TestClient(make_app(make_service(tiny))) as client:
        response = client.post("/search", json={"text": "cat"})
        assert response.status_code == 404
        assert "start it with --db" in response.json()["detail"]
        assert client.get("/health").json()["search"] is False


def test_index_of_another_model(index: RegionIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = next(value for value in vars(index._store).values() if isinstance(value, Path))
    assert main(["serve", "--port", "0", "--db", str(place), "--model", "nano"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cora: error: ")
    assert "model" in error
    assert error.count("\n") == 1
