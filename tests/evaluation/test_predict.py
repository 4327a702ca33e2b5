import pytest
import torch

from cora.data.coco import CocoDataset
from cora.errors import DataError
from cora.evaluation.coco_ap import evaluate_boxes
from cora.evaluation.predict import ground_truth, predict_dataset
from cora.images import Preprocessor
from cora.structures import Detections
from tests.detector.conftest import tiny_detector
from tests.evaluation.coco_data import CLASSES, truth_near, write_folder, write_noise
from tests.evaluation.coco_data import ground_truth as random_truth


class _Oracle:
    """Answers with the true boxes, in the order of the dataset, whatever the classes are called."""

    def __init__(self, dataset):
        self.preprocessor = Preprocessor()
        self.records = iter(dataset.records)
        self.seen, self.encoded = [], []

    def vocabulary(self, classes, **options):
        self.encoded.append(options)
        return tuple(classes)

    def predict(self, images, classes, **options):
        self.seen.append((len(images), tuple(classes), options))
        records = [next(self.records) for _ in images]
        return [
            Detections(
                boxes_xyxy_px=record.boxes_xyxy_px,
                scores=torch.ones(len(record.classes)),
                labels=record.classes,
                class_names=tuple(classes),
                image_size=record.size,
            )
            for record in records
        ]


@pytest.fixture
def dataset(tmp_path):
    images, annotations = write_folder(tmp_path, random_truth(seed=6))
    return CocoDataset(annotations=annotations, images=images, class_names=list(CLASSES))


@pytest.mark.parametrize("names", [list(CLASSES), ["kitten", "puppy", "coach"]])
def test_true_boxes_score_one_under_any_names(dataset, names):
    oracle = _Oracle(dataset)
    weights = {names[2]: 8.0}
    predictions = predict_dataset(oracle, dataset, names, class_weights=weights)
    assert predictions.images == len(dataset)
    assert predictions.seconds_per_image >= 0
    evaluation = evaluate_boxes(ground_truth(dataset), predictions.results, classes=CLASSES)
    assert [score.ap for score in evaluation.scores] == pytest.approx([1.0] * 3)
    count, classes, options = oracle.seen[0]
    assert (count, classes) == (1, tuple(names))
    expected = {
        "score": 0.001,
        "nms_iou": 0.5,
        "max_detections": 100,
        "class_agnostic": False,
        "batch_size": 1,
        "tiles": None,
    }
    assert options == expected
    assert oracle.encoded == [{"class_weights": weights, "distractors": ()}]  # once, not for every image


@pytest.mark.parametrize("batch_size", [5, 12, 100])
def test_batches_hold_every_image_once_and_in_order(dataset, batch_size):
    oracle = _Oracle(dataset)
    found = predict_dataset(oracle, dataset, list(CLASSES), batch_size=batch_size)
    assert found.results == predict_dataset(_Oracle(dataset), dataset, list(CLASSES)).results
    counts = [count for count, _, _ in oracle.seen]
    assert sum(counts) == len(dataset)
    assert max(counts) == min(batch_size, len(dataset))


def test_numbers_do_not_depend_on_the_batch_size_or_the_order_of_images(tmp_path):
    detector = tiny_detector(tmp_path / "cache")
    images, annotations = write_noise(tmp_path)
    dataset = CocoDataset(annotations=annotations, images=images)
    classes = list(CLASSES)
    plain = predict_dataset(detector, dataset, classes)
    batched = predict_dataset(detector, dataset, classes, batch_size=3)
    backwards = predict_dataset(detector, dataset, classes, indices=range(len(dataset))[::-1])
    truth = truth_near(plain.results, annotations)
    expected, one, other = (
        evaluate_boxes(truth, found.results, classes=CLASSES).scores for found in (plain, batched, backwards)
    )
    assert any(score.ar for score in expected)
    assert other == expected
    for left, right in zip(expected, one, strict=True):
        for name, value in left.as_dict().items():
            same = value if value is None or isinstance(value, str) else pytest.approx(value, abs=1e-6)
            assert getattr(right, name) == same, name


def test_a_limit_limits_truth_and_results_alike(dataset):
    chosen = range(5)
    shown = []

    def progress(indices):
        for index in indices:
            shown.append(index)
            yield index

    results = predict_dataset(_Oracle(dataset), dataset, list(CLASSES), indices=chosen, progress=progress).results
    truth = ground_truth(dataset, indices=chosen)
    assert shown == list(chosen)
    assert len(truth["images"]) == 5
    assert all(s.ap50 in (None, pytest.approx(1.0)) for s in evaluate_boxes(truth, results, classes=CLASSES).scores)


def test_crowds_stay_in_the_ground_truth(dataset):
    crowds = sum(len(record.crowd_classes) for record in dataset.records)
    assert crowds > 0
    assert sum(a["iscrowd"] for a in ground_truth(dataset)["annotations"]) == crowds


def test_images_of_another_size_are_refused(tmp_path):
    truth = random_truth(seed=6)
    images, annotations = write_folder(tmp_path, {**truth, "images": [{**i, "width": 300} for i in truth["images"]]})
    annotations.write_text(annotations.read_text(encoding="utf-8").replace('"width": 300', '"width": 200'))
    dataset = CocoDataset(annotations=annotations, images=images)
    with pytest.raises(DataError, match="boxes would not fit"):
        predict_dataset(_Oracle(dataset), dataset, list(CLASSES))
