"""Classes with several prompts through every command that takes class names, with a whole model of toy size."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import cora
from cora.apps.cli import main
from cora.batch import DetectSettings
from cora.batch.labeller import Labeller, Work
from cora.data.name_file import read_classes, read_distractors, read_names
from cora.errors import CoraError, DataError, VocabularyError
from cora.images import PreprocessConfig
from tests import toys
from tests.video.clips import make_clip

PROMPTS = "mug = cup | coffee cup, spoon"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with a model; the current folder has two images in `images`."""
    monkeypatch.chdir(tmp_path)
    config = toys.toy_config(preprocess=PreprocessConfig(short_side=64, long_side=96))
    toys.toy_detector(config, residual=1.0, heads=0.3).save("toy.safetensors")
    Path("photos").mkdir()
    generator = torch.Generator().manual_seed(5)
    for number in range(2):
        pixels = torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(f"photos/{number}.png")
    return "toy.safetensors"


def run(*arguments: str) -> None:
    assert main([*arguments]) == 0


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("cora: error: ")
    assert message.count("\n") == 1
    return message


def boxes_of(file: str, *, by_name: bool = True) -> list[tuple[Any, ...]]:
    content = json.loads(Path(file).read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    return [
        (one["image_id"], names[one["category_id"]] if by_name else one["category_id"], one["bbox"], one["score"])
        for one in content["annotations"]
    ]


def test_detect(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", model, "--score", "0.001", "--json"]
    run("detect", "photos", "--classes", "cup, spoon", *options, "plain.json")
    run("detect", "photos", "--classes", "mug = cup, spoon", *options, "renamed.json")
    plain, renamed = boxes_of("plain.json"), boxes_of("renamed.json")
    assert {name for _, name, _, _ in renamed} == {"mug", "spoon"}
    assert [(image, {"cup": "mug"}.get(name, name), *rest) for image, name, *rest in plain] == [
        (image, name, *rest) for image, name, *rest in renamed
    ]
    run("detect", "photos", "--classes", PROMPTS, *options, "several.json")
    assert {name for _, name, _, _ in boxes_of("several.json")} <= {"mug", "spoon"}
    assert boxes_of("several.json", by_name=False) != boxes_of("plain.json", by_name=False)
    Path("names.txt").write_text("# things\nmug = cup | coffee cup\nspoon\n")
    run("detect", "photos", "--classes", "@names.txt", *options, "file.json")
    assert boxes_of("file.json") == boxes_of("several.json")
    # Weights and descriptions are of the class.
    Path("said.json").write_text('{"mug": ["a cup with a handle"]}')
    weighted = ["--class-weights", "mug=100", "--descriptions", "said.json"]
    run("detect", "photos", "--classes", PROMPTS, *weighted, *options, "weighted.json")
    assert boxes_of("weighted.json") != boxes_of("several.json")
    assert capsys.readouterr().err == ""


def test_python_takes_texts_and_mappings(model: str) -> None:
    predictor = cora.load(model)
    expected = predictor.predict("photos/0.png", {"mug": ["cup", "coffee cup"], "spoon": "spoon"}, score=0.001)
    assert len(expected)
    assert expected.class_names == ("mug", "spoon")
    assert predictor.predict("photos/0.png", ["mug = cup | coffee cup", "spoon"], score=0.001) == expected
    vocabulary = predictor.vocabulary({"mug": ("cup", "coffee cup"), "spoon": ("spoon",)}, distractors=["Cup", "tree"])
    assert vocabulary.distractors is not None
    assert len(vocabulary.distractors) == 1  # what stands for a class does not compete with it
    one = predictor.predict("photos/0.png", {"a = b": "cup"}, score=0.001)
    assert one.class_names == ("a = b",)
    same = predictor.predict("photos/0.png", ["cup"], score=0.001)
    assert (one.boxes_xyxy_px.tolist(), one.scores.tolist()) == (same.boxes_xyxy_px.tolist(), same.scores.tolist())
    with pytest.raises(VocabularyError, match=r"put it in a list: \['mug = cup \| mug', 'spoon'\]"):
        predictor.predict("photos/0.png", "mug = cup | mug, spoon")
    with pytest.raises(VocabularyError, match="distractors: expected names without prompts, got 'a = b'"):
        predictor.predict("photos/0.png", ["cup"], distractors=["a = b"])


def test_batch_binds_the_prompts(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", model, "--output", "coco", "--score", "0.001", "--keep", "0.001", "--to", "out"]
    run("batch", "photos", "--classes", PROMPTS, *options)
    run("detect", "photos", "--classes", PROMPTS, "--model", model, "--score", "0.001", "--json", "boxes.json")
    found = json.loads(Path("out/annotations.json").read_text())
    assert [category["name"] for category in found["categories"]] == ["mug", "spoon"]
    assert len(found["annotations"]) == len(boxes_of("boxes.json"))
    run("batch", "photos", "--classes", PROMPTS, *options)
    assert "2 of 2 images were done by an earlier run." in capsys.readouterr().out
    message = told(capsys, "batch", "photos", "--classes", "mug = cup, spoon", *options)
    assert "prompts" in message


def test_batches_from_python_refuse_what_they_would_misname(model: str) -> None:
    settings = DetectSettings(classes=("mug = cup | coffee cup", "spoon"))
    work = Work(open_model=lambda _: cora.load(model), settings=settings, root=Path())
    with pytest.raises(
        DataError, match=r"expected the names that the model reports, got 'mug = cup \| coffee cup' for 'mug'"
    ):
        Labeller(work)


@pytest.mark.integration
def test_video(model: str) -> None:
    make_clip(Path("clip.mp4"))
    options = ["--model", model, "--score", "0.001", "--no-video", "--csv"]
    run("video", "clip.mp4", "--classes", "cup, spoon", *options, "plain.csv")
    run("video", "clip.mp4", "--classes", "mug = cup, spoon", *options, "renamed.csv")
    renamed = Path("renamed.csv").read_text()
    assert renamed.count("\n") > 1
    assert renamed.replace("mug", "cup") == Path("plain.csv").read_text()


@pytest.mark.integration
def test_index_and_search(model: str) -> None:
    run("index", "photos", "--db", "db", "--model", model, "--classes", PROMPTS, "--score", "0.001")
    run("search", "db", "--text", "mug = cup | coffee cup", "--json", "hits.json")
    hits = json.loads(Path("hits.json").read_text())["regions"]
    assert {hit["label"] for hit in hits} <= {"mug", "spoon"}
    assert hits
    run("search", "db", "--text", "cup", "--json", "cup.json")
    run("search", "db", "--text", "mug = cup", "--json", "same.json")
    assert json.loads(Path("same.json").read_text())["regions"] == json.loads(Path("cup.json").read_text())["regions"]
    run("index", "photos", "--db", "db", "--model", model, "--classes", PROMPTS, "--score", "0.001")


BAD = {
    "= cup": 'expected a class name before "=", got none',
    "mug = cup | ": "expected text in each prompt, got a blank one",
    "mug = cup, mug": "expected every name once, got 'mug' twice",
    "mug = cup = tea": 'expected "=" once, got it 2 times',
    "mug = cup, cup": "expected other prompts than those of 'mug'",
    f"mug = {' | '.join(map(str, range(60)))}": "expected 1 to 50 prompts, got 60",
}


@pytest.mark.parametrize("command", ["detect", "batch", "export"])
@pytest.mark.parametrize("classes", BAD)
def test_bad_classes_are_one_line_and_write_nothing(
    model: str, capsys: pytest.CaptureFixture[str], command: str, classes: str
) -> None:
    before = sorted(Path().rglob("*"))
    rest = {
        "detect": ["photos"],
        "batch": ["photos", "--output", "coco"],
        "export": ["--format", "onnx", "--output", "a.onnx"],
    }[command]
    assert BAD[classes] in told(capsys, command, *rest, "--classes", classes, "--model", model)
    assert sorted(Path().rglob("*")) == before


ALONE: dict[str, Callable[[str], object]] = {
    "--classes": read_names,
    "--distractors": read_distractors,
}


@pytest.mark.parametrize("option", ALONE)
def test_options_without_prompts_say_so(option: str) -> None:
    with pytest.raises(CoraError, match=rf"{option}: expected names without prompts, got 'mug = cup'; write the name"):
        ALONE[option]("cat, mug = cup")


def test_pseudo_label_takes_no_prompts(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["photos", "--classes", "mug = cup", "--output", "a.json", "--model", model]
    assert "--classes: expected names without prompts, got 'mug = cup'" in told(capsys, "pseudo-label", *arguments)


def test_quoted_distractors_reach_the_predictor(model: str) -> None:
    distractors = read_distractors('"a = b", tree')
    vocabulary = cora.load(model).vocabulary(["cup"], distractors=distractors)
    assert vocabulary.distractors is not None
    assert len(vocabulary.distractors) == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("n.txt", "mug = cup | coffee cup\nspoon\n"),
        ("n.txt", "mug = cup | coffee cup, spoon"),
        ("n.txt", "1. mug = cup | coffee cup # both\n2. spoon\n"),
        ("n.json", '["mug = cup | coffee cup", "spoon"]'),
        ("data.yaml", "names:\n  0: mug = cup | coffee cup\n  1: spoon\n"),
    ],
)
def test_forms_of_files(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_classes(f"@{tmp_path / name}") == {"mug": ("cup", "coffee cup"), "spoon": ("spoon",)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"base": ["cup"], "novel": ["mug"]}', "expected a JSON list of class names"),
        ('["mug ="]', "class 'mug': expected text in each prompt, got a blank one"),
        ('["mug = cup", "mug"]', "expected every name once, got 'mug' twice"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "n.json").write_text(content)
    with pytest.raises(VocabularyError, match=message):
        read_classes(f"@{tmp_path / 'n.json'}")
