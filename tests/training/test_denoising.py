import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.boxes import aligned_iou, cxcywh_to_xyxy
from cora.errors import TrainingError
from cora.structures import Targets
from cora.training.denoising import DenoisingConfig, make_queries


def targets(count: int) -> Targets:
    boxes = torch.cat([0.3 + 0.4 * torch.rand(count, 2), 0.1 + 0.3 * torch.rand(count, 2)], dim=1)
    return Targets(boxes_cxcywh=boxes, classes=torch.arange(count) % 5)


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    groups=st.integers(1, 6),
    max_queries=st.integers(2, 60),
    seed=st.integers(0, 1000),
)
def test_queries_are_bounded_and_belong_to_boxes(counts: list[int], groups: int, max_queries: int, seed: int) -> None:
    torch.manual_seed(seed)
    batch = [targets(count) for count in counts]
    queries = make_queries(batch, DenoisingConfig(groups=groups, max_queries=max_queries))
    if not any(counts):
        assert queries is None
        return
    assert queries is not None
    assert queries.positive.shape[1] <= max_queries
    assert queries.positive.shape[1] % queries.group_size == 0
    assert not (queries.positive & queries.negative).any()
    assert queries.positive.sum() == queries.negative.sum()
    assert (queries.anchors_cxcywh >= 0).all()
    assert (queries.anchors_cxcywh <= 1).all()
    assert (queries.anchors_cxcywh[..., 2:] > 0).all()
    for i, one in enumerate(batch):
        real = queries.positive[i] | queries.negative[i]
        assert bool(real.any()) == (len(one) > 0)
        for box, label in zip(queries.boxes_cxcywh[i][real], queries.classes[i][real], strict=True):
            place = (one.boxes_cxcywh == box).all(dim=1).nonzero()[0, 0]
            assert one.classes[place] == label


def test_positives_stay_nearer_than_negatives() -> None:
    torch.manual_seed(0)
    queries = make_queries([targets(8)], DenoisingConfig(groups=10, box_noise=0.4))
    assert queries is not None
    overlap = aligned_iou(cxcywh_to_xyxy(queries.anchors_cxcywh[0]), cxcywh_to_xyxy(queries.boxes_cxcywh[0]))
    assert overlap[queries.positive[0]].min() > 0.4
    assert overlap[queries.positive[0]].mean() > overlap[queries.negative[0]].mean() + 0.2


def test_groups_see_themselves_only() -> None:
    queries = make_queries([targets(2), targets(1)], DenoisingConfig(groups=3))
    assert queries is not None
    blocked = queries.attention_mask(anchors=4)
    assert blocked.shape == (4 + 12, 4 + 12)
    assert not blocked[:4, :4].any()
    assert blocked[:4, 4:].all()
    assert blocked[4:, :4].all()
    for group in range(3):
        inside = slice(4 + 4 * group, 8 + 4 * group)
        assert not blocked[inside, inside].any()
        assert blocked[inside].sum() == 4 * 12


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(TrainingError, match="groups >= 1"):
        DenoisingConfig(groups=0)
