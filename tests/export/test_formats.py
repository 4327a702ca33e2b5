"""Every format once, written and checked as `cora export` does: one size, one batch, names fixed or not."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cora.detector import Detector
from cora.errors import CoraError, MissingExtraError, ModelError
from cora.export import FORMATS, ExportedDetector, ExportSettings, Manifest, export_detector, load_exported, write
from cora.export.backends import OnnxRuntime, Program
from cora.export.check import plain_detector
from cora.export.manifest import METADATA_KEY
from cora.export.tensorrt_engine import profile_shapes
from cora.predictor import Predictor
from tests.export.conftest import NAMES, manifest_of, picture, toy_config, toy_detector
from tests.export.test_runtime import assert_same

pytestmark = pytest.mark.integration

FIXED = ExportSettings(size_hw=(160, 224), batch=1)


def left_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_everything_in_an_onnx_graph(tmp_path: Path) -> None:
    """Names, suppression, proposed anchors and the choice of boxes to pool exactly."""
    config = toy_config(anchors="proposed")
    config = replace(config, postprocess=replace(config.postprocess, exact_boxes=4))
    detector = toy_detector(tmp_path / "cache", config)
    vocabulary = Predictor(detector).vocabulary(NAMES, distractors=["tree"], class_weights={"cat": 2.0})
    path = tmp_path / "out" / "toy.onnx"
    settings = replace(FIXED, nms="inside")
    written = export_detector(detector, path, format="onnx", model="toy", settings=settings, vocabulary=vocabulary)
    assert written.files == (path,)
    assert left_in(path.parent) == ["toy.onnx"]
    assert written.difference.off == 0
    model = load_exported(path, load_text_model=lambda _: pytest.fail("no text tower is needed"))
    original = plain_detector(detector, model.manifest)
    original.preprocessor = model.preprocessor
    found = model.predict([picture(120, 160), picture(101, 150)], score=0.001)
    expected = Predictor(original).predict([picture(120, 160), picture(101, 150)], vocabulary, score=0.001)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_openvino(toy: Detector, tmp_path: Path) -> None:
    path = tmp_path / "toy.xml"
    written = export_detector(toy, path, format="openvino", model="toy", settings=FIXED)
    assert left_in(tmp_path) == ["toy.bin", "toy.json", "toy.xml"]
    assert [file.name for file in written.files] == ["toy.xml", "toy.bin", "toy.json"]
    assert written.difference.off == 0
    model = load_exported(path, load_text_model=lambda _: toy)
    original = plain_detector(toy, model.manifest)
    original.preprocessor = model.preprocessor
    photo = picture(300, 400)
    assert_same(model.predict(photo, ["bus"], score=0.001), Predictor(original).predict(photo, ["bus"], score=0.001))


def test_exported_program(toy: Detector, tmp_path: Path) -> None:
    path = tmp_path / "toy.pt2"
    settings = replace(FIXED, batch=None, nms="inside")
    written = export_detector(toy, path, format="exported-program", model="toy", settings=settings)
    assert written.difference.off == 0
    said = {METADATA_KEY: ""}
    program = torch.export.load(path, extra_files=said)
    manifest = Manifest.from_json(said[METADATA_KEY], str(path))
    model = ExportedDetector(backend=Program(program), manifest=manifest, load_text_model=lambda _: toy)
    original = plain_detector(toy, manifest)
    original.preprocessor = model.preprocessor
    photos = [picture(120, 160), picture(101, 150), picture(64, 64)]
    found = model.predict(photos, ["bus", "cat"], score=0.001, batch_size=3)
    for one, other in zip(
        found, Predictor(original).predict(photos, ["bus", "cat"], score=0.001, batch_size=3), strict=True
    ):
        assert_same(one, other)
    with pytest.raises(ModelError, match=r"ends in \.onnx, \.xml or \.tflite"):  # its archive may hold pickles
        load_exported(path, load_text_model=lambda _: toy)


def test_a_graph_that_differs_is_not_written(
    toy: Detector, open_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = toy_detector(tmp_path / "cache")
    with torch.no_grad():
        broken.localizer.objectness_head.bias.add_(3.0)

    def give(program: object, manifest: object, path: Path, format: str) -> OnnxRuntime:
        path.write_bytes(open_onnx.read_bytes())
        return OnnxRuntime(path)

    monkeypatch.setattr(write, "trace", lambda *arguments, **options: None)
    monkeypatch.setattr(write, "_write", give)
    out = tmp_path / "out"
    out.mkdir()
    (out / "toy.onnx").write_text("older")
    with pytest.raises(ModelError, match=r"expected what the original gives, got another .* --force keeps it"):
        export_detector(broken, out / "toy.onnx", format="onnx", model="toy")
    assert left_in(out) == ["toy.onnx"]
    assert (out / "toy.onnx").read_text() == "older"
    written = export_detector(broken, out / "toy.onnx", format="onnx", model="toy", force=True)
    assert not written.difference.passes
    assert (out / "toy.onnx").read_bytes() == open_onnx.read_bytes()
    assert left_in(out) == ["toy.onnx"]


@pytest.mark.parametrize("format", list(FORMATS))
def test_other_endings_are_refused(toy: Detector, tmp_path: Path, format: write.Format) -> None:
    with pytest.raises(ModelError, match=rf"ends in \{FORMATS[format]} for {format}"):
        export_detector(toy, tmp_path / "toy.bin", format=format, model="toy")
    assert left_in(tmp_path) == []


def test_a_place_that_cannot_be_written_fails_before_the_work(
    toy: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "trace", lambda *arguments, **options: pytest.fail("traced"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CoraError, match=r"expected to write .*toy\.onnx, got .*; free or choose another place"):
        export_detector(toy, tmp_path / "file" / "toy.onnx", format="onnx", model="toy")


def test_profiles_of_an_engine_name_every_input(toy: Detector) -> None:
    shapes = profile_shapes(manifest_of(toy))
    assert shapes["pixels"] == [(1, 3, 160, 160), (1, 3, 160, 224), (8, 3, 224, 224)]
    assert shapes["embeddings"] == [(1, 32), (65, 32), (2048, 32)]
    fixed = profile_shapes(manifest_of(toy, Predictor(toy).vocabulary(NAMES), size_hw=(160, 224), batch=2))
    assert fixed == {"pixels": [(2, 3, 160, 224)] * 3, "sizes_hw": [(2, 2)] * 3}


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [("onnx", "onnxscript", "onnx"), ("onnx", "onnxruntime", "onnx"), ("openvino", "openvino", "openvino")],
)
def test_a_missing_package_is_named_before_the_tracing(
    toy: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: write.Format, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(write, "trace", lambda *_, **__: pytest.fail("traced"))
    with pytest.raises(MissingExtraError, match=rf"cora-ovd\[{extra}\]"):
        export_detector(toy, tmp_path / f"toy{FORMATS[format]}", format=format, model="toy")
    assert left_in(tmp_path) == []


def test_tensorrt_needs_its_package_and_a_gpu(toy: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"cora-ovd\[tensorrt\]"):
        export_detector(toy, tmp_path / "toy.engine", format="tensorrt", model="toy")
    assert left_in(tmp_path) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TensorRT builds an engine for a GPU, and there is none here")
def test_tensorrt_engine(toy: Detector, tmp_path: Path) -> None:
    tensorrt = pytest.importorskip("tensorrt")
    written = export_detector(toy, tmp_path / "toy.engine", format="tensorrt", model="toy", settings=FIXED)
    assert [file.name for file in written.files] == ["toy.engine", "toy.json"]
    assert json.loads(written.files[1].read_text())["model"] == "toy"
    runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
    assert runtime.deserialize_cuda_engine(written.files[0].read_bytes()) is not None
