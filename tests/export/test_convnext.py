"""A ConvNeXt in other runtimes: the graph is the detector, as a program of torch.export, and as ONNX."""

from pathlib import Path

import pytest
import torch

from cora.detector import Detector, PostprocessConfig
from cora.export import export_detector
from cora.export.check import plain_detector
from cora.export.graph import DetectorGraph, class_inputs
from cora.export.suppression import kept_boxes
from cora.images import PreprocessConfig
from cora.predictor import Predictor
from tests import toys
from tests.export.conftest import NAMES, manifest_of, picture

pytestmark = pytest.mark.integration
#: Of a file to torch: boxes as shares of the image, scores of the highest.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """A toy whose boxes and images differ, with a prompt that is not zero."""
    config = toys.toy_config(
        tower={**toys.CONVNEXT, "context_length": 16, "vocab_size": 1000, "logit_scale": 10.0},
        preprocess=PreprocessConfig(short_side=96, long_side=160, multiple=32, whole=True),
        postprocess=PostprocessConfig(max_scored_boxes=12, exact_boxes=4, min_score=1e-4, nms_iou=0.4),
    )
    detector = toys.toy_detector(config, tmp_path_factory.mktemp("cache"), residual=1.0, heads=0.3)
    torch.nn.init.normal_(detector.prompt.offset, std=0.5)
    return detector


@torch.no_grad()
@pytest.mark.parametrize("exact_boxes", [0, 4])
@pytest.mark.parametrize("sizes", [[(90, 120), (111, 71)], [(96, 96)]], ids=["padded", "one"])
def test_graph_is_the_detector(convnext: Detector, exact_boxes: int, sizes: list[tuple[int, int]]) -> None:
    manifest = manifest_of(convnext, exact_boxes=exact_boxes)
    graph = DetectorGraph(detector=convnext, manifest=manifest, suppress=kept_boxes)
    vocabulary = Predictor(convnext).vocabulary(NAMES, class_weights={"dog": 3.0}, distractors=["tree"])
    batch = convnext.preprocessor([picture(*size, seed=seed) for seed, size in enumerate(sizes)])
    boxes, scores = graph(batch.pixels, torch.tensor(batch.sizes), *class_inputs(vocabulary))
    expected = plain_detector(convnext, manifest)(batch, vocabulary)
    torch.testing.assert_close(boxes, expected.boxes_cxcywh, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(scores[..., :3], expected.scores, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("format", ["exported-program", "onnx"])
def test_what_is_written_is_the_detector(convnext: Detector, format: str, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    path = tmp_path / ("toy.onnx" if format == "onnx" else "toy.pt2")
    difference = export_detector(convnext, path, format=format, model="toy").difference  # type: ignore[arg-type]
    assert difference.off == 0
    assert difference.compared > 10
    assert max(difference.boxes, difference.scores) < TOLERANCE
