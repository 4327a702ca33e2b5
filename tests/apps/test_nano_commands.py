"""Every command with a model on a timm backbone: it works, or says in one line why it cannot."""

import json
from pathlib import Path

import pytest

import cora
from cora.apps.cli import main
from cora.errors import ModelError
from tests.toy_nano import nano_config, toy_nano, write_boxed_photos

pytestmark = pytest.mark.integration

MODEL = "nano.safetensors"
PHOTOS = ["--images", "images", "--annotations", "boxes.json"]

RECIPE = """
from cora.data.transforms import AugmentConfig
from cora.training.recipe import DataStage, LocalizerStage, PromptStage, RelabelStage, StageSchedule, TrainRecipe


def recipe():
    augment = AugmentConfig(
        short_sides=(96, 128), long_side=160, crop=0.5, crop_short_sides=(128,), crop_sides=(64, 120), min_visible=0.3
    )
    return TrainRecipe(
        data=DataStage(augment=augment, versions=VERSIONS),
        prompts=PromptStage(epochs=1, batch=3, lr=1e-3, schedule=StageSchedule()),
        relabel=RelabelStage(plot=False),
        localizer=LocalizerStage(epochs=1, batch=3, lr=1e-3, schedule=StageSchedule(kind="cosine")),
    )
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and boxed images."""
    folder = write_boxed_photos(tmp_path_factory.mktemp("nano") / "kit")
    toy_nano(folder / "cache", seed=1).save(folder / MODEL)
    return folder


@pytest.fixture(autouse=True)
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with links to what was made once."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "boxes.json", "split.json", MODEL):
        (tmp_path / name).symlink_to(made / name)
    return tmp_path


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    message = capsys.readouterr().err
    assert message.startswith("cora: error: ")
    assert message.count("\n") == 1
    return message


def test_detect_with_names_pictures_and_tiles() -> None:
    common = ["--model", MODEL, "--score", "0.001", "--json", "found.json", "--output", "drawn"]
    assert main(["detect", "images", "--classes", "red square", *common]) == 0
    assert json.loads(Path("found.json").read_text())["annotations"]
    assert main(["detect", "images", "--exemplar", "mine=images/1.png#5,13,25,25", *common]) == 0
    assert main(["detect", "images/0.png", "--classes", "red square", "--tiles", "2x2", *common]) == 0


def test_train_all_stages(made: Path) -> None:
    for versions in (0, 1):
        Path("recipe.py").write_text(RECIPE.replace("VERSIONS", str(versions)))
        run = f"run{versions}"
        train = ["train", "all", *PHOTOS, "--model", MODEL, "recipe.py", "--run", run]
        assert main([*train, "--device", "cpu"]) == 0
        trained = cora.load(f"{run}/model.safetensors")
        assert trained.fast_alignment is None
        assert main(train) == 0  # nothing is left to do


def test_finetune() -> None:
    small = ["--epochs", "1", "--batch", "3", "--run", "run", "--output", "own.safetensors", "--device", "cpu"]
    assert main(["finetune", *PHOTOS, "--model", MODEL, *small]) == 0
    assert cora.load("own.safetensors").config.tower == cora.load(MODEL).config.tower


def test_relabel_and_pseudo_label() -> None:
    assert main(["relabel", *PHOTOS, "--model", MODEL, "--output", "relabelled.json"]) == 0
    assert json.loads(Path("relabelled.json").read_text())["annotations"]
    names = ["--classes", "red square, blue square", "--model", MODEL, "--score", "0.001"]
    assert main(["pseudo-label", "images", *names, "--output", "pseudo.json"]) == 0
    assert json.loads(Path("pseudo.json").read_text())["annotations"]


