"""ONNX with sizes, batch and vocabulary left open; OpenVINO from the same file."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cora.apps.open_model import open_detector, open_torch_detector
from cora.detector import Detector
from cora.errors import CoraError, MissingExtraError, ModelError
from cora.export import ExportedDetector, load_exported
from cora.export.onnx_file import OPSET, read_onnx_manifest, write_manifest
from cora.export.openvino_file import companions, write_openvino
from cora.predictor import Predictor
from tests.export.conftest import NAMES, manifest_of, picture
from tests.export.test_runtime import assert_same

pytestmark = pytest.mark.integration
onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def open_xml(open_onnx: Path) -> Path:
    path = open_onnx.with_name("toy.xml")
    write_openvino(open_onnx, read_onnx_manifest(open_onnx), path)
    return path


@pytest.fixture(params=["onnx", "openvino"])
def model(request: pytest.FixtureRequest, toy: Detector, open_onnx: Path) -> ExportedDetector:
    path = open_onnx if request.param == "onnx" else request.getfixturevalue("open_xml")
    return load_exported(path, load_text_model=lambda _: toy, threads=1)


@pytest.mark.parametrize(
    "sizes",
    [[(120, 160)], [(157, 223), (160, 101), (90, 224)], [(160, 160)], [(1, 300)]],
    ids=["one", "padded", "square", "thin"],
)
def test_any_size_and_batch(toy: Detector, model: ExportedDetector, sizes: list[tuple[int, int]]) -> None:
    photos = [picture(height, width, seed=seed) for seed, (height, width) in enumerate(sizes)]
    options: dict[str, Any] = {"score": 0.001, "batch_size": len(photos)}
    for found, expected in zip(
        model.predict(photos, NAMES, **options), Predictor(toy).predict(photos, NAMES, **options), strict=True
    ):
        assert_same(found, expected)


@pytest.mark.parametrize("names", [["bus"], [f"thing {number}" for number in range(40)]], ids=["one", "forty"])
def test_the_vocabulary_changes_without_an_export(toy: Detector, model: ExportedDetector, names: list[str]) -> None:
    options: dict[str, Any] = {"score": 1e-4, "class_weights": {names[0]: 3.0}, "distractors": ["tree", "sky"]}
    assert_same(
        model.predict(picture(120, 160), names, **options), Predictor(toy).predict(picture(120, 160), names, **options)
    )


def test_the_graph_is_standard_and_says_what_it_is(toy: Detector, open_onnx: Path) -> None:
    graph = onnx.load_model(str(open_onnx))
    onnx.checker.check_model(graph, full_check=True)
    assert {entry.domain: entry.version for entry in graph.opset_import}[""] == OPSET
    used = {node.domain for node in graph.graph.node} | {entry.domain for entry in graph.functions}
    assert used == {""}
    assert "RoiAlign" not in {node.op_type for node in graph.graph.node}
    assert [entry.name for entry in graph.graph.input] == ["pixels", "sizes_hw", "embeddings", "log_weights"]
    assert [entry.name for entry in graph.graph.output] == ["boxes", "scores"]
    assert read_onnx_manifest(open_onnx) == manifest_of(toy)
    # Nothing of the machine that exported travels along.
    assert str(Path(__file__).parents[2]).encode() not in open_onnx.read_bytes()


def test_openvino_files_say_the_same(toy: Detector, open_xml: Path) -> None:
    weights, description = companions(open_xml)
    description_text = description.read_text()
    try:
        description.unlink()
        with pytest.raises(ModelError, match=r"toy\.xml: expected toy\.json beside it"):
            load_exported(open_xml, load_text_model=lambda _: toy)
        description.write_text('{"format": "other"}')
        with pytest.raises(ModelError, match="file that `cora export` wrote"):
            load_exported(open_xml, load_text_model=lambda _: toy)
    finally:
        description.write_text(description_text)
    assert weights.stat().st_size > 0
    with pytest.raises(CoraError, match="the device cpu for an OpenVINO file"):
        load_exported(open_xml, load_text_model=lambda _: toy, device="cuda")


def test_a_missing_file_is_missing_also_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match=r"nowhere\.onnx: expected an existing file, got none"):
        read_onnx_manifest(tmp_path / "nowhere.onnx")


def test_foreign_onnx_files_are_refused(toy: Detector, open_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"

    def refused(message: str) -> None:
        with pytest.raises(ModelError, match=message):
            load_exported(path, load_text_model=lambda _: toy)

    refused("expected an existing file")
    path.write_bytes(b"")
    refused("got an empty file; get it again")
    path.write_bytes(b"no protobuf at all")
    refused("expected an ONNX file")
    graph = onnx.load_model(str(open_onnx))
    del graph.metadata_props[:]
    onnx.save_model(graph, str(path))
    refused("expected the description that `cora export` writes, got none")
    write_manifest(graph, manifest_of(toy))
    onnx.save_model(graph, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    refused("expected all weights in this file")
    with pytest.raises(ModelError, match=r"ends in \.onnx, \.xml or \.tflite"):
        load_exported(tmp_path / "model.pt2", load_text_model=lambda _: toy)


def test_inputs_of_other_types_are_one_line(model: ExportedDetector) -> None:
    with pytest.raises(ModelError, match="expected inputs that the graph takes") as error:
        model.backend.run(
            {
                "pixels": np.zeros((1, 4, 64, 64), np.float32),
                "sizes_hw": np.zeros((1, 2), np.int64),
                "embeddings": np.zeros((1, 32), np.float32),
                "log_weights": np.zeros(1, np.float32),
            }
        )
    assert "\n" not in str(error.value)


def test_commands_open_it_by_its_ending(toy: Detector, open_onnx: Path, tmp_path: Path) -> None:
    toy.save(tmp_path / "toy.safetensors", dtype=torch.float32)
    model = open_detector(str(open_onnx), text_model=str(tmp_path / "toy.safetensors"))
    assert_same(
        model.predict(picture(120, 160), NAMES, score=0.001),
        Predictor(toy).predict(picture(120, 160), NAMES, score=0.001),
    )
    assert model.own_names == ()
    with pytest.raises(ModelError, match="names need the text tower of toy"):
        open_detector(str(open_onnx)).vocabulary(NAMES)  # the name it was exported under is no known model
    with pytest.raises(ModelError, match="searching: expected a model by name or a checkpoint, got the exported"):
        open_torch_detector(str(open_onnx), needs="searching")
    with pytest.raises(ModelError, match="--text-model nano: expected an exported file"):
        open_detector("nano", text_model="nano")


def test_a_missing_runtime_names_its_extra(toy: Detector, open_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"cora-ovd\[onnx\]"):
        load_exported(open_onnx, load_text_model=lambda _: toy)
