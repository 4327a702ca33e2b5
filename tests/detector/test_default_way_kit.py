"""nano on 30 images of the kit: the default way costs no average precision there against the published one.

`benchmarks/latency.py` measures the same on all images, with intervals.
"""

from pathlib import Path

import pytest
import torch

import cora
from cora.data.class_split import read_class_split
from cora.data.read import read_dataset
from cora.detector import Detector
from cora.evaluation.base_novel import class_groups
from cora.evaluation.held_out import HeldOut
from cora.predictor import scoring_all_boxes

pytestmark = pytest.mark.slow

PHOTOS = 30
#: Points of AP50 that the default way (folded norms, boxes left out of exact pooling) may cost.
MAX_LOSS = 0.1


@pytest.mark.needs_shared
def test_the_default_way_keeps_average_precision(shared: Path) -> None:
    kit = shared / "kit" / "coco_ovd_mini"
    dataset = read_dataset(images=kit / "val", annotations=kit / "val.json")
    split = read_class_split(kit / "class_split.json")
    detector = cora.load("nano").detector
    detector.precision = "float32"  # the same on every machine

    dataset.records = dataset.records[:PHOTOS]
    held_out = HeldOut(dataset=dataset, groups=class_groups(split.base, split.novel), resamples=2)

    def ap50(model: Detector) -> dict[str, float]:
        return {group: 100 * value for group, value in held_out.ap50(model).items()}

    every, default = ap50(scoring_all_boxes(detector)), ap50(detector)
    assert all(every[group] > 1 for group in every)
    assert all(default[group] > every[group] - MAX_LOSS for group in every)

    # The measure can tell: with a prompt to nowhere regions lose their names.
    torch.manual_seed(0)
    torch.nn.init.normal_(detector.prompt.offset, std=10.0)
    assert ap50(detector)["ap50_all"] < every["ap50_all"] - MAX_LOSS
