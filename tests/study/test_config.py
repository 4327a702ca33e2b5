"""Settings and files of a study: they come back as they were, and say what is wrong with them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cora.detector import Detector, new_detector
from cora.errors import DataError, ModelError
from cora.study.artefact import TrainedStudy, read_study
from cora.study.build import build_frozen, build_model
from cora.study.config import LossPart, StudyConfig, TowerPart, TrainPart, read_config
from tests.study.conftest import CONFIG


def test_settings_survive_a_file(tmp_path: Path) -> None:
    config = replace(CONFIG, tower=replace(CONFIG.tower, name="ViT-B-32", checkpoint="RemoteCLIP-ViT-B-32.pt"))
    file = tmp_path / "study.json"
    file.write_text(json.dumps(config.to_dict()))
    assert read_config(file) == config
    file.write_text('{"tower": {"name": "RN50"}}')
    assert read_config(file) == StudyConfig(tower=TowerPart(name="RN50"))


def test_yaml_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "tower:\n  name: ViT-B-32  # as RemoteCLIP\n  checkpoint: RemoteCLIP-ViT-B-32.pt\n"
        "train: {lr: 1e-3, weight_decay: 5.0e-05, epochs: 3}\nloss:\n  radius: 2\n"
    )
    expected = {
        "tower": {"name": "ViT-B-32", "checkpoint": "RemoteCLIP-ViT-B-32.pt"},
        "train": {"lr": 1e-3, "weight_decay": 5e-5, "epochs": 3},
        "loss": {"radius": 2},
    }
    (tmp_path / "study.json").write_text(json.dumps(expected))
    assert read_config(file) == read_config(tmp_path / "study.json")
    for content, message in (("a: [1", "expected a YAML file"), ("- 1", "got a list"), ("loss: {raduis: 1}", "raduis")):
        file.write_text(content)
        with pytest.raises(DataError, match=message) as raised:
            read_config(file)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "could not read it"),
        ("[1]", "expected an object with tower, model, loss, train, got a list"),
        ('{"head": {}}', "study: expected settings of loss, model, tower, train, got head"),
        ('{"loss": {"raduis": 1}}', "loss: expected settings of giou, l1, radius, threshold, got raduis"),
        ('{"loss": 3}', "loss: expected an object of settings, got a number"),
        ('{"loss": {"radius": "a"}}', "loss.radius: expected a value like 1, got 'a'"),
        ('{"train": {"batch": 2.5}}', "train.batch: expected a value like 16, got 2.5"),
        ('{"tower": {"sharpened": 1}}', "tower.sharpened: expected a value like True, got 1"),
        ('{"tower": {"checkpoint": 3}}', "tower.checkpoint: expected a value like None, got 3"),
        ('{"tower": {"image_size": 224}}', r"tower.image_size: expected \(height, width\).*got 224"),
        ('{"tower": {"image_size": [0, 4]}}', r"got \[0, 4\]"),
        ('{"model": {"hidden": 12}}', "model.hidden: expected a multiple of 8, got 12"),
        ('{"loss": {"threshold": 1.5}}', r"loss.threshold: expected a number in 0..1, got 1.5"),
        ('{"loss": {"l1": 0, "giou": 0}}', "loss.l1 and loss.giou: expected weights"),
        ('{"train": {"epochs": 0}}', "train.epochs: expected 1 or more, got 0"),
        ('{"train": {"lr": 0}}', "train.lr: expected a number above 0, got 0"),
        ('{"tower": {"layers": 0}}', "tower.layers: expected 1 or more, got 0"),
        ('{"loss": {"radius": -1}}', "loss.radius: expected 0 or more, got -1"),
    ],
)
def test_bad_settings(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "study.json"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        read_config(file)


def test_no_file_of_settings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.json: expected a JSON file with the settings of a study"):
        read_config(tmp_path / "gone.json")


def make_study() -> TrainedStudy:
    model = build_model(CONFIG.model, feature_width=12, seed=3, prior_wh=(0.1, 0.4))
    return TrainedStudy(config=CONFIG, model=model, class_names=("cat", "traffic light"))


def test_a_study_survives_a_file(tmp_path: Path) -> None:
    study = make_study()
    study.write(tmp_path / "study.safetensors")
    back = read_study(tmp_path / "study.safetensors")
    assert back.config == CONFIG
    assert back.class_names == study.class_names
    own = study.model.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in back.model.state_dict().items())
    assert not back.model.training


def spoilt(study: TrainedStudy, path: Path, kind: str) -> None:
    metadata: dict[str, Any] = {"format": "cora-study", "config": json.dumps(CONFIG.to_dict()), "class_names": "[]"}
    tensors = study.model.state_dict()
    if kind == "text":
        path.write_text("no tensors")
        return
    if kind == "other":
        metadata["format"] = "cora-detector"
    elif kind == "lacking":
        del tensors["head.sides.bias"]
    elif kind == "no config":
        del metadata["config"]
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "could not read it"),
        ("other", "got another kind of file"),
        ("lacking", "got 1 missing and 0 unknown, for example head.sides.bias"),
        ("no config", "could not read it"),
    ],
)
def test_bad_files(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "study.safetensors"
    spoilt(make_study(), path, kind)
    with pytest.raises(ModelError, match=message):
        read_study(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a file that 'cora study train' wrote, got none"):
        read_study(tmp_path / "gone.safetensors")


@pytest.fixture
def resnet(detector: Detector, tmp_path: Path) -> str:
    """File of a detector on a CLIP ResNet with 2 blocks in layer4."""
    detector.save(tmp_path / "resnet.safetensors")
    return str(tmp_path / "resnet.safetensors")


def test_a_detectors_own_tower(resnet: str) -> None:
    part = TowerPart(name=resnet)
    frozen = build_frozen(part)
    assert frozen.tower.stride == 32
    assert frozen.tower.feature_width == 128
    frozen.check(part.image_size)
    with pytest.raises(ModelError, match="expected 1 to 2 layers, the blocks of the tower's layer4, got 9"):
        build_frozen(replace(part, layers=9))


def test_the_default_tower_is_a_clip_resnet() -> None:
    assert "attnpool.v_proj.weight" in new_detector(TowerPart().name, pretrained=None).image_tower.net.state_dict()


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        (
            TowerPart(checkpoint="x.pt"),
            DataError,
            "expected a ViT of open_clip to load x.pt into, got the tower 'RN50-quickgelu'",
        ),
        (TowerPart(name="nano"), ModelError, "activation maps: expected a model whose image tower is a CLIP ResNet"),
        (TowerPart(name="nona"), ModelError, "unknown model 'nona'"),
        (TowerPart(name="ViT-B-32", checkpoint="gone.pt"), ModelError, "gone.pt: expected an existing file"),
    ],
)
def test_bad_towers(part: TowerPart, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_frozen(part)


def test_defaults_are_sound() -> None:
    config = StudyConfig()
    assert config == StudyConfig.from_dict(config.to_dict())
    assert config.train == TrainPart()
    assert config.loss == LossPart()
