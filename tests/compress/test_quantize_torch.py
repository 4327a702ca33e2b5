"""INT8 layers by torchao: what becomes INT8, how close it stays, what is stored and refused."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cora.compress.quantize_torch import (
    Int8Detector,
    int8_layers,
    is_int8_file,
    load_int8,
    quantize_detector,
)
from cora.detector import Detector
from cora.errors import MissingExtraError, ModelError
from cora.predictor import Predictor
from tests.detector.conftest import tiny_detector

pytestmark = pytest.mark.integration

NAMES = ["cat", "dog", "bus"]


def photo(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 72))


@pytest.fixture
def detector(tmp_path: Path) -> Detector:
    return tiny_detector(tmp_path / "cache")


def quantized(detector: Detector, mode: str) -> Int8Detector:
    vocabulary = detector.vocabulary_encoder.encode(NAMES)
    pictures = [photo(1), photo(2)]
    return quantize_detector(detector, mode=mode, vocabulary=vocabulary, calibration=pictures)  # type: ignore[arg-type]


def test_layers_that_read_coordinates_or_are_not_called_stay_float(detector: Detector) -> None:
    names = set(int8_layers(detector))
    assert "text_tower.net.token_embedding" in names
    assert "localizer.encoder.layers.0.attention.query" in names
    assert "localizer.decoder.layers.1.cross_attention.value" in names
    assert "text_tower.net.transformer.resblocks.0.mlp.c_fc" in names
    float_parts = ("box_heads", "objectness_head", "anchor_size", "query_position", "attnpool", "out_proj", "conv")
    assert not [name for name in names for part in float_parts if part in name]


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_weights_are_int8_and_within_half_a_step(detector: Detector, mode: str) -> None:
    model = quantized(detector, mode)
    state, plain = model.state_dict(), detector.state_dict()
    names = [f"{name}.weight" for name in int8_layers(detector)]
    for name in names:
        assert state[name].dtype == torch.int8
        scale = state[f"{name}_scale"]
        error = (state[name].float() * scale - plain[name]).abs()
        assert bool((error <= 0.501 * scale).all())
    untouched = plain.keys() - set(names)
    assert all(torch.equal(state[name], plain[name]) for name in untouched)


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_outputs_stay_close_and_the_original_stays_as_it_is(detector: Detector, mode: str) -> None:
    before = copy.deepcopy(detector.state_dict())
    model = quantized(detector, mode)
    batch = detector.preprocessor([photo(1)])
    vocabulary = detector.vocabulary_encoder.encode(NAMES)
    with torch.inference_mode():
        float_memory = detector.encode_map(detector.encode(batch)[0]).tokens
        memory = model.encode_map(model.encode(batch)[0]).tokens
        assert not torch.equal(memory, float_memory)
        assert float((memory - float_memory).norm() / float_memory.norm()) < 0.05
        cosines = (model.vocabulary_encoder.encode(NAMES).embeddings * vocabulary.embeddings).sum(dim=1)
        assert bool((cosines > 0.99).all())
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_static_scales_come_from_calibration(detector: Detector) -> None:
    model = quantized(detector, "static")
    scale = model.state_dict()["localizer.encoder.layers.0.attention.value.weight_input_scale"]
    largest = []
    with torch.inference_mode():
        for seed in (1, 2):
            c3, _ = detector.encode(detector.preprocessor([photo(seed)]))
            largest.append(float(detector.localizer.input_projection(c3.features).abs().max()))
    assert float(scale) == pytest.approx(max(largest) / 127, rel=1e-4)
    assert not [name for name in quantized(detector, "dynamic").state_dict() if name.endswith("input_scale")]


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_a_saved_model_loads_bit_for_bit(detector: Detector, mode: str, tmp_path: Path) -> None:
    model = quantized(detector, mode)
    path = tmp_path / "int8.safetensors"
    model.save(path, dtype=torch.float32)
    loaded = load_int8(path)
    assert loaded.mode == mode
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    expected, found = (Predictor(one).predict(photo(3), NAMES, score=0.0) for one in (model, loaded))
    assert len(expected) > 0
    assert torch.equal(found.boxes_xyxy_px, expected.boxes_xyxy_px)
    assert torch.equal(found.scores, expected.scores)


def test_the_file_is_smaller_by_three_bytes_a_weight(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "float.safetensors", dtype=torch.float32)
    quantized(detector, "dynamic").save(tmp_path / "int8.safetensors", dtype=torch.float32)
    sizes = [
        sum(v.nbytes for v in load_file(tmp_path / name).values()) for name in ("float.safetensors", "int8.safetensors")
    ]
    layers = int8_layers(detector).values()
    scales = sum(4 * layer.weight.shape[0] for layer in layers)
    assert sizes[0] - sizes[1] == 3 * sum(layer.weight.numel() for layer in layers) - scales


def test_files_are_told_apart(detector: Detector, tmp_path: Path) -> None:
    plain, int8, other = (tmp_path / f"{name}.safetensors" for name in ("plain", "int8", "other"))
    detector.save(plain)
    quantized(detector, "dynamic").save(int8)
    other.write_text("no tensors")
    assert [is_int8_file(path) for path in (plain, int8, other, tmp_path / "missing")] == [False, True, False, False]


def change(
    path: Path, *, metadata: dict[str, str] | None = None, drop: str = "", rename: tuple[str, str] = ("", "")
) -> None:
    with safe_open(str(path), framework="pt") as content:
        facts = content.metadata() | (metadata or {})
    tensors = {name: value for name, value in load_file(path).items() if name != drop}
    if rename[0]:
        tensors[rename[1]] = tensors.pop(rename[0])
    save_file(tensors, path, metadata=facts)


_SCALE = "localizer.encoder.layers.0.attention.query.weight_scale"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"metadata": {"version": "99"}}, "expected an INT8 model of format version 1, got cora-detector-int8 99"),
        ({"metadata": {"format": "cora-detector"}}, "got cora-detector 1; make it again"),
        (
            {"rename": (_SCALE, "localizer.objectness_head.weight_scale")},
            "got 1 unknown, for example localizer.objectness",
        ),
        ({"drop": "localizer.objectness_head.bias"}, "got 1 missing and 0 unknown"),
        ({"drop": _SCALE.removesuffix("_scale")}, "expected an INT8 weight and its scale for each layer"),
    ],
)
def test_faulty_files_are_refused(detector: Detector, tmp_path: Path, fault: dict[str, object], message: str) -> None:
    path = tmp_path / "int8.safetensors"
    quantized(detector, "dynamic").save(path)
    change(path, **fault)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=message):
        load_int8(path)


def test_what_is_no_file_of_tensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected an existing file, got none"):
        load_int8(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ModelError, match="expected a file of `cora quantize`, could not read it"):
        load_int8(tmp_path / "text.safetensors")


def test_static_needs_pictures_and_names(detector: Detector) -> None:
    vocabulary = detector.vocabulary_encoder.encode(NAMES)
    with pytest.raises(ModelError, match="expected images to calibrate with, got none"):
        quantize_detector(detector, mode="static", vocabulary=vocabulary)
    with pytest.raises(ModelError, match="expected a vocabulary to calibrate with, got none"):
        quantize_detector(detector, mode="static", calibration=[photo(1)])


def test_without_torchao_the_extra_is_named(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(MissingExtraError, match=r"cora-ovd\[quantize\]"):
        quantized(detector, "dynamic")


def test_a_state_dict_is_read_in_inference_mode_and_of_a_copy(detector: Detector) -> None:
    model = quantized(detector, "static")
    with torch.inference_mode():
        found = model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())
    other = copy.deepcopy(model)
    with torch.no_grad():
        name = next(iter(int8_layers(detector)))
        other.get_submodule(name).weight.qdata.zero_()  # type: ignore[union-attr, operator]
    assert not bool(other.state_dict()[f"{name}.weight"].any())
    assert bool(model.state_dict()[f"{name}.weight"].any())


def test_embeddings_are_cached_under_a_name_of_their_own(detector: Detector) -> None:
    model = quantized(detector, "dynamic")
    assert model.text_tower.fingerprint != detector.text_tower.fingerprint
    assert model.vocabulary_encoder.cache_dir == detector.vocabulary_encoder.cache_dir
