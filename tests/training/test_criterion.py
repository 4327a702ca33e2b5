"""The objective: every layer on its own, divided by the matches of the last."""

import pytest
import torch
from torch import Tensor

from cora.errors import TrainingError
from cora.localizer import LocalizerOutput
from cora.structures import Targets
from cora.training.criterion import Criterion, LossWeights

LAYERS, BATCH, QUERIES = 3, 2, 6


def random_output() -> LocalizerOutput:
    boxes = torch.rand(LAYERS, BATCH, QUERIES, 4) * 0.5 + 0.2
    objectness = torch.randn(LAYERS, BATCH, QUERIES)
    return LocalizerOutput(
        boxes_cxcywh=boxes.requires_grad_(),
        objectness=objectness.requires_grad_(),
        hidden=boxes,
        references=boxes,
    )


def targets_of(*counts: int) -> tuple[list[Targets], list[Tensor]]:
    targets = [
        Targets(boxes_cxcywh=torch.rand(count, 4) * 0.5 + 0.2, classes=torch.zeros(count, dtype=torch.int64))
        for count in counts
    ]
    return targets, [torch.ones(QUERIES, count, dtype=torch.bool) for count in counts]


def test_names_and_total() -> None:
    weights = LossWeights(objectness=3.0, l1=0.5, giou=7.0)
    losses = Criterion(weights=weights)(random_output(), *targets_of(2, 3))
    expected = {f"{name}{suffix}" for name in ("objectness", "l1", "giou") for suffix in ("", "_0", "_1")}
    assert set(losses) == expected | {"total", "matched_share"}
    total = sum(
        factor * losses[f"{name}{suffix}"]
        for name, factor in (("objectness", 3.0), ("l1", 0.5), ("giou", 7.0))
        for suffix in ("", "_0", "_1")
    )
    torch.testing.assert_close(losses["total"], total)
    assert not losses["matched_share"].requires_grad


@pytest.mark.parametrize("counts", [(0, 0), (0, 3)])
def test_images_without_boxes_give_finite_losses_and_gradients(counts: tuple[int, int]) -> None:
    output = random_output()
    losses = Criterion()(output, *targets_of(*counts))
    losses["total"].backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert output.objectness.grad is not None
    assert output.boxes_cxcywh.grad is not None
    assert torch.isfinite(output.objectness.grad).all()
    assert output.objectness.grad.abs().min() > 0
    assert bool((output.boxes_cxcywh.grad[:, 0] == 0).all())


def test_nothing_allowed_is_all_background() -> None:
    output = random_output()
    targets, allowed = targets_of(2, 2)
    losses = Criterion()(output, targets, [torch.zeros_like(one) for one in allowed])
    none = Criterion()(output, *targets_of(0, 0))
    torch.testing.assert_close(losses["total"], none["total"])
    assert float(losses["matched_share"]) == 0.0


def test_divided_by_the_matches_of_the_last_layer() -> None:
    output = random_output()
    targets, allowed = targets_of(3, 2)
    matches = Criterion().match(output, targets, allowed)
    losses = Criterion()(output, targets, allowed)
    first, last = matches[0], matches[-1]
    wanted = torch.stack([targets[i].boxes_cxcywh[t] for i, t in zip(first.image, first.target, strict=True)])
    found = output.boxes_cxcywh[0][first.image, first.query]
    torch.testing.assert_close(losses["l1_0"], (found - wanted).abs().sum() / len(last))
    torch.testing.assert_close(losses["matched_share"], torch.tensor(len(last) / 5))


def test_layers_match_on_their_own() -> None:
    output, (targets, allowed) = random_output(), targets_of(2, 2)
    for layer, matches in enumerate(Criterion().match(output, targets, allowed)):
        single = LocalizerOutput(
            boxes_cxcywh=output.boxes_cxcywh[layer : layer + 1],
            objectness=output.objectness[layer : layer + 1],
            hidden=output.hidden[layer : layer + 1],
            references=output.references[layer : layer + 1],
        )
        (alone,) = Criterion().match(single, targets, allowed)
        assert torch.equal(matches.query, alone.query)
        assert torch.equal(matches.target, alone.target)


def test_perfect_boxes_cost_nothing() -> None:
    output, (targets, allowed) = random_output(), targets_of(2, 1)
    with torch.no_grad():
        for image, one in enumerate(targets):
            output.boxes_cxcywh[:, image, : len(one)] = one.boxes_cxcywh
    losses = Criterion()(output, targets, allowed)
    assert float(losses["l1"].detach()) < 1e-5
    assert float(losses["giou"].detach()) < 1e-5


def test_errors() -> None:
    output, (targets, allowed) = random_output(), targets_of(2, 1)
    with pytest.raises(ValueError, match="allowed pairs of 2 images, got 1 and 2"):
        Criterion()(output, targets[:1], allowed)
    with torch.no_grad():
        output.objectness[1, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match="expected finite"):
        Criterion()(output, targets, allowed)
