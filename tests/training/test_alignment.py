"""Fitting the fast alignment of a detector: fast scores come nearer to exact ones, and nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import cora
from cora.apps.cli import main
from cora.compress.quantize_float import FloatWeights
from cora.detector import Detector, DetectorConfig
from cora.detector.fingerprint import weights_fingerprint
from cora.detector.variants import without_prompt
from cora.errors import TrainingError
from cora.predictor import Predictor
from cora.regions import FastAlignment
from cora.retrieval.identity import model_identity
from cora.training import alignment
from cora.training.alignment import cosine_to_exact, fit_alignment
from tests.detector.conftest import tiny_detector
from tests.predictor.test_inference import NAMES, picture, postprocessing


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return tiny_detector(tmp_path / "cache")


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    return [picture(seed) for seed in range(40)]


def test_it_brings_fast_embeddings_nearer_on_new_photos(detector: Detector, photos: list[Image.Image]) -> None:
    vocabulary, new = Predictor(detector).vocabulary(NAMES), [picture(seed) for seed in range(100, 110)]
    before = cosine_to_exact(detector, new, vocabulary)
    detector.train()
    fit_alignment(detector, photos, vocabulary)
    assert detector.training  # as it was found
    assert cosine_to_exact(detector, new, vocabulary) > before + 0.2 * (1 - before)


def test_it_changes_scores_of_boxes_that_are_not_pooled_exactly_and_nothing_else(
    detector: Detector, photos: list[Image.Image]
) -> None:
    some, vocabulary = postprocessing(detector, exact_boxes=3), Predictor(detector).vocabulary(NAMES)
    batch = some.preprocessor([picture(77)])
    with torch.inference_mode():
        plain, exact = some(batch, vocabulary), postprocessing(some, exact_boxes=0)(batch, vocabulary)
        fit_alignment(some, photos, vocabulary)
        aligned, still = some(batch, vocabulary), postprocessing(some, exact_boxes=0)(batch, vocabulary)
    assert torch.equal(aligned.boxes_cxcywh, plain.boxes_cxcywh)  # pre-matching is as published
    assert torch.equal(still.scores, exact.scores)
    off = [(each.probabilities - exact.probabilities).abs().mean() for each in (plain, aligned)]
    assert 0 < off[1] < 0.9 * off[0]


def test_files_keep_it_and_files_without_it_stay_readable(
    detector: Detector, photos: list[Image.Image], tmp_path: Path
) -> None:
    assert "fast_alignment" not in detector.config.to_dict()
    fit_alignment(detector, photos[:3], Predictor(detector).vocabulary(NAMES))
    detector.save(tmp_path / "aligned.safetensors", dtype=torch.float32)
    loaded = cora.load(tmp_path / "aligned.safetensors")
    assert loaded.fast_alignment is not None
    assert DetectorConfig.from_dict(loaded.config.to_dict()) == loaded.config
    for name, value in detector.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    loaded.align_fast_pooling(None)
    loaded.save(tmp_path / "plain.safetensors")
    assert cora.load(tmp_path / "plain.safetensors").fast_alignment is None


def test_a_detector_without_prompt_has_none(detector: Detector, photos: list[Image.Image]) -> None:
    fit_alignment(detector, photos[:3], Predictor(detector).vocabulary(NAMES))
    bare = without_prompt(detector)
    assert bare.fast_alignment is None
    assert not bare.config.fast_alignment
    assert detector.fast_alignment is not None


def test_an_aligned_detector_takes_weights_and_gradients(detector: Detector, photos: list[Image.Image]) -> None:
    fit_alignment(detector, photos[:3], Predictor(detector).vocabulary(NAMES))
    detector.load_state_dict(detector.state_dict())
    detector.prompt.requires_grad_(True)
    _, c4 = detector.encode(detector.preprocessor([photos[0]]))
    detector.embed_aligned(detector.prepare_fast_pooling(c4), torch.tensor([[[0.5, 0.5, 0.4, 0.4]]])).sum().backward()
    assert detector.prompt.offset.grad is not None
    assert bool(detector.prompt.offset.grad.any())


def test_an_alignment_of_another_width_is_refused(detector: Detector) -> None:
    with pytest.raises(ValueError, match="width 32, got 16"):
        detector.align_fast_pooling(FastAlignment(embed_dim=16))
    assert detector.fast_alignment is None


def test_it_is_not_part_of_what_an_index_is_held_against(detector: Detector, photos: list[Image.Image]) -> None:
    before, weights = model_identity(detector), weights_fingerprint(detector)
    fit_alignment(detector, photos[:3], Predictor(detector).vocabulary(NAMES))
    assert model_identity(detector) == before
    assert weights_fingerprint(detector) != weights


def test_int8_keeps_it_float(detector: Detector, photos: list[Image.Image]) -> None:
    fit_alignment(detector, photos[:3], Predictor(detector).vocabulary(NAMES))
    assert detector.fast_alignment is not None
    weight = detector.fast_alignment.shift.weight.numpy()
    assert weight in FloatWeights(detector)
    detector.align_fast_pooling(None)
    assert weight not in FloatWeights(detector)


def test_no_photo_is_an_error(detector: Detector) -> None:
    with pytest.raises(TrainingError, match="at least one image"):
        fit_alignment(detector, [], Predictor(detector).vocabulary(NAMES))
    with pytest.raises(TrainingError, match="at least one image"):
        cosine_to_exact(detector, [], Predictor(detector).vocabulary(NAMES))


def test_only_a_detector_that_has_one_is_fitted_again(
    detector: Detector, photos: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def reading(place: int) -> Image.Image:
        read.append(place)
        return photos[place]

    monkeypatch.setattr(alignment, "REFIT_IMAGES", 3)
    alignment.refit_alignment(detector, reading, 7, Predictor(detector).vocabulary(NAMES))
    assert read == []
    assert detector.fast_alignment is None
    detector.align_fast_pooling(FastAlignment(embed_dim=32))
    alignment.refit_alignment(detector, reading, 7, Predictor(detector).vocabulary(NAMES))
    assert read == [0, 2, 4]
    assert bool(detector.fast_alignment.shift.weight.any())


@pytest.fixture
def folder(detector: Detector, photos: list[Image.Image], tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number, photo in enumerate(photos[:20]):
        photo.save(tmp_path / "photos" / f"{number:02}.png")
    detector.config = replace(detector.config, postprocess=replace(detector.config.postprocess, exact_boxes=5))
    detector.save(tmp_path / "plain.safetensors")
    postprocessing(detector, exact_boxes=0).save(tmp_path / "every.safetensors")
    return tmp_path


@pytest.mark.slow
def test_the_command_fits_measures_and_writes(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    boxes = {
        "images": [{"id": n, "file_name": f"{n:02}.png", "width": 100, "height": 80} for n in range(20)],
        "annotations": [
            {"id": n + 1, "image_id": n, "category_id": 1, "bbox": [10, 10, 60, 50], "area": 3000, "iscrowd": 0}
            for n in range(20)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    Path("boxes.json").write_text(json.dumps(boxes), encoding="utf-8")
    command = ["align", "--model", "plain.safetensors", "--images", "photos", "--output", "aligned.safetensors"]
    measured = ["--val-images", "photos", "--val-annotations", "boxes.json", "--json", "numbers.json"]
    assert main([*command, *measured, "--exact-boxes", "2", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    for word in ("Fitted to 18 images", "on 2 other images", "all boxes exactly", "AP50 all", "Wrote"):
        assert word in out
    aligned = cora.load("aligned.safetensors")
    assert aligned.fast_alignment is not None
    assert aligned.config.postprocess.exact_boxes == 2
    numbers = json.loads(Path("numbers.json").read_text(encoding="utf-8"))
    assert numbers["cosine"]["after"] > numbers["cosine"]["before"]
    assert set(numbers["scores"]) == {"all boxes exactly", "before", "after"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--images", "nowhere"], "no file at"),
        (["--output", "aligned.pt"], "*.safetensors"),
        (["--exact-boxes", "0"], "1 or more"),
        (["--val-images", "photos"], "together"),
        (["--model", "model.onnx"], "exported"),
        (["--model", "every.safetensors"], "expected --exact-boxes"),
        (["--classes", "cat, cat"], "cat"),
    ],
)
def test_bad_input_is_told_and_nothing_written(
    wrong: list[str],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    try:
        code = main(
            ["align", "--model", "plain.safetensors", "--images", "photos", "--output", "new.safetensors", *wrong]
        )
    except SystemExit as stop:  # argparse's own refusals
        code = int(stop.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before
