"""nano as ONNX and OpenVINO on images of the kit: the same boxes, the same average precision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import cora
from cora.data.class_split import read_class_split
from cora.data.read import read_dataset
from cora.detector import Detector
from cora.evaluation.base_novel import class_groups
from cora.evaluation.held_out import HeldOut
from cora.export import ExportedDetector, ExportSettings, export_detector, load_exported, suppression
from cora.export.backends import Arrays
from cora.export.graph import GraphDetector
from cora.export.onnx_file import read_onnx_manifest
from cora.export.openvino_file import write_openvino
from cora.export.suppression import kept_boxes, kept_boxes_in_steps
from cora.images import read_image

pytestmark = pytest.mark.integration

PHOTOS = 6


@pytest.mark.needs_shared
def test_average_precision_is_that_of_the_original(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = shared / "kit" / "coco_ovd_mini"
    dataset = read_dataset(images=kit / "val", annotations=kit / "val.json")
    split = read_class_split(kit / "class_split.json")
    detector = cora.load("nano")
    detector.precision = "float32"
    path = tmp_path / "nano.onnx"
    # One size, since the exporter takes a minute to reason about open ones.
    settings = ExportSettings(size_hw=(384, 576), batch=1)
    written = export_detector(detector, path, format="onnx", model="nano", settings=settings)
    assert written.difference.passes
    write_openvino(path, read_onnx_manifest(path), path.with_suffix(".xml"))
    exported = [load_exported(path.with_suffix(ending), load_text_model=cora.load) for ending in (".onnx", ".xml")]
    detector.preprocessor = exported[0].preprocessor  # the same pixels for all

    dataset.records = dataset.records[:PHOTOS]
    held_out = HeldOut(dataset=dataset, groups=class_groups(split.base, split.novel), resamples=2)

    def ap50(model: Detector | ExportedDetector) -> dict[str, float]:
        return {group: 100 * value for group, value in held_out.ap50(cast(Detector, model)).items()}

    expected = ap50(detector)
    assert expected["ap50_all"] > 0
    for model in exported:
        assert ap50(model) == pytest.approx(expected, abs=0.1)

    def miscompiled(inputs: Arrays, run: Callable[[Arrays], list[NDArray[Any]]] = exported[0].backend.run) -> Any:
        boxes, *others = run(inputs)
        return [boxes + np.float32(0.05), *others]

    monkeypatch.setattr(exported[0].backend, "run", miscompiled)
    assert ap50(exported[0]) != pytest.approx(expected, abs=0.1)


@pytest.mark.needs_shared
def test_photos_need_half_the_steps_of_suppression(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression, "STEPS", suppression.STEPS // 2)
    detector = cora.load("nano").detector.eval()
    detector.precision = "float32"
    photos = sorted((shared / "kit" / "coco_ovd_mini" / "val").iterdir())[:PHOTOS]
    differ = 0

    def both(boxes: Tensor, scores: Tensor, iou: float, min_score: float) -> Tensor:
        nonlocal differ
        kept = kept_boxes(boxes, scores, iou, min_score)
        differ += int((kept != kept_boxes_in_steps(boxes, scores, iou, min_score)).sum())
        assert 100 < kept.sum() < kept.numel() / 2
        return kept

    graph = GraphDetector.of(detector, both)
    with torch.inference_mode():
        for photo in photos:
            batch = detector.preprocessor([read_image(photo)])
            c3, _ = graph.image_tower.maps(batch.pixels, batch.mask)
            graph.anchors(graph.encode_map(c3))
    assert differ == 0
