import pytest
import torch
from torchvision.ops import batched_nms

from cora.boxes import cxcywh_to_xyxy
from cora.detector import select_detections
from cora.export.suppression import (
    STEPS,
    Suppress,
    best_proposals,
    kept_boxes,
    kept_boxes_in_steps,
    kept_boxes_operator,
    select_in_graph,
)
from cora.localizer import Proposals


def crowded(count: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    centres = 0.3 + 0.4 * torch.rand(2, count, 2, generator=random)
    return torch.cat([centres, 0.1 + 0.4 * torch.rand(2, count, 2, generator=random)], dim=-1)


@pytest.mark.parametrize("suppress", [kept_boxes, kept_boxes_in_steps])
def test_keeps_what_torchvision_keeps(suppress: Suppress) -> None:
    boxes, scores = cxcywh_to_xyxy(crowded(40)), torch.rand(2, 3, 40)
    scores[:, :, ::4] = scores[:, :, 1::4]  # ties
    mask = suppress(boxes, scores, 0.5, 0.2)
    assert mask.shape == scores.shape
    for image in range(2):
        label, box = (scores[image] > 0.2).nonzero(as_tuple=True)
        kept = batched_nms(boxes[image, box], scores[image, label, box], label, 0.5)
        expected = torch.zeros(3, 40)
        expected[label[kept], box[kept]] = 1
        assert torch.equal(mask[image], expected)
        assert 0 < expected.sum() < (scores[image] > 0.2).sum()


def test_nothing_above_the_score_keeps_nothing() -> None:
    assert not kept_boxes(cxcywh_to_xyxy(crowded(5)), torch.zeros(2, 3, 5), 0.5, 0.0).any()


def test_steps_are_exact_along_a_chain_of_their_number() -> None:
    count = STEPS + 9
    places = 0.3 * torch.arange(count) / count
    # Every box overlaps the next two by more than the threshold, and those after them by less.
    boxes = torch.stack([places, places, places + 0.04, places + 0.04], dim=-1)[None]
    scores = torch.linspace(1, 0.5, count)[None, None]
    right, found = (suppress(boxes, scores, 0.3, 0.0)[0, 0] for suppress in (kept_boxes, kept_boxes_in_steps))
    assert 0 < right.sum() < count
    assert torch.equal(found[:STEPS], right[:STEPS])


def test_operator_does_the_same() -> None:
    boxes, scores = cxcywh_to_xyxy(crowded(10)), torch.rand(2, 1, 10)
    assert torch.equal(kept_boxes_operator(boxes, scores, 0.5, 0.1), kept_boxes(boxes, scores, 0.5, 0.1))


def test_best_proposals_are_those_of_the_localizer() -> None:
    inside = torch.ones(2, 50, dtype=torch.bool)
    inside[1, 30:] = False
    proposals = Proposals(
        boxes_cxcywh=crowded(50), objectness=torch.randn(2, 50), centres=torch.rand(2, 50, 2), inside=inside
    )
    for count in (5, 20, 45):  # the last is more than the second image has cells
        found = best_proposals(proposals, count, suppress=kept_boxes)
        torch.testing.assert_close(found, proposals.best(count), rtol=0, atol=0)


def test_selection_is_that_of_the_detector_filled_up() -> None:
    boxes, scores = crowded(15), torch.rand(2, 15, 4) ** 4
    found = select_in_graph(boxes, scores, suppress=kept_boxes, iou=0.4, min_score=0.3, max_detections=70)
    for image, (corners, values, labels) in enumerate(zip(*found, strict=True)):
        expected = select_detections(
            boxes[image], scores[image], (1, 1), min_score=0.3, nms_iou=0.4, max_detections=70, clip=False
        )
        count = len(expected[1])
        assert 0 < count <= 60
        torch.testing.assert_close(cxcywh_to_xyxy(corners[:count]), expected[0])
        torch.testing.assert_close(values[:count], expected[1])
        assert torch.equal(labels[:count], expected[2])
        assert (values[count:] == 0).all()
        assert (labels[count:] == -1).all()
