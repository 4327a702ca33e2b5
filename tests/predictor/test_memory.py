"""Freed memory goes back to the system now and then, whatever runs the passes."""

import ctypes
import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from PIL import Image

import cora
from cora.predictor import Tiles, memory


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows when memory goes back; passes are counted from here on."""
    calls: list[int] = []
    monkeypatch.setattr(memory, "_passes", itertools.count(1))
    monkeypatch.setattr(memory, "give_back", lambda: calls.append(1))
    return calls


def test_every_way_to_detect_counts_its_passes(predictor: cora.Predictor, given_back: list[int]) -> None:
    image = Image.new("RGB", (48, 40))
    vocabulary = predictor.vocabulary(["cat"])
    for _ in predictor.predict((image for _ in range(memory.PASSES - 1)), vocabulary):
        pass
    assert given_back == []
    predictor.predict(image, vocabulary)
    assert given_back == [1]
    predictor.predict([image] * memory.PASSES, vocabulary, batch_size=memory.PASSES // 2)  # two passes
    predictor.predict(image, vocabulary, tiles=Tiles(count=(2, 2)))  # the image and four tiles
    for _ in range(memory.PASSES - 8):
        predictor.encode_image(image)
    assert given_back == [1]
    predictor.encode_image(image)
    assert given_back == [1, 1]


@pytest.fixture
def _forgotten() -> Iterator[None]:
    memory._trim.cache_clear()
    yield
    memory._trim.cache_clear()


@pytest.mark.usefixtures("_forgotten")
def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []

    def library(name: None) -> SimpleNamespace:
        asked.append(name)
        return SimpleNamespace()  # without malloc_trim

    monkeypatch.setattr(ctypes, "CDLL", library)
    memory.give_back()
    memory.give_back()
    assert asked == [None]


@pytest.mark.usefixtures("_forgotten")
def test_the_whole_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def malloc_trim(keep: int) -> int:
        asked.append(keep)
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=malloc_trim))
    memory.give_back()
    memory.give_back()
    assert asked == [0, 0]
