"""`cora evaluate` and `cora region-accuracy` from the command line, with a tiny random model."""

import json

import pytest
import torch

import cora
from cora.apps.cli import main
from cora.apps.measure import fingerprint
from cora.detector import Detector, DetectorConfig
from cora.localizer import LocalizerConfig
from cora.towers import TowerConfig
from tests.evaluation.coco_data import CLASSES, ground_truth, write_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    tower = TowerConfig(
        layers=(1, 1, 1, 1), width=8, image_size=64, embed_dim=16, text_width=16, text_heads=2, text_layers=1,
        context_length=16, vocab_size=1000, templates="plain",
    )  # fmt: skip
    localizer = LocalizerConfig(
        c3_channels=128,
        embed_dim=16,
        dim=16,
        heads=2,
        ff=16,
        enc_layers=1,
        dec_layers=1,
        num_queries=9,
    )
    return Detector.build(
        DetectorConfig(tower=tower, localizer=localizer), cache_dir=tmp_path_factory.mktemp("cache")
    ).eval()


@pytest.fixture
def loaded(monkeypatch, model):
    monkeypatch.setattr(cora, "load", lambda name: model)
    return model


@pytest.fixture
def arguments(tmp_path):
    images, annotations = write_folder(tmp_path, ground_truth(images=4, seed=1))
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"base": ["cat", "dog"], "novel": ["bus"]}), encoding="utf-8")
    return [
        "--images",
        str(images),
        "--annotations",
        str(annotations),
        "--split",
        str(split),
        "--resamples",
        "20",
    ]


def test_evaluate_with_synonyms_writes_everything(arguments, tmp_path, capsys, loaded):
    out = tmp_path / "report.json"
    weights = tmp_path / "weights.json"
    weights.write_text('{"bus": 8}', encoding="utf-8")
    options = ["--rename", "coco", "--class-weights", str(weights), "--device", "cpu", "--json", str(out)]
    assert main(["evaluate", *arguments, *options]) == 0
    printed = capsys.readouterr().out
    for word in ("novel", "base", "all", "AP50", "renamed classes only"):
        assert word in printed
    report = json.loads(out.read_text(encoding="utf-8"))
    assert set(report["groups"]) == {"novel", "base", "all"}
    assert report["class_weights"] == {"bus": 8.0}
    assert report["model"]["fingerprint"] == fingerprint(loaded)
    assert report["vocabulary"] == list(CLASSES)
    assert report["images"] == 4
    assert report["synonyms"]["renamed"] == {"cat": "kitten", "dog": "puppy", "bus": "motorcoach"}


def test_region_accuracy_writes_everything(arguments, tmp_path, capsys, loaded):
    out = tmp_path / "report.json"
    assert main(["region-accuracy", *arguments, "--limit", "3", "--device", "cpu", "--json", str(out)]) == 0
    assert "no prompt" in capsys.readouterr().out
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["images"] == 3
    assert report["accuracy"]["prompt"]["all"]["all"]["boxes"] == report["boxes"]
    assert set(report["classes"]) == set(CLASSES)


@pytest.mark.parametrize("command", ["evaluate", "region-accuracy"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--annotations", "none.json", "no annotation file"),
        ("--images", "nowhere", "missing"),
        ("--split", "none.json", "no class split"),
        ("--split", '{"base": ["cat", "zebra", "yak"], "novel": []}', "lacks 2 of the 3 classes"),
        ("--device", "abacus", "expected a device"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(arguments, tmp_path, capsys, command, option, value, message):
    if value.startswith("{"):
        path = tmp_path / "bad.json"
        path.write_text(value, encoding="utf-8")
        value = str(path)
    assert main([command, *arguments, option, value, "--json", str(tmp_path / "report.json")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("value", ["0", "x", "-3"])
def test_a_bad_limit_is_refused(arguments, capsys, value):
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", *arguments, f"--limit={value}"])
    assert "expected a whole number of 1 or more" in capsys.readouterr().err


def test_fingerprint_depends_on_the_weights():
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert fingerprint(one) == fingerprint(one)
    assert fingerprint(one) != fingerprint(other)
