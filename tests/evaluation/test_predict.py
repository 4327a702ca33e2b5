import pytest
import torch

from cora.data.coco import CocoDataset
from cora.errors import DataError
from cora.evaluation.coco_ap import evaluate_boxes
from cora.evaluation.predict import ground_truth, predict_dataset
from cora.structures import Detections
from tests.evaluation.coco_data import CLASSES, write_folder
from tests.evaluation.coco_data import ground_truth as random_truth


class _Oracle:
    """Answers with the true boxes, in the order of the dataset, whatever the classes are called."""

    def __init__(self, dataset):
        self.records = iter(dataset.records)
        self.seen = []

    def predict(self, images, classes, **options):
        self.seen.append((len(images), tuple(classes), options))
        record = next(self.records)
        return [
            Detections(
                boxes_xyxy_px=record.boxes_xyxy_px,
                scores=torch.ones(len(record.classes)),
                labels=record.classes,
                class_names=tuple(classes),
                image_size=record.size,
            )
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
    expected = {"score": 0.001, "nms_iou": 0.5, "max_detections": 100, "class_weights": weights, "distractors": ()}
    assert options == expected


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
