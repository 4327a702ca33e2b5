"""Measuring the study: numbers by hand, verdicts, independence of order, the detector's own row."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.data.coco import CocoDataset, targets_of
from cora.detector import Detector
from cora.evaluation.bootstrap import resample_counts
from cora.study.artefact import TrainedStudy
from cora.study.build import FrozenPart, build_model
from cora.study.evaluate import BINS, BoxFits, by_class, measure_detector, measure_study, summarise, verdict
from cora.study.train import mean_size
from tests.study.conftest import COLOURS, CONFIG

NAMES = tuple(COLOURS)


def fits(ious: list[float], classes: list[int] | None = None, images: list[int] | None = None) -> BoxFits:
    return BoxFits(
        ious=np.array(ious, dtype=np.float64),
        classes=np.array(classes or [0] * len(ious), dtype=np.int64),
        image_index=np.array(images or range(len(ious)), dtype=np.int64),
        images=max(1, len(ious)),
        class_names=NAMES,
    )


def counts(measured: BoxFits):  # type: ignore[no-untyped-def]
    return resample_counts(measured.images, resamples=50)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, "localization"), (0.4999, "localization"), (0.5, "both"), (0.7, "both"), (0.7001, "classification")],
)
def test_verdict(share: float, expected: str) -> None:
    assert verdict(share) == expected


def test_numbers_by_hand() -> None:
    measured = fits([0.0, 0.32, 0.55, 0.81])
    found = summarise(measured, counts(measured))
    assert found.boxes == 4
    assert found.mean_iou.value == pytest.approx(0.42)
    assert [share.value for share in found.shares.values()] == [0.75, 0.5, 0.25]
    assert sum(found.histogram) == 4
    assert [i for i, n in enumerate(found.histogram) if n] == [0, 6, 11, 16]
    assert len(found.histogram) == BINS
    assert found.limit == "both"
    content = found.as_dict()
    assert content["shares"]["0.5"]["value"] == 0.5
    assert content["verdict"] == "both"


@pytest.mark.parametrize(
    ("ious", "words"),
    [
        ([0.9] * 20, "100.0 % (100.0 to 100.0) of 20 boxes have a prediction of IoU above 0.5, more than 70 %"),
        ([0.9] * 20, "so classification is the problem."),
        ([0.1] * 20, "so localization is the problem."),
        ([0.9] * 6 + [0.1] * 4, "both classification and localization are the problem. The interval reaches into"),
    ],
)
def test_sentence(ious: list[float], words: str) -> None:
    measured = fits(ious)
    assert words in summarise(measured, counts(measured)).sentence()


def test_certain_verdicts_are_not_doubted() -> None:
    measured = fits([0.9] * 20)
    assert "interval reaches" not in summarise(measured, counts(measured)).sentence()


def test_no_box_no_verdict() -> None:
    measured = fits([])
    found = summarise(measured, counts(measured))
    assert found.limit is None
    assert found.sentence() == "No box to measure, no verdict."
    assert found.as_dict()["mean_iou"] == {"value": None, "low": None, "high": None}


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_order_of_boxes_does_not_matter(ious: list[float], random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(ious)))
    random.shuffle(order)
    first = fits(ious)
    second = fits([ious[i] for i in order], images=order)
    one, two = (summarise(measured, counts(measured)) for measured in (first, second))
    assert one.histogram == two.histogram
    for name, share in one.shares.items():
        assert two.shares[name].as_dict() == pytest.approx(share.as_dict(), nan_ok=True)
    assert one.shares[0.3].value >= one.shares[0.5].value >= one.shares[0.7].value  # type: ignore[operator]


def test_by_class_and_groups() -> None:
    measured = fits([0.4, 0.6, 0.9], classes=[0, 2, 2])
    found = by_class(measured)
    assert list(found) == list(NAMES)
    assert found[NAMES[0]] == {"boxes": 1, "mean_iou": 0.4, "above_0.3": 1.0, "above_0.5": 0.0, "above_0.7": 0.0}
    assert found[NAMES[1]] == dict.fromkeys(found[NAMES[0]], None) | {"boxes": 0}
    assert found[NAMES[2]]["above_0.7"] == 0.5
    assert measured.of(NAMES[2:]).ious.tolist() == [0.6, 0.9]
    assert len(measured.of(()).ious) == 0


@pytest.fixture
def study(frozen: FrozenPart, dataset: CocoDataset) -> TrainedStudy:
    width = frozen.tower.feature_width
    model = build_model(CONFIG.model, feature_width=width, seed=0, prior_wh=mean_size(dataset))
    torch.nn.init.normal_(model.head.sides.weight)  # boxes of many sizes
    return TrainedStudy(config=CONFIG, model=model, class_names=NAMES)


def test_every_box_is_measured_once(study: TrainedStudy, frozen: FrozenPart, dataset: CocoDataset) -> None:
    found, control = measure_study(study, frozen, dataset)
    labels = torch.cat([record.classes for record in dataset.records])
    for one in (found, control):
        assert one.classes.tolist() == labels.tolist()
        assert one.image_index.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        assert one.images == 7
        assert 0 <= one.ious.min() <= one.ious.max() <= 1
    assert not np.allclose(found.ious, control.ious)


def test_numbers_do_not_depend_on_the_order_of_photos(
    study: TrainedStudy, frozen: FrozenPart, dataset: CocoDataset
) -> None:
    whole = measure_study(study, frozen, dataset)[0]
    order = [5, 0, 3]
    some = measure_study(study, frozen, dataset, indices=order)[0]
    expected = np.concatenate([whole.ious[whole.image_index == index] for index in order])
    np.testing.assert_allclose(some.ious, expected, atol=1e-6)
    assert some.images == 3


def test_an_untrained_head_is_the_control(frozen: FrozenPart, dataset: CocoDataset, study: TrainedStudy) -> None:
    torch.nn.init.zeros_(study.model.head.sides.weight)
    found, control = measure_study(study, frozen, dataset)
    np.testing.assert_allclose(found.ious, control.ious, atol=1e-5)


class Perfect(Detector):
    """Queries find the boxes that they are told of."""

    told: torch.Tensor

    def decode(self, memory, matched):  # type: ignore[no-untyped-def]
        boxes = super().decode(memory, matched)
        found = boxes.boxes_cxcywh.clone()
        found[-1, 0, : len(self.told)] = self.told
        objectness = boxes.objectness.clone()
        objectness[-1, 0, : len(self.told)] = 10.0
        return replace(boxes, boxes_cxcywh=found, objectness=objectness)


def test_a_detector_is_told_the_classes_of_each_photo(detector: Detector, dataset: CocoDataset) -> None:
    seen = []
    real = Detector.pre_match

    def watched(self, c4, anchors, vocabulary):  # type: ignore[no-untyped-def]
        seen.append(vocabulary.names)
        return real(self, c4, anchors, vocabulary)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Detector, "pre_match", watched)
        found = measure_detector(detector, dataset)
    expected = [tuple(NAMES[i] for i in sorted(set(record.classes.tolist()))) for record in dataset.records[:6]]
    assert seen == expected
    assert found.images == 7
    assert len(found.ious) == 12


def test_boxes_of_another_class_do_not_count(detector: Detector, dataset: CocoDataset) -> None:
    detector.__class__ = Perfect
    assert isinstance(detector, Perfect)
    targets = targets_of(dataset.records[0])
    detector.told = targets.boxes_cxcywh.repeat(6, 1)  # both boxes by as many queries as there are
    c3, c4 = detector.encode(detector.preprocessor([dataset[0][0]]))
    vocabulary = detector.vocabulary_encoder.encode([NAMES[i] for i in sorted(targets.classes.tolist())])
    matched = detector.pre_match(c4, detector.anchors(detector.encode_map(c3)), vocabulary).classes[0]
    place = sorted(targets.classes.tolist())
    found = measure_detector(detector, dataset, indices=[0])
    for number, label in enumerate(targets.classes.tolist()):
        told = any(place[int(matched[query])] == label for query in range(number, 12, 2))
        assert (found.ious[number] > 0.999) == told
    assert found.ious.max() > 0.999
