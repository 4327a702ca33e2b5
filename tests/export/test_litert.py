"""Models of nano's kind in LiteRT, written by the converter of the extra `litert`: the same detections."""

import json
from pathlib import Path

import pytest

import cora
from cora.apps.cli import main
from cora.detector import Detector
from cora.errors import CoraError, MissingExtraError, ModelError
from cora.export import ExportSettings, export_detector, load_exported
from cora.export.backends import LiteRt
from cora.export.check import plain_detector
from cora.export.litert_file import fixed_settings
from cora.images import PreprocessConfig
from cora.predictor import Predictor
from tests.export.test_runtime import assert_same
from tests.toy_nano import NAMES, nano_config, picture, toy_nano

pytestmark = pytest.mark.integration

SIZE = (96, 128)


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return toy_nano(tmp_path_factory.mktemp("cache"), nano_config(looks=2), seed=1)


@pytest.fixture(scope="module")
def converted(nano: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy as the command writes it; converting takes a minute."""
    pytest.importorskip("litert_torch", reason="needs the extra litert")
    folder = tmp_path_factory.mktemp("litert")
    nano.save(folder / "toy.safetensors")
    picture(90, 120).save(folder / "photo.png")
    arguments = ["--model", str(folder / "toy.safetensors"), "--output", str(folder / "toy.tflite")]
    names = ["--classes", ", ".join(NAMES), "--distractors", "tree", "--size", f"{SIZE[0]}x{SIZE[1]}"]
    assert main(["export", "--format", "litert", *arguments, *names, "--check-on", str(folder / "photo.png")]) == 0
    return folder / "toy.tflite"


def test_detections_are_those_of_the_detector(converted: Path) -> None:
    assert sorted(file.name for file in converted.parent.iterdir()) == [
        "photo.png",
        "toy.json",
        "toy.safetensors",
        "toy.tflite",
    ]
    model = load_exported(converted, load_text_model=lambda _: pytest.fail("no text tower is needed"), threads=1)
    assert model.class_names == NAMES
    assert (model.manifest.settings.size_hw, model.manifest.settings.batch) == (SIZE, 1)
    # What was exported is the file, whose weights are rounded to half precision.
    original = plain_detector(cora.load(str(converted.with_name("toy.safetensors"))).detector, model.manifest)
    original.preprocessor = model.preprocessor
    photos = [picture(90, 120), picture(120, 70, seed=1), picture(96, 128, seed=2)]
    expected = Predictor(original).predict(photos, NAMES, distractors=["tree"], score=0.001)
    for found, right in zip(model.predict(photos, score=0.001), expected, strict=True):
        assert_same(found, right)


def test_the_graph_has_the_names_that_the_documentation_gives(converted: Path) -> None:
    graph = LiteRt(converted, outputs=("boxes", "scores")).signature
    inputs = {
        name: (entry["shape"].tolist(), entry["dtype"].__name__) for name, entry in graph.get_input_details().items()
    }
    assert inputs == {"pixels": ([1, 3, *SIZE], "float32"), "sizes_hw": ([1, 2], "int32")}
    shapes = {name: entry["shape"].tolist() for name, entry in graph.get_output_details().items()}
    assert shapes == {"boxes": [1, 20, 4], "scores": [1, 20, len(NAMES)]}


def test_the_command_runs_it(converted: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    arguments = [
        "--model",
        str(converted),
        "--score",
        "0.001",
        "--output",
        str(tmp_path / "drawn"),
        "--json",
        str(boxes),
    ]
    assert main(["detect", str(converted.parent / "photo.png"), *arguments]) == 0
    found = json.loads(boxes.read_text())
    assert [category["name"] for category in found["categories"]] == list(NAMES)
    assert found["annotations"]


def test_suppression_in_the_graph(nano: Detector, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch", reason="needs the extra litert")
    written = export_detector(
        nano,
        tmp_path / "toy.tflite",
        format="litert",
        model="toy",
        settings=ExportSettings(size_hw=SIZE, nms="inside"),
        vocabulary=Predictor(nano).vocabulary(NAMES),
        pictures=[picture(90, 120)],
    )
    assert written.difference.off == 0
    assert written.difference.compared > 0


def test_files_that_are_no_graph(converted: Path, tmp_path: Path) -> None:
    path = tmp_path / "toy.tflite"
    path.write_bytes(b"\0\0\0\0TFL3 and no more")
    with pytest.raises(ModelError, match=r"toy\.tflite: expected toy\.json beside it"):
        load_exported(path, load_text_model=lambda _: pytest.fail("not reached"))
    path.with_suffix(".json").write_text(converted.with_suffix(".json").read_text())
    with pytest.raises(ModelError, match="a graph that LiteRT loads"):
        load_exported(path, load_text_model=lambda _: pytest.fail("not reached"))
    with pytest.raises(CoraError, match="the device cpu for a LiteRT file, got cuda"):
        load_exported(converted, load_text_model=lambda _: pytest.fail("not reached"), device="cuda")


def test_size_and_number_of_images_are_fixed() -> None:
    config = PreprocessConfig(short_side=320, long_side=500, multiple=32)
    assert fixed_settings(ExportSettings(), config) == ExportSettings(size_hw=(512, 512), batch=1)
    chosen = ExportSettings(size_hw=(320, 480), batch=2, nms="inside")
    assert fixed_settings(chosen, config) == chosen


def test_without_class_names(nano: Detector, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected class names to fix in the file.* name them with --classes"):
        export_detector(nano, tmp_path / "toy.tflite", format="litert", model="toy")


def test_without_the_extra(nano: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "litert_torch", None)
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert.interpreter", None)
    vocabulary = Predictor(nano).vocabulary(NAMES)
    with pytest.raises(MissingExtraError, match=r"exporting to LiteRT .* 'cora-ovd\[litert\]'"):
        export_detector(nano, tmp_path / "toy.tflite", format="litert", model="toy", vocabulary=vocabulary)
    with pytest.raises(MissingExtraError, match=r"running a LiteRT file .* 'cora-ovd\[litert\]'"):
        LiteRt(tmp_path / "toy.tflite", outputs=("boxes", "scores"))
    assert list(tmp_path.iterdir()) == []
