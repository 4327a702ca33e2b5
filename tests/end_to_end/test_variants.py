"""The paper's comparisons through the command line: trained, saved, loaded as what they are, and measured."""

import json
import shlex
import typing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cora
from cora.apps.cli import main
from cora.apps.train import VariantOptions
from cora.detector.config import VARIANT_NAMES
from cora.detector.variants import detector_class
from cora.errors import ModelError
from cora.training.defaults import default_recipe
from cora.training.override import override
from cora.training.recipe import TrainRecipe
from cora.training.variants import VARIANTS, VariantName
from tests.toy_nano import toy_nano, write_boxed_photos

pytestmark = pytest.mark.integration

NAMES = typing.get_args(VariantName)
#: Rows whose detector is CORA's own class: they differ in training, or in the prompt.
PLAIN = ("full", "no-prompt", "oracle")


@pytest.fixture(scope="module")
def data(boxed_photos: Path) -> list[str]:
    split = ["--split", str(boxed_photos / "split.json"), "--device", "cpu"]
    return ["--images", str(boxed_photos / "images"), "--annotations", str(boxed_photos / "annotations.json"), *split]


@pytest.fixture
def small_recipe() -> TrainRecipe:
    return default_recipe("nano", short_side=384)


@pytest.fixture(scope="module")
def trained(data: list[str], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model file of every variant."""
    folder, files = tmp_path_factory.mktemp("variants"), {}
    small = ["--epochs", "1", "--set", "data.versions=0", "--set", "localizer.task.denoising=None"]
    for name in NAMES:
        run = folder / name
        command = ["train", "localizer", *data, "--model", str(tiny_model), "--run", str(run), "--variant", name]
        assert main([*command, *small]) == 0
        files[name] = run / "model.safetensors"
    return files


def test_the_choices_are_the_rows_that_say_so() -> None:
    hint = typing.get_type_hints(VariantOptions)["variant"]
    (choices,) = (typing.get_args(part) for part in typing.get_args(hint) if part is not type(None))
    assert choices == NAMES
    said = [name for name, row in VARIANTS.items() if row.option == f"--variant {name}"]
    assert sorted(said) == sorted(set(NAMES) - {"full"})
    # Files know the detectors that are classes of their own.
    assert set(VARIANT_NAMES) - {""} == set(NAMES) - set(PLAIN)
    # Every other row is one option, too.
    assert {name: row.option for name, row in VARIANTS.items() if name not in NAMES} == {
        "no-class-dropout": "--set localizer.task.class_dropout=0",
        "no-relabelling": "--set relabel=None",
        "oracle-at-test": "cora evaluate --oracles",
        "no-denoising": "--set localizer.task.denoising=None",
        "one-to-one": "--set localizer.task.target_repeats=1",
        "two-layers": """--set 'localizer.architecture={"dec_layers": 2}'""",
        "deformable": """--set 'localizer.architecture={"cross_attention": "deformable"}'""",
        "two-deformable-layers": (
            """--set 'localizer.architecture={"cross_attention": "deformable", "dec_layers": 2}'"""
        ),
    }


def test_the_options_of_the_other_rows_make_them(small_recipe: TrainRecipe) -> None:
    for row in VARIANTS.values():
        if not row.option.startswith("--set localizer") and not row.option.startswith("--set 'localizer"):
            continue
        stage = override(small_recipe, shlex.split(row.option)[1:]).localizer
        assert stage is not None
        assert small_recipe.localizer is not None
        assert stage.task == replace(small_recipe.localizer.task, **row.settings)
        assert stage.architecture == row.architecture


@pytest.mark.parametrize("name", NAMES)
def test_a_file_loads_as_its_variant_and_is_measured(
    name: str, trained: dict[str, Path], data: list[str], tmp_path: Path
) -> None:
    loaded = cora.load(trained[name])
    assert type(loaded.detector) is detector_class("" if name in PLAIN else name)
    assert bool(loaded.detector.prompt.offset.any()) <= (name != "no-prompt")
    report = tmp_path / "ap.json"
    assert main(["evaluate", *data, "--model", str(trained[name]), "--resamples", "3", "--json", str(report)]) == 0
    assert json.loads(report.read_text())
    again = tmp_path / "again.safetensors"
    loaded.detector.save(again, dtype=torch.float32)
    other = cora.load(again).detector
    assert type(other) is type(loaded.detector)
    for (path, value), read in zip(loaded.detector.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, read), path


def test_what_runs_coras_own_steps_refuses_a_variant(
    trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = str(trained["conditional"]), str(tmp_path / "model.onnx")
    assert main(["export", "--format", "onnx", "--model", model, "--output", output]) == 2
    message = capsys.readouterr().err
    assert "export: expected CORA itself, got its variant 'conditional'" in message
    assert not Path(output).exists()


def test_groups_are_for_rows_that_match_as_cora_does(
    data: list[str], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "localizer", *data, "--model", str(tiny_model), "--run", str(tmp_path / "run")]
    assert main([*command, "--variant", "conditional", "--set", "localizer.groups=2"]) == 2
    assert "LocalizerStage with groups: expected variant to be one of full, no-prompt, crops" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_unknown_variant_in_a_file_is_refused(tiny_model: Path) -> None:
    config = cora.load(tiny_model).detector.config
    with pytest.raises(ModelError, match=r"variant: expected one of crops, .* got 'dreams'"):
        type(config).from_dict(config.to_dict() | {"variant": "dreams"})


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("full", "no-prompt", "crops")])
def test_models_that_propose_their_anchors_have_variants_too(name: str, tmp_path: Path) -> None:
    folder = write_boxed_photos(tmp_path / "kit")
    toy_nano(tmp_path / "cache", seed=1).save(tmp_path / "nano.safetensors")
    data = ["--images", str(folder / "images"), "--annotations", str(folder / "boxes.json"), "--device", "cpu"]
    command = [
        "train",
        "localizer",
        *data,
        "--model",
        str(tmp_path / "nano.safetensors"),
        "--run",
        str(tmp_path / "run"),
    ]
    settings = ["--epochs", "1", "--set", "localizer.batch=3", "--set", "localizer.task.proposals=False"]
    before = cora.load(tmp_path / "nano.safetensors").detector.localizer
    assert main([*command, *settings, "--variant", name]) == 0
    trained = cora.load(tmp_path / "run" / "model.safetensors").detector
    assert type(trained) is detector_class("" if name in PLAIN else name)
    assert main(["evaluate", *data, "--model", str(tmp_path / "run" / "model.safetensors"), "--resamples", "3"]) == 0
    # What proposes the anchors was to stay, and the decoder was to learn.
    for old, new in zip(before.proposing, trained.localizer.proposing, strict=True):
        for (path, value), now in zip(old.state_dict().items(), new.state_dict().values(), strict=True):
            assert torch.equal(value, now), path
    layers = zip(before.decoder.state_dict().values(), trained.localizer.decoder.state_dict().values(), strict=True)
    assert any(not torch.equal(*both) for both in layers)


ARCHITECTURE = 'localizer.architecture={"cross_attention": "deformable", "dec_layers": 2, "refinement": 8}'


def test_a_decoder_of_another_architecture_is_trained_beside_the_proposals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = write_boxed_photos(tmp_path / "kit"), tmp_path / "nano.safetensors"
    toy_nano(tmp_path / "cache", seed=1).save(model)
    data = ["--images", str(folder / "images"), "--annotations", str(folder / "boxes.json"), "--device", "cpu"]
    command = ["train", "localizer", *data, "--model", str(model), "--run", str(tmp_path / "run"), "--epochs", "1"]
    command += ["--set", "localizer.batch=3"]
    kept = ["--set", "localizer.task.proposals=False"]
    assert main([*command, *kept, "--set", "localizer.architecture={'layers': 2}"]) == 2
    assert "localizer.architecture: unknown size 'layers'; expected one of dec_layers, " in capsys.readouterr().err
    assert main([*command, *kept, "--set", "localizer.architecture={'dim': 64}"]) == 2
    assert "expected the sizes of the proposals, which stay as they are, got others" in capsys.readouterr().err
    assert main([*command, "--set", "localizer.architecture={'heads': 0}"]) == 2
    assert "localizer.architecture: localizer heads: expected at least 1, got 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*command, *kept, "--set", ARCHITECTURE]) == 0
    before, trained = (cora.load(path).detector for path in (model, tmp_path / "run" / "model.safetensors"))
    assert trained.config.localizer == replace(
        before.config.localizer, cross_attention="deformable", dec_layers=2, refinement=8
    )
    assert len(trained.localizer.decoder.layers) == 2
    for old, new in zip(before.localizer.proposing, trained.localizer.proposing, strict=True):
        for (path, value), now in zip(old.state_dict().items(), new.state_dict().values(), strict=True):
            assert torch.equal(value, now), path
    # Run again, it is done; without the architecture, it is another run.
    capsys.readouterr()
    assert main([*command, *kept, "--set", ARCHITECTURE]) == 0
    assert main([*command, *kept]) == 2
    assert "another configuration" in capsys.readouterr().err
    assert (
        main(
            [
                "detect",
                str(folder / "images"),
                "--classes",
                "cat",
                "--model",
                str(tmp_path / "run" / "model.safetensors"),
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
