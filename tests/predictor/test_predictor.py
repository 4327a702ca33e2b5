"""The predictor around a network: streams, lists, batches, threads, classes that suppress each other."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import os
import weakref
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou, nms

import cora
from cora.detector import Detector
from cora.errors import CoraError, ImageError, ModelError
from cora.predictor import Predictor, Tiles, Unreadable, UnreadableImagesError
from cora.predictor.device import pick_device
from cora.predictor.load import KERNEL_VARIABLE, KERNELS
from cora.structures import Detections

NAMES = ["cat", "dog", "red car"]


def picture(seed: int, height: int = 80, width: int = 100) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def assert_equal(mine: Detections, others: Detections) -> None:
    """The same scores, and the same boxes in the same places; rounding may exchange neighbours of equal scores."""
    assert len(mine) == len(others) > 0
    torch.testing.assert_close(mine.scores, others.scores, rtol=1e-4, atol=1e-5)
    far = 1e4 * (mine.labels[:, None] != others.labels)
    apart = (mine.boxes_xyxy_px[:, None] - others.boxes_xyxy_px).abs().amax(dim=-1) + far
    assert float(apart.amin(dim=1).max()) < 0.01


def test_the_public_names() -> None:
    assert cora.Predictor is Predictor
    assert cora.Tiles is Tiles
    assert cora.Detector is Detector


def test_the_network_is_reached_through_the_predictor(predictor: Predictor, detector: Detector, tmp_path: Path) -> None:
    assert predictor.detector is detector
    assert predictor.config is detector.config
    assert predictor.image_tower is detector.image_tower
    assert predictor.state_dict().keys() == detector.state_dict().keys()
    predictor.save(tmp_path / "model.safetensors")
    again = cora.load(tmp_path / "model.safetensors", device="cpu")
    assert isinstance(again, Predictor)
    assert again.device == torch.device("cpu")
    batch, vocabulary = predictor.preprocessor([picture(0)]), predictor.vocabulary(NAMES)
    assert torch.equal(predictor(batch, vocabulary).scores, detector(batch, vocabulary).scores)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = predictor.no_such_thing


def test_a_device_that_is_not_there_is_one_line(predictor: Predictor, tmp_path: Path) -> None:
    predictor.save(tmp_path / "model.safetensors")
    with pytest.raises(CoraError, match="device: expected one that PyTorch has here, got 'nope'") as error:
        cora.load(tmp_path / "model.safetensors", device="nope")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["meta", "hpu", "nope"])
def test_no_device_of_this_machine(name: str) -> None:
    with pytest.raises(CoraError, match=f"expected a device of this machine, got '{name}'; use --device cpu"):
        pick_device(name)


def test_an_iterator_is_streamed(predictor: Predictor, tmp_path: Path) -> None:
    taken: list[int] = []
    alive: list[weakref.ref[Image.Image]] = []

    def source() -> Iterator[Image.Image]:
        for seed in range(5):
            taken.append(seed)
            image = picture(seed)
            alive.append(weakref.ref(image))
            yield image
            del image

    found = predictor.predict(source(), NAMES, score=0.0)
    assert isinstance(found, Iterator)
    assert taken == []
    results = []
    for place, one in enumerate(found):
        assert taken == list(range(place + 1))
        results.append(one)
    gc.collect()
    assert all(one.image is None for one in results)
    assert [one() for one in alive] == [None] * 5
    for seed, one in enumerate(results):
        assert_equal(one, predictor.predict(picture(seed), NAMES, score=0.0))


def test_other_iterables_stream_and_files_are_one_image(predictor: Predictor, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "0.png")
    picture(1).save(tmp_path / "1.png")
    found = predictor.predict(tmp_path.glob("*.png"), NAMES, score=0.0)
    assert sorted(Path(one.path or "").name for one in found) == ["0.png", "1.png"]
    assert isinstance(predictor.predict({"a": picture(0)}.values(), NAMES), Iterator)
    with pytest.raises(ImageError):  # one image of an unknown kind, or a known one: no stream of its lines
        predictor.predict(io.StringIO("no image"), NAMES)  # type: ignore[call-overload]


def test_wrong_options_of_a_stream_are_refused_at_once(predictor: Predictor) -> None:
    with pytest.raises(CoraError, match="score: expected a number"):
        predictor.predict(iter([picture(0)]), NAMES, score=2)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_one_unreadable_image_does_not_lose_the_others(
    predictor: Predictor, tmp_path: Path, batch_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    sources: list[Any] = [picture(0), tmp_path / "none.png", picture(1), "none.jpg", picture(2)]
    streamed = list(predictor.predict(iter(sources), NAMES, score=0.0, batch_size=batch_size))
    assert [isinstance(one, Unreadable) for one in streamed] == [False, True, False, True, False]
    assert caplog.text.count("got no file at") == 2
    missing = streamed[1]
    assert isinstance(missing, Unreadable)
    assert isinstance(missing.error, ImageError)
    assert (len(missing), missing.path) == (0, str(tmp_path / "none.png"))
    with pytest.raises(UnreadableImagesError, match=r"2 of 5 images cannot be read.*none\.png") as error:
        predictor.predict(sources, NAMES, score=0.0, batch_size=batch_size)
    assert "\n" not in str(error.value)
    for found, one in zip(error.value.found, streamed, strict=True):
        assert torch.equal(found.scores, one.scores)
    with pytest.raises(ImageError, match=r"^expected an image file, got no file"):
        predictor.predict([tmp_path / "none.png"], NAMES)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_an_iterator_that_fails_does_not_lose_what_it_gave(predictor: Predictor, batch_size: int) -> None:
    def source() -> Iterator[Image.Image]:
        yield picture(0)
        yield picture(1)
        raise RuntimeError("the camera is gone")

    found = predictor.predict(source(), NAMES, score=0.0, batch_size=batch_size)
    for seed in range(2):
        assert_equal(next(found), predictor.predict(picture(seed), NAMES, score=0.0))
    with pytest.raises(RuntimeError, match="the camera is gone"):
        next(found)
    assert next(found, None) is None


def test_an_endless_iterator_may_be_left(predictor: Predictor) -> None:
    ended: list[int] = []

    def source() -> Iterator[Image.Image]:
        try:
            for seed in itertools.count():
                yield picture(seed)
        finally:
            ended.append(seed)

    found = predictor.predict(source(), NAMES, batch_size=2)
    next(found)
    assert ended == []
    found.close()  # type: ignore[attr-defined]
    assert ended == [1]


class Lazy(Sequence[Any]):
    """Images that are made when they are asked for, as data sets of other libraries do."""

    def __init__(self, length: int) -> None:
        self.length, self.alive, self.most = length, list[Any](), 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: Any) -> Any:
        if place >= self.length:
            raise IndexError(place)
        image = picture(place)
        self.alive.append(weakref.ref(image))
        self.most = max(self.most, sum(one() is not None for one in self.alive))
        return image


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_sequence_that_makes_its_images_has_few_at_a_time(predictor: Predictor, batch_size: int) -> None:
    images = Lazy(20)
    assert len(predictor.predict(images, NAMES, batch_size=batch_size)) == 20
    assert images.most <= 4 * batch_size


def test_a_file_that_fails_in_its_own_way_does_not_lose_the_others(predictor: Predictor) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        buffer = io.BytesIO()
        picture(0).save(buffer, format="PNG")
        archive.writestr("a.png", buffer.getvalue())
    damaged = bytearray(content.getvalue())
    damaged[100] ^= 0xFF
    with zipfile.ZipFile(io.BytesIO(bytes(damaged))) as archive, archive.open("a.png") as member:
        first, second = predictor.predict(iter([member, picture(1)]), NAMES, score=0.0)
    assert isinstance(first, Unreadable)
    assert "Bad CRC-32" in str(first.error)
    assert_equal(second, predictor.predict(picture(1), NAMES, score=0.0))


def test_a_list_keeps_no_images_and_one_image_is_kept(predictor: Predictor) -> None:
    assert all(one.image is None for one in predictor.predict([picture(0), picture(1)], NAMES, score=0.0))
    kept = predictor.predict(picture(0), NAMES, score=0.0)
    assert kept.image is not None
    assert kept.draw().size == (100, 80)
    tiled = predictor.predict([picture(0)], NAMES, score=0.0, tiles=Tiles(count=(1, 2)))
    assert tiled[0].image is None


def test_results_are_ordinary_tensors(predictor: Predictor) -> None:
    found = predictor.predict(picture(0), NAMES, score=0.0)
    assert not found.scores.is_inference()
    found.boxes_xyxy_px.add_(1)


@pytest.mark.parametrize("batch_size", [2, 3, 5])
def test_an_image_gives_the_same_alone_and_in_any_company(predictor: Predictor, batch_size: int) -> None:
    images = [picture(0), picture(1, 160, 80), picture(2, 64, 64), picture(3), picture(4, 40, 128)]
    together = predictor.predict(images, NAMES, score=0.0, batch_size=batch_size)
    for image, found in zip(images, together, strict=True):
        assert_equal(found, predictor.predict(image, NAMES, score=0.0))
        assert found.image_size == (image.height, image.width)


def test_predicting_from_train_mode_changes_nothing(predictor: Predictor, detector: Detector) -> None:
    expected = predictor.predict(picture(0), NAMES, score=0.0)
    assert detector.config.localizer.dropout > 0
    detector.train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    for options in ({}, {"score_all_boxes": True}):
        found = predictor.predict(picture(0), NAMES, score=0.0, **options)  # type: ignore[call-overload]
        assert_equal(found, expected if not options else predictor.predict(picture(0), NAMES, score=0.0, **options))
    assert detector.training
    assert detector.localizer.training
    for name, value in detector.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_several_threads_get_what_one_gets(predictor: Predictor) -> None:
    images = [picture(seed) for seed in range(6)]
    expected = [predictor.predict(image, NAMES, score=0.0) for image in images]
    fresh = Predictor(copy.deepcopy(predictor.detector).train())
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda image: fresh.predict(image, NAMES, score=0.0), images))
    for mine, other in zip(found, expected, strict=True):
        assert_equal(mine, other)
    assert fresh.detector.training


def test_one_object_gets_one_name(predictor: Predictor) -> None:
    plain = predictor.predict(picture(0), NAMES, score=0.0)
    agnostic = predictor.predict(picture(0), NAMES, score=0.0, class_agnostic=True, nms_iou=0.4)
    assert _overlaps(plain, 0.4)
    assert not _overlaps(agnostic, 0.4)
    every = predictor.predict(picture(0), NAMES, score=0.0, nms_iou=1.0, max_detections=10_000)
    kept = nms(every.boxes_xyxy_px, every.scores, 0.4)
    torch.testing.assert_close(agnostic.scores, every.scores[kept])


def test_one_object_gets_one_name_in_tiles(predictor: Predictor) -> None:
    tiles = Tiles(count=(2, 2))
    assert _overlaps(predictor.predict(picture(0), NAMES, score=0.0, tiles=tiles), 0.5)
    found = predictor.predict(
        picture(0), NAMES, score=0.0, tiles=tiles, class_agnostic=True, nms_iou=0.5, max_detections=6
    )
    assert 0 < len(found) <= 6
    assert not _overlaps(found, 0.5)


def _overlaps(found: Detections, iou: float) -> bool:
    overlap: Tensor = box_iou(found.boxes_xyxy_px, found.boxes_xyxy_px)
    return bool(((overlap > iou + 1e-6) & ~torch.eye(len(found), dtype=torch.bool)).any())


def test_a_preprocessor_and_a_precision_of_ones_own_leave_the_network_alone(predictor: Predictor) -> None:
    network, before = predictor.detector, predictor.detector.config
    other = predictor.with_postprocess(precision="bfloat16", exact_boxes=0, max_scored_boxes=0)
    assert (other.precision, other.config.postprocess.exact_boxes) == ("bfloat16", 0)
    assert other.detector.localizer is network.localizer
    predictor.precision = "bfloat16"
    assert (predictor.precision, network.precision) == ("bfloat16", "float32")
    with pytest.raises(CoraError, match="precision: expected one of"):
        predictor.precision = "int4"  # type: ignore[assignment]
    predictor.preprocessor = type(network.preprocessor)(short_side=32, long_side=64)
    assert network.preprocessor.config.short_side != 32
    assert network.config is before


@pytest.mark.parametrize("move", [torch.nn.Module.half, torch.nn.Module.bfloat16, torch.nn.Module.double])
def test_weights_of_another_type_are_refused_in_one_line(predictor: Predictor, move: Any) -> None:
    moved = move(copy.deepcopy(predictor))
    assert isinstance(moved, Predictor)
    with pytest.raises(ModelError, match=r"weights in float32, got \w+; call \.float\(\)") as error:
        moved.predict(picture(0), NAMES)
    assert "\n" not in str(error.value)
    assert len(moved.float().predict(picture(0), NAMES, score=0.0)) > 0
    assert len(predictor.predict(picture(0), NAMES, score=0.0)) > 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory as Linux tells it")
def test_an_iterator_of_large_images_takes_no_more_memory(predictor: Predictor) -> None:
    def resident_mib() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def source() -> Iterator[np.ndarray[Any, Any]]:
        for seed in range(120):
            yield np.full((1000, 1400, 3), seed, dtype=np.uint8)

    kept, early = [], 0.0
    for number, found in enumerate(predictor.predict(source(), NAMES), start=1):
        kept.append(found)
        early = resident_mib() if number == 20 else early
    assert len(kept) == 120
    assert resident_mib() - early < 150  # the hundred images behind that would be 400 MiB


def test_loading_bounds_kept_kernels_unless_the_user_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNEL_VARIABLE, "99")
    cora.load("nano")
    assert os.environ[KERNEL_VARIABLE] == "99"
    monkeypatch.delenv(KERNEL_VARIABLE)
    cora.load("nano")
    assert os.environ[KERNEL_VARIABLE] == KERNELS
