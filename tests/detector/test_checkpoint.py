"""One artefact: what is saved comes back, what does not fit is refused in one line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import cora
from cora.detector import (
    Detector,
    DetectorConfig,
    PostprocessConfig,
    known_models,
    load,
    new_detector,
    preset_config,
    presets,
)
from cora.detector.checkpoint import read_checkpoint
from cora.errors import ModelError
from cora.regions import LearnedTextConfig


def resave(file: Path, *, drop: str | None = None, reshape: str | None = None, **metadata: str) -> None:
    """Write a checkpoint again with a tensor left out or cut, or other metadata."""
    config, tensors = read_checkpoint(file)
    if drop:
        del tensors[drop]
    if reshape:
        tensors[reshape] = tensors[reshape][:-1].clone()
    entries = {"format": "cora-detector", "version": "1", "config": json.dumps(config.to_dict()), **metadata}
    save_file(tensors, file, metadata=entries)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_round_trip(detector: Detector, tmp_path: Path, dtype: torch.dtype) -> None:
    file = tmp_path / "new" / "model.safetensors"
    detector.save(file, dtype=dtype)
    loaded = load(file)
    assert loaded.config == detector.config
    assert not loaded.training
    assert {value.dtype for value in load_file(file).values() if value.is_floating_point()} == {dtype}
    for name, value in detector.state_dict().items():
        stored = value.to(dtype).to(value.dtype) if value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[name], stored), name
    assert [entry.name for entry in file.parent.iterdir()] == ["model.safetensors"]


def test_the_package_offers_its_names_late() -> None:
    assert cora.Detector is Detector
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cora.nonsense  # noqa: B018


def test_config_survives_json() -> None:
    config = preset_config("RN50x4-quickgelu")
    assert DetectorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.localizer.embed_dim == config.tower.embed_dim == 640
    with pytest.raises(ModelError, match=r"LocalizerConfig expected .*got wings"):
        DetectorConfig.from_dict({"localizer": {"wings": 2}})
    with pytest.raises(ModelError, match=r"nms_iou: expected 0..1, got 7"):
        DetectorConfig.from_dict({"postprocess": {"nms_iou": 7}})


def test_a_refinement_is_in_the_config_of_models_that_have_one() -> None:
    plain = DetectorConfig()
    assert "refinement" not in plain.to_dict()["localizer"]  # earlier versions refuse unknown sizes
    refined = replace(plain, localizer=replace(plain.localizer, refinement=8))
    assert DetectorConfig.from_dict(json.loads(json.dumps(refined.to_dict()))) == refined
    for wrong in (-1, 1.5, "8"):
        with pytest.raises(ModelError, match=f"localizer refinement: expected .*got {wrong!r}"):
            replace(plain.localizer, refinement=wrong)


def test_names_of_fine_tuning_are_in_the_config_and_older_files_have_them_in_their_offsets() -> None:
    plain = DetectorConfig()
    assert plain.own_names == ()
    assert not {"class_names", "untrained"} & plain.to_dict().keys()
    assert "builtin_threshold" not in plain.to_dict()["postprocess"]  # read by earlier versions, too
    own = replace(plain, class_names=("RBC", "WBC"), postprocess=PostprocessConfig(builtin_threshold=0.05))
    again = DetectorConfig.from_dict(json.loads(json.dumps(own.to_dict())))
    assert again == own
    assert again.own_names == ("RBC", "WBC")
    width = plain.tower.embed_dim
    older = replace(plain, text=LearnedTextConfig(kind="offsets", width=width, names=("crack",)))
    assert older.own_names == ("crack",)
    assert replace(older, class_names=("RBC",)).own_names == ("RBC",)
    mapped = replace(plain, text=LearnedTextConfig(kind="offsets", width=width, rank=4, names=("cat",)))
    assert mapped.own_names == ()  # of `cora text-prompts`, which is for any name
    for wrong in ("RBC", [1], 3):
        with pytest.raises(ModelError, match="class_names: expected a list of names"):
            DetectorConfig.from_dict({"class_names": wrong})


def test_files_that_do_not_fit(detector: Detector, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    detector.save(file)
    resave(file, reshape="prompt.offset")
    with pytest.raises(ModelError, match=r"prompt.offset: expected \[5, 256\], got \[4, 256\]"):
        load(file)
    detector.save(file)
    resave(file, drop="prompt.offset")
    with pytest.raises(ModelError, match=r"1 missing and 0 unknown, for example prompt.offset"):
        load(file)
    detector.save(file)
    resave(file, version="99")
    with pytest.raises(ModelError, match="format version 1, got 99"):
        load(file)
    save_file({"weight": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="cora convert"):
        load(file)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="got a file of another kind; name a model file") as raised:
        load(file)
    assert "\n" not in str(raised.value)


def test_unknown_models_list_the_known(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"unknown model 'nanu': expected one of nano, nano-ovcoco, RN50, .*path of a file"
    ):
        load("nanu")
    with pytest.raises(ModelError, match="expected an existing file, got none"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="expected an existing file, got none"):
        load("none.safetensors")
    assert known_models()[:2] == ["nano", "nano-ovcoco"]


@pytest.mark.parametrize("name", ["nano", "nano-ovcoco"])
def test_missing_asset_is_a_clear_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "_assets", lambda: tmp_path)
    with pytest.raises(ModelError, match=rf"model '{name}': expected the file {name}.safetensors in the package"):
        load(name)


def test_weights_that_cannot_be_stored(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="expected to write"):
        detector.save(tmp_path / "file" / "model.safetensors")
    with pytest.raises(ModelError, match=r"float16 or float32, got torch.int8"):
        detector.save(tmp_path / "model.safetensors", dtype=torch.int8)
    with torch.no_grad():
        detector.prompt.offset.fill_(1e6)
    with pytest.raises(ModelError, match=r"prompt.offset is not in torch.float16; save as float32"):
        detector.save(tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


def test_new_detector_has_the_published_sizes() -> None:
    config = preset_config("RN50-quickgelu")
    assert (
        config.localizer.num_queries,
        config.localizer.enc_layers,
        config.localizer.dec_layers,
    ) == (
        1000,
        3,
        6,
    )
    with pytest.raises(ModelError, match="unknown tower"):
        new_detector("nonsense", pretrained=None)
