"""INT8 of exported files: which layers become INT8, how close the boxes stay, what the files say of themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rich
from PIL import Image

from cora.compress.quantize import SUFFIXES, calibration_feeds, export_folded, files_of, quantize_model
from cora.compress.quantize_float import FLOAT_PARTS, FloatWeights
from cora.compress.quantize_onnx import float_nodes, quantize_onnx_file
from cora.compress.quantize_openvino import float_operators, quantize_openvino_file
from cora.detector import Detector
from cora.errors import ImageError, ModelError
from cora.export import ExportSettings, load_exported
from cora.export.onnx_file import read_onnx_manifest
from cora.export.openvino_file import read_openvino_manifest, write_openvino
from cora.predictor import Predictor
from tests.detector.conftest import tiny_detector

pytestmark = pytest.mark.integration
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

NAMES = ["cat", "dog", "bus"]


def photo(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 72))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return tiny_detector(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def plain_onnx(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Of one size, since tracing open ones takes several times as long.
    settings = ExportSettings(size_hw=(96, 128), batch=1)
    return export_folded(detector, tmp_path_factory.mktemp("onnx") / "float.onnx", model="tiny", settings=settings)


@pytest.fixture(scope="module")
def plain_xml(plain_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("openvino") / "float.xml"
    write_openvino(plain_onnx, read_onnx_manifest(plain_onnx), path)
    return path


def test_weights_are_recognised_turned_round_too(detector: Detector) -> None:
    keep = FloatWeights(detector)
    head = detector.localizer.decoder.box_heads[0].layers[0].weight.detach().numpy()  # type: ignore[union-attr, index]
    query = detector.localizer.encoder.layers[0].attention.query.weight.detach().numpy()  # type: ignore[union-attr]
    assert head in keep
    assert np.ascontiguousarray(head.T) in keep
    assert query not in keep
    assert head.ravel() not in keep
    assert set(FLOAT_PARTS) <= {part for name, _ in detector.localizer.named_modules() for part in name.split(".")}


def test_nodes_without_a_constant_matrix_stay_float(detector: Detector) -> None:
    head = detector.localizer.objectness_head.weight.detach().numpy()
    constants = {
        "layer": np.ones((4, 4), np.float32),
        "stack": np.ones((2, 4, 4), np.float32),
        "head": head.T.copy(),
        "kernel": np.ones((4, 4, 3, 3), np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", other], [f"y-{other}"], name=other) for other in constants if other != "kernel"
    ]
    nodes += [
        helper.make_node("MatMul", ["x", "x"], ["z"], name="attention"),
        helper.make_node("Conv", ["x", "kernel"], ["c"], name="kernel"),
        helper.make_node("Add", ["x", "layer"], ["a"], name="sum"),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", [], [], initializer=initializers)
    assert sorted(float_nodes(graph, FloatWeights(detector))) == ["attention", "head", "stack"]


@pytest.mark.parametrize("turned", [0, 1])
def test_a_weight_with_several_users_is_not_turned_round_for_one(
    detector: Detector, turned: int, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(8, 8)).astype(np.float32), random.normal(size=8).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "weight", "bias"], ["hidden"], name="layer", transB=turned),
        helper.make_node("Transpose", ["weight"], ["view"], name="view", perm=[1, 0]),
        helper.make_node("MatMul", ["hidden", "view"], ["y"], name="other"),
    ]
    initializers = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 8]) for name in "xy")
    graph = helper.make_graph(nodes, "graph", [x], [y], initializer=initializers)
    plain, target = tmp_path / "plain.onnx", tmp_path / "int8.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(plain))
    quantize_onnx_file(plain, target, feeds=None, keep=FloatWeights(detector))
    inputs = random.normal(size=(5, 8)).astype(np.float32)
    [found] = onnxruntime.InferenceSession(str(target)).run(None, {"x": inputs})
    expected = (inputs @ (weight.T if turned else weight) + bias) @ weight.T
    assert float(np.abs(found - expected).max()) < 0.05 * float(np.abs(expected).max())


def test_feeds_are_the_inputs_of_the_graph(detector: Detector, plain_onnx: Path) -> None:
    vocabulary = Predictor(detector).vocabulary(NAMES, distractors=())
    [feed] = calibration_feeds(detector.preprocessor, vocabulary, [photo(0)])
    inputs = {entry.name for entry in onnx.load_model(str(plain_onnx)).graph.input}
    assert feed.keys() == inputs
    assert feed["pixels"].shape[0] == len(feed["sizes_hw"]) == 1
    assert len(feed["embeddings"]) == len(NAMES)


@pytest.mark.parametrize("mode", ["dynamic", "static"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_boxes_stay_close(
    detector: Detector,
    plain_onnx: Path,
    plain_xml: Path,
    backend: str,
    mode: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    plain, quantize = (
        (plain_onnx, quantize_onnx_file) if backend == "onnxruntime" else (plain_xml, quantize_openvino_file)
    )
    vocabulary = Predictor(detector).vocabulary(NAMES, distractors=())
    original = load_exported(plain, load_text_model=lambda _: detector)
    feeds = None
    if mode == "static":
        feeds = calibration_feeds(original.preprocessor, vocabulary, [photo(seed) for seed in range(4)])
    target = tmp_path / f"int8{plain.suffix}"
    before = plain.read_bytes()
    quantize(plain, target, feeds=feeds, keep=FloatWeights(detector))
    assert tuple(capfd.readouterr()) == ("", "")  # no progress bars, no advice to developers
    assert plain.read_bytes() == before
    assert all(file.is_file() for file in files_of(target))
    batch = original.preprocessor([photo(9)])
    expected = original(batch, vocabulary)
    found = load_exported(target, load_text_model=lambda _: detector)(batch, vocabulary)
    assert len(expected.boxes_cxcywh[0]) > 0
    assert not np.array_equal(found.scores, expected.scores)
    difference = (found.boxes_cxcywh.unsqueeze(2) - expected.boxes_cxcywh.unsqueeze(1)).abs().amax(dim=-1)
    # Each box has its like among those of the float model, whatever the order.
    assert float(difference.amin(dim=2).median()) < 0.02
    read = read_onnx_manifest if backend == "onnxruntime" else read_openvino_manifest
    assert read(target) == read(plain)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_what_goes_wrong_in_a_tool_is_one_line(
    detector: Detector, plain_onnx: Path, plain_xml: Path, backend: str, tmp_path: Path
) -> None:
    plain, quantize, tool = (
        (plain_onnx, quantize_onnx_file, "ONNX Runtime")
        if backend == "onnxruntime"
        else (plain_xml, quantize_openvino_file, "NNCF")
    )
    vocabulary = Predictor(detector).vocabulary(NAMES, distractors=())
    [feed] = calibration_feeds(detector.preprocessor, vocabulary, [photo(0)])
    wrong = {**feed, "pixels": feed["pixels"][:, :1]}  # one channel instead of three
    quiet = rich.get_console().quiet
    with pytest.raises(ModelError, match=f"expected a graph that {tool} quantizes, got: .* --backend") as error:
        quantize(plain, tmp_path / f"int8{plain.suffix}", feeds=[wrong], keep=FloatWeights(detector))
    assert "\n" not in str(error.value)
    assert rich.get_console().quiet == quiet


def test_unreadable_pictures_are_not_blamed_on_the_tool(
    detector: Detector, plain_onnx: Path, plain_xml: Path, tmp_path: Path
) -> None:
    vocabulary = Predictor(detector).vocabulary(NAMES, distractors=())
    for plain, quantize in ((plain_onnx, quantize_onnx_file), (plain_xml, quantize_openvino_file)):
        feeds = calibration_feeds(detector.preprocessor, vocabulary, [tmp_path / "nothing.jpg"])
        with pytest.raises(ImageError):
            quantize(plain, tmp_path / f"int8{plain.suffix}", feeds=feeds, keep=FloatWeights(detector))


def test_quantized_weights_are_int8_and_heads_are_not(detector: Detector, plain_onnx: Path, tmp_path: Path) -> None:
    keep = FloatWeights(detector)
    quantize_onnx_file(plain_onnx, tmp_path / "int8.onnx", feeds=None, keep=keep)
    graph = onnx.load_model(str(tmp_path / "int8.onnx")).graph
    arrays = [numpy_helper.to_array(entry) for entry in graph.initializer]
    assert [array for array in arrays if array.dtype == np.int8 and array.ndim == 2]
    assert [array for array in arrays if array.dtype == np.float32 and array in keep]
    query = detector.localizer.encoder.layers[0].attention.query.weight.detach().numpy()  # type: ignore[union-attr]
    assert not [array for array in arrays if array.shape == query.shape and np.array_equal(array, query.T)]


def test_openvino_keeps_all_but_layers_and_convolutions_float(detector: Detector, plain_xml: Path) -> None:
    import openvino

    model = openvino.Core().read_model(str(plain_xml))
    kept = set(float_operators(model, FloatWeights(detector)))
    others = {node.get_type_name() for node in model.get_ops() if node.get_friendly_name() not in kept}
    assert others - {"Constant", "Parameter", "Result"} == {"Convolution", "MatMul"}
    assert {"Softmax", "Add"} <= {node.get_type_name() for node in model.get_ops()} - others


def test_static_needs_pictures(detector: Detector, tmp_path: Path) -> None:
    for backend, suffix in SUFFIXES.items():
        with pytest.raises(ModelError, match="expected images to calibrate with, got none"):
            quantize_model(
                detector, tmp_path / f"a{suffix}", backend=backend, mode="static", model="tiny", classes=NAMES
            )
    assert not list(tmp_path.iterdir())