def test_measure(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--model", MODEL, "--split", "split.json", "--resamples", "3"]
    assert main(["evaluate", *PHOTOS, *few, "--oracles", "--json", "ap.json"]) == 0
    for way in (["--all-boxes"], ["--precision", "bfloat16", "--batch-size", "3"]):
        assert main(["evaluate", *PHOTOS, *few, *way]) == 0
    assert main(["region-accuracy", *PHOTOS, *few, "--json", "regions.json"]) == 0
    assert main(["groups", "--groups", "2", *PHOTOS, "--model", MODEL]) == 0
    calibrate = ["calibrate", *PHOTOS, "--model", MODEL, "--output", "set.safetensors"]
    assert "expected a model that gets a box right in 6 images" in error_of(capsys, *calibrate)  # random weights do not
    assert main(["region-accuracy", *PHOTOS, *few, "--crops", "--json", "crops.json"]) == 0
    assert "crops" in json.loads(Path("crops.json").read_text())["accuracy"]


def test_index_and_search() -> None:
    assert main(["index", "images", "--db", "regions.db", "--model", MODEL, "--score", "0.001"]) == 0
    assert main(["search", "regions.db", "--text", "red square", "--model", MODEL, "--json", "hits.json"]) == 0
    assert json.loads(Path("hits.json").read_text())
    assert main(["search", "regions.db", "--image", "images/1.png", "--box", "5,13,25,25", "--model", MODEL]) == 0


def test_batch() -> None:
    options = ["--classes", "red square", "--model", MODEL, "--score", "0.001", "--batch-size", "3"]
    assert main(["batch", "images", *options, "--output", "coco", "--to", "labels"]) == 0
    assert any(Path("labels").iterdir())


def test_video() -> None:
    clips = pytest.importorskip("tests.video.clips")
    clips.make_clip(Path("clip.mp4"), times=[9_000 * number for number in range(3)])
    options = ["--classes", "red square", "--model", MODEL, "--score", "0.001", "--csv", "tracks.csv"]
    assert main(["video", "clip.mp4", *options]) == 0


@pytest.mark.parametrize("method", ["context", "offsets", "tower"])
def test_text_prompts(method: str) -> None:
    options = ["--method", method, "--model", MODEL, "--output", "text.safetensors", "--epochs", "1"]
    assert main(["text-prompts", *PHOTOS, *options, "--device", "cpu"]) == 0


@pytest.mark.parametrize("backend", ["onnxruntime", "torchao"])
def test_quantize(backend: str) -> None:
    output = "int8.onnx" if backend == "onnxruntime" else "int8.safetensors"
    options = ["--mode", "static", "--calibration", "images", "--limit", "2", "--classes", "red square"]
    model = ["--model", MODEL, "--backend", backend, "--output", output]
    assert main(["quantize", *model, "--images", "images", *options, "--force"]) == 0
    texts = ["--text-model", MODEL] if backend == "onnxruntime" else []
    assert main(["detect", "images/0.png", "--classes", "red square", "--model", output, *texts]) == 0


@pytest.mark.parametrize(
    ("arguments", "purpose"),
    [
        (["cam", "images/0.png", "--classes", "dog", "--tower", MODEL, "--output", "cam.png"], "activation maps"),
        (["prune", "--images", "images", "--model", MODEL, "--output", "o.safetensors", "--ffn", "0.5"], "cora prune"),
        (
            ["search-arch", "--images", "images", "--model", MODEL, "--run", "run", "--budget", "9"],
            "cora search-arch",
        ),
        (
            ["distill", "--images", "images", "--teacher", MODEL, "--student", MODEL, "--run", "run"],
            "cora distill, into the tower",
        ),
    ],
    ids=["cam", "prune", "search-arch", "distill"],
)
def test_what_needs_a_resnet_says_so(
    arguments: list[str], purpose: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    assert f"{purpose}: expected a model whose image tower is a CLIP ResNet, got another kind; name such" in error_of(
        capsys, *arguments
    )
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["align", "--images", "images", "--output", "o.safetensors"],
        ["prune", "--images", "images", "--output", "o.safetensors", "--ffn", "0.5"],
        ["search-arch", "--images", "images", "--run", "run", "--budget", "9"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_needs_a_resnet_takes_no_model_by_default(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    message = capsys.readouterr().err
    assert message.startswith("cora: error: the following arguments are required: --model; see 'cora ")
    assert message.count("\n") == 1
    with pytest.raises(SystemExit, match="0"):
        main([arguments[0], "--help"])
    assert "RN50-quickgelu" in capsys.readouterr().out


def test_there_is_nothing_to_align(capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, "align", "--images", "images", "--model", MODEL, "--output", "o.safetensors")
    assert "pools all in one way; there is nothing to align" in message
    assert not Path("o.safetensors").exists()


def test_without_a_detector_beside_the_backbone(made: Path) -> None:
    toy_nano(made / "cache", nano_config(detector=False, box_stages=(3, 4), fine_bins=2), seed=1).save(
        "strict.safetensors"
    )
    common = ["--model", "strict.safetensors", "--score", "0.0001", "--json", "found.json"]
    assert main(["detect", "images", "--classes", "red square", *common]) == 0
    assert main(["evaluate", *PHOTOS, "--model", "strict.safetensors", "--resamples", "3"]) == 0


def test_a_model_without_whole_cells_is_refused(made: Path) -> None:
    config = nano_config().to_dict()
    config["preprocess"]["multiple"] = 16
    with pytest.raises(ModelError, match="multiple of 32"):
        type(nano_config()).from_dict(config)
