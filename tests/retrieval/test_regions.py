"""Which regions of an image are kept, and what their embeddings are."""

import numpy as np
import pytest
import torch
from PIL import Image

from cora.detector import Detector
from cora.predictor import Predictor
from cora.predictor.exemplars import embed_region
from cora.retrieval import RegionSettings
from cora.retrieval.regions import RegionFinder, Regions
from tests.detector.conftest import tiny_detector


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return tiny_detector(tmp_path_factory.mktemp("cache"))


def picture(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (10, 12, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((120, 100))


def test_whatever_looks_like_an_object(detector: Detector) -> None:
    settings = RegionSettings(score=0, nms_iou=0.9)
    found = RegionFinder(detector=detector, settings=settings)(picture())
    assert 1 <= len(found) <= 12
    assert found.labels == [None] * len(found)
    assert (found.scores.diff() <= 0).all()
    torch.testing.assert_close(found.embeddings.norm(dim=-1), torch.ones(len(found)))
    assert (found.boxes_xyxy_px[:, 2] <= 120).all()
    assert (found.boxes_xyxy_px[:, 3] <= 100).all()


def test_embeddings_are_those_of_the_boxes(detector: Detector) -> None:
    """A region searches for itself: what is stored is what an exemplar of its box gives, clipping apart."""
    for classes in (None, ("cat", "dog")):
        finder = RegionFinder(detector=detector, settings=RegionSettings(classes=classes, score=0, nms_iou=1))
        found = finder(picture())
        inside = (found.boxes_xyxy_px > 0).all(dim=1) & (found.boxes_xyxy_px < torch.tensor([120, 100] * 2)).all(dim=1)
        assert inside.any()
        for row in inside.nonzero()[:, 0].tolist():
            alone = embed_region(detector, picture(), found.boxes_xyxy_px[row].tolist())
            torch.testing.assert_close(found.embeddings[row], alone, atol=1e-4, rtol=1e-4)


def test_names_label_regions_and_score_them(detector: Detector) -> None:
    found = RegionFinder(detector=detector, settings=RegionSettings(classes=("cat", "dog"), score=0))(picture())
    assert set(found.labels) <= {"cat", "dog"}
    # The same boxes with the same scores as `predict` finds them, whose best class counts.
    best = Predictor(detector).predict(picture(), ["cat", "dog"], score=0, nms_iou=1)
    assert float(found.scores[0]) == pytest.approx(float(best.scores[0]), rel=1e-3)
    assert found.labels[0] == best.names[0]


def test_limits_hold(detector: Detector) -> None:
    def found(*, score: float = 0, max_regions: int = 50) -> Regions:
        settings = RegionSettings(score=score, max_regions=max_regions, nms_iou=1)
        return RegionFinder(detector=detector, settings=settings)(picture())

    everything = found()
    assert len(found(max_regions=2)) == 2
    middle = float(everything.scores.median())
    assert (found(score=middle).scores > middle).all()
    assert len(found(score=1)) == 0


def test_near_identical_regions_count_once_the_best_first(detector: Detector) -> None:
    finder = RegionFinder(detector=detector, settings=RegionSettings(score=0.1, nms_iou=0.6))
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.51, 0.5, 0.5, 0.5], [0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.1, 0.1]])
    rows, corners = finder._kept(boxes, torch.tensor([0.4, 0.6, 0.7, 0.05]), (100, 200))
    assert rows.tolist() == [2, 1]
    torch.testing.assert_close(corners[0], torch.tensor([20.0, 10.0, 60.0, 30.0]))


def test_a_picture_does_not_depend_on_the_one_before(detector: Detector) -> None:
    finder = RegionFinder(detector=detector, settings=RegionSettings(score=0))
    first = finder(picture(1))
    finder(picture(2))
    again = finder(picture(1))
    torch.testing.assert_close(first.embeddings, again.embeddings)
    assert first.labels == again.labels


def test_a_tiny_picture_is_no_problem(detector: Detector) -> None:
    found = RegionFinder(detector=detector, settings=RegionSettings(score=0))(Image.new("RGB", (3, 2)))
    assert len(found) == 0  # nothing there is 4 pixels wide
