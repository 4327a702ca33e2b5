"""nano as ONNX and OpenVINO on images of the kit: the same boxes, the same average precision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

import cora
from cora.data.class_split import read_class_split
from cora.data.read import read_dataset
from cora.detector import Detector
from cora.evaluation.base_novel import class_groups
from cora.evaluation.held_out import HeldOut
from cora.export import ExportedDetector, ExportSettings, export_detector, load_exported
from cora.export.backends import Arrays
from cora.export.onnx_file import read_onnx_manifest
from cora.export.openvino_file import write_openvino

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
