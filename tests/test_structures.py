"""Validation at the border and the forms that detections can be had in."""

import numpy as np
import pytest
import torch
from PIL import Image

from cora.structures import Detections, FeatureMap, ImageBatch, Targets


def detections(**changes: object) -> Detections:
    values: dict[str, object] = {
        "boxes_xyxy_px": torch.tensor([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 5.0, 5.0]]),
        "scores": torch.tensor([0.9, 0.5]),
        "labels": torch.tensor([1, 0]),
        "class_names": ("cat", "dog"),
        "image_size": (80, 100),
    }
    return Detections(**{**values, **changes})  # type: ignore[arg-type]


def test_detections_iterate_as_name_score_box() -> None:
    found = list(detections())
    assert [name for name, _, _ in found] == ["dog", "cat"]
    assert found[0][2] == (10.0, 20.0, 30.0, 60.0)
    assert len(detections()) == 2


def test_to_coco_is_corner_and_size() -> None:
    first, second = detections().to_coco(7, {"dog": 18, "cat": 17})
    assert first["bbox"] == [10.0, 20.0, 20.0, 40.0]
    assert (first["image_id"], first["category_id"], second["category_id"]) == (7, 18, 17)
    assert detections().to_coco(1)[0]["category_id"] == 2


def test_to_supervision() -> None:
    supervision = pytest.importorskip("supervision")
    converted = detections().to_supervision()
    assert isinstance(converted, supervision.Detections)
    assert converted.class_id.tolist() == [1, 0]
    np.testing.assert_allclose(converted.xyxy[0], [10, 20, 30, 60])


def test_draw_needs_an_image() -> None:
    with pytest.raises(ValueError, match="pass the image"):
        detections().draw()
    picture = Image.new("RGB", (100, 80))
    drawn = detections(image=picture).draw()
    assert drawn.size == picture.size
    assert drawn.tobytes() != picture.tobytes()


def test_empty_detections_are_fine() -> None:
    empty = detections(boxes_xyxy_px=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long))
    assert len(empty) == 0
    assert list(empty) == []
    assert empty.to_coco(1) == []


def test_messages_say_expected_and_got() -> None:
    with pytest.raises(ValueError, match=r"expected boxes \[2, 4\].*got \[1, 4\]"):
        detections(boxes_xyxy_px=torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"expected labels in 0\.\.1, got 0\.\.5"):
        detections(labels=torch.tensor([0, 5]))
    with pytest.raises(ValueError, match=r"expected shape \[T, 4\], got \[3\]"):
        Targets(boxes_cxcywh=torch.zeros(3), classes=torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="expected int64"):
        Targets(boxes_cxcywh=torch.zeros(3, 4), classes=torch.zeros(3))
    with pytest.raises(ValueError, match="mask: expected bool"):
        ImageBatch(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4), ((4, 4),), ((4, 4),))
    with pytest.raises(ValueError, match="one per image"):
        ImageBatch(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool), (), ())
    with pytest.raises(ValueError, match="feature map: expected"):
        FeatureMap(torch.zeros(1, 8, 4, 4), torch.zeros(1, 5, 4, dtype=torch.bool))


def test_extents_count_the_cells_that_are_not_padding() -> None:
    mask = torch.ones(2, 6, 7, dtype=torch.bool)
    mask[0, :5, :7] = False
    mask[1, :6, :4] = False
    assert FeatureMap(torch.zeros(2, 8, 6, 7), mask).extents_hw.tolist() == [[5, 7], [6, 4]]


def test_batch_types_pin_every_tensor_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    # A real page-locked copy needs a GPU.
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: (pinned.append(self.data_ptr()), self.clone())[1])
    images = ImageBatch(
        pixels=torch.rand(1, 3, 4, 5),
        mask=torch.zeros(1, 4, 5, dtype=torch.bool),
        sizes=((4, 5),),
        original_sizes=((8, 10),),
    )
    features = FeatureMap(torch.rand(1, 2, 4, 5), torch.zeros(1, 4, 5, dtype=torch.bool))
    targets = Targets(boxes_cxcywh=torch.rand(2, 4), classes=torch.tensor([0, 1]))
    for batch in (images, features, targets):
        pinned.clear()
        copy = batch.pin_memory()
        tensors = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
        assert sorted(pinned) == sorted(value.data_ptr() for value in tensors.values())
        for name, value in vars(batch).items():
            same = torch.equal(getattr(copy, name), value) if name in tensors else getattr(copy, name) == value
            assert same
