"""nano on 30 photos of the kit: boxes that are not pooled exactly cost no average precision there.

`benchmarks/latency.py` measures the same on all photos, with intervals.
"""

from pathlib import Path

import pytest
import torch

import cora
from cora.data.class_split import read_class_split
from cora.data.read import read_dataset
from cora.detector import Detector
from cora.detector.inference import scoring_all_boxes
from cora.regions import FastAlignment
from tests.evaluation.group_ap import group_ap50

PHOTOS = 30
#: Points of AP50 that leaving boxes out of exact pooling may cost.
MAX_LOSS = 0.1


@pytest.mark.needs_shared
def test_the_default_way_keeps_average_precision(shared: Path) -> None:
    kit = shared / "kit" / "coco_ovd_mini"
    dataset = read_dataset(images=kit / "val", annotations=kit / "val.json")
    split = read_class_split(kit / "class_split.json")
    detector = cora.load("nano")
    detector.precision = "float32"  # the same on every machine

    def ap50(model: Detector) -> dict[str, float]:
        return group_ap50(model, dataset, split, photos=PHOTOS)

    every, default = ap50(scoring_all_boxes(detector)), ap50(detector)
    assert all(every[group] > 1 for group in every)
    assert all(default[group] > every[group] - MAX_LOSS for group in every)

    # The measure can tell: with an alignment to nowhere the boxes that are not pooled exactly lose their names.
    torch.manual_seed(0)
    astray = FastAlignment(embed_dim=detector.config.tower.embed_dim)
    torch.nn.init.normal_(astray.shift.weight)
    detector.align_fast_pooling(astray)
    assert ap50(detector)["all"] < every["all"] - MAX_LOSS
