"""Models on a timm backbone in other runtimes: the graph is the detector, whatever is fixed and whatever is open."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cora.detector import Detector, DetectorConfig
from cora.errors import ModelError
from cora.export import ExportSettings, export_detector, load_exported
from cora.export.backends import Program
from cora.export.check import plain_detector
from cora.export.fixed_size import FixedSizePreprocessor
from cora.export.graph import DetectorGraph, class_inputs
from cora.export.onnx_file import read_onnx_manifest
from cora.export.openvino_file import write_openvino
from cora.export.program import trace
from cora.export.suppression import kept_boxes
from cora.predictor import Predictor
from tests.export.conftest import manifest_of
from tests.export.test_runtime import assert_same
from tests.tolerances import assert_near
from tests.toy_nano import NAMES, nano_config, picture, toy_nano

pytestmark = pytest.mark.integration


def config_of(looks: int) -> DetectorConfig:
    """With NanoDet, which looks once or twice; 0 is the strict model's kind: box stages, a fine head, a refinement.

    -1 is that kind with deformable attention.
    """
    if looks > 0:
        return nano_config(looks=looks)
    config = nano_config(detector=False, box_stages=(3, 4), fine_bins=2)
    config = replace(config, localizer=replace(config.localizer, refinement=12))
    if looks == 0:
        return config
    return replace(config, localizer=replace(config.localizer, cross_attention="deformable", dec_layers=2))


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return toy_nano(tmp_path_factory.mktemp("cache"), nano_config(looks=2), seed=1)


@pytest.fixture(scope="module")
def open_nano(nano: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "nano.onnx"
    assert export_detector(nano, path, format="onnx", model="toy").difference.off == 0
    return path


@pytest.mark.parametrize("exact_boxes", [0, 4])
@pytest.mark.parametrize("looks", [-1, 0, 1, 2], ids=["deformable", "box stages", "one look", "two looks"])
def test_graph_is_the_detector(tmp_path: Path, looks: int, exact_boxes: int) -> None:
    detector = toy_nano(tmp_path, config_of(looks), seed=1)
    manifest = manifest_of(detector, exact_boxes=exact_boxes)
    assert manifest.boxes == 20
    graph = DetectorGraph(detector=detector, manifest=manifest, suppress=kept_boxes)
    batch = detector.preprocessor([picture(120, 160), picture(151, 101, seed=1)])  # padded in both directions
    vocabulary = Predictor(detector).vocabulary(NAMES, class_weights={"dog": 3.0}, distractors=["tree", "sky"])
    with torch.no_grad():
        boxes, scores = graph(batch.pixels, torch.tensor(batch.sizes), *class_inputs(vocabulary))
        expected = plain_detector(detector, manifest)(batch, vocabulary)
    assert_near(boxes, expected.boxes_cxcywh)
    assert_near(scores[..., :3], expected.scores)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_any_size_batch_and_names(nano: Detector, open_nano: Path, runtime: str) -> None:
    path = open_nano
    if runtime == "openvino":
        path = open_nano.with_suffix(".xml")
        write_openvino(open_nano, read_onnx_manifest(open_nano), path)
    model = load_exported(path, load_text_model=lambda _: nano, threads=1)
    for sizes in ([(120, 160)], [(157, 223), (160, 101)], [(1, 300)], [(40, 40)]):
        photos = [picture(height, width, seed=seed) for seed, (height, width) in enumerate(sizes)]
        options: dict[str, Any] = {"score": 0.001, "batch_size": len(photos), "distractors": ["sky"]}
        for found, expected in zip(
            model.predict(photos, NAMES, **options), Predictor(nano).predict(photos, NAMES, **options), strict=True
        ):
            assert_same(found, expected)
    assert_same(
        model.predict(photos[0], ["bus"], score=0.001), Predictor(nano).predict(photos[0], ["bus"], score=0.001)
    )


@pytest.mark.parametrize(
    ("format", "ending", "looks"),
    [
        ("onnx", "onnx", 0),
        ("openvino", "xml", 1),
        ("exported-program", "pt2", 1),
        ("onnx", "onnx", 2),
        ("openvino", "xml", -1),
    ],
)
def test_fixed_size_and_names(tmp_path: Path, format: Any, ending: str, looks: int) -> None:
    detector = toy_nano(tmp_path, config_of(looks), seed=1)
    vocabulary = Predictor(detector).vocabulary(NAMES, distractors=["tree"])
    settings = ExportSettings(size_hw=(128, 160), batch=1, nms="inside")
    written = export_detector(
        detector,
        tmp_path / f"nano.{ending}",
        format=format,
        model="toy",
        settings=settings,
        vocabulary=vocabulary,
        pictures=[picture(120, 160), picture(150, 100, seed=1)],
    )
    assert written.difference.off == 0
    assert written.difference.compared > 0


def test_sizes_are_whole_cells(nano: Detector, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"multiples of 32 for this model, got 100x160; use 96x160"):
        export_detector(
            nano, tmp_path / "nano.onnx", format="onnx", model="toy", settings=ExportSettings(size_hw=(100, 160))
        )
    made = FixedSizePreprocessor(config=nano.config.preprocess, size_hw=(96, 160))
    for size in ((500, 500), (30, 700), (700, 30), (96, 160), (97, 130)):
        batch = made([Image.new("RGB", size[::-1])])
        assert batch.pixels.shape[-2:] == (96, 160)
        assert all(side % 32 == 0 for side in batch.sizes[0])


def test_an_open_program_takes_every_size(nano: Detector) -> None:
    manifest = manifest_of(nano, exact_boxes=0)
    graph = DetectorGraph(detector=nano, manifest=manifest, suppress=kept_boxes).eval()
    program = Program(trace(nano, manifest, None, suppress=kept_boxes))
    embeddings = torch.nn.functional.normalize(torch.randn(3, manifest.config.tower.embed_dim), dim=-1)
    for height, width, batch in ((32, 32, 1), (64, 256, 2), (96, 160, 1), (128, 128, 2), (384, 96, 1), (160, 512, 1)):
        pixels, sizes = torch.randn(batch, 3, height, width), torch.tensor([[height, width]] * batch)
        inputs = (pixels, sizes, embeddings, torch.zeros(3))
        found = program.run(dict(zip(program.inputs, (one.numpy() for one in inputs), strict=True)))
        with torch.no_grad():
            expected = graph(*inputs)
        for one, other in zip(found, expected, strict=True):
            assert_near(torch.from_numpy(one), other)
