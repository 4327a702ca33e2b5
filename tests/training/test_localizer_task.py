"""The localizer task: what learns, what classes are given, what denoising may not touch."""

from __future__ import annotations

import pytest
import torch

from cora.detector import Detector
from cora.regions import Vocabulary
from cora.structures import FeatureMap, Targets
from cora.training.denoising import DenoisingConfig
from cora.training.localizer_task import LocalizerTask, LocalizerTaskConfig

CLASSES = 5  # of the fixture `vocabulary`


def batch(images: int = 2) -> tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]:
    c3 = FeatureMap(torch.randn(images, 64, 6, 6), torch.zeros(images, 6, 6, dtype=torch.bool))
    c4 = FeatureMap(torch.randn(images, 128, 3, 3), torch.zeros(images, 3, 3, dtype=torch.bool))
    boxes = torch.tensor([[0.3, 0.3, 0.3, 0.4], [0.7, 0.6, 0.4, 0.3], [0.5, 0.5, 0.8, 0.8]])
    targets = Targets(boxes_cxcywh=boxes, classes=torch.tensor([0, 1, 2]))
    return c3, c4, (targets,) * images


def config(**changes: object) -> LocalizerTaskConfig:
    return LocalizerTaskConfig(**({"class_dropout": 0.0} | changes))  # type: ignore[arg-type]


def test_only_the_localizer_learns_and_all_of_it(detector: Detector, vocabulary: Vocabulary) -> None:
    task = LocalizerTask(
        detector=detector, vocabulary=vocabulary, config=config(denoising=DenoisingConfig(groups=2, max_queries=20))
    ).train()
    frozen = {n: p.clone() for n, p in detector.state_dict().items() if not n.startswith("localizer")}
    optimiser = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=1e-2)
    # The box heads start at zero, which hides the gradient of what lies below: take a second step.
    for _ in range(2):
        optimiser.zero_grad()
        task(batch())["loss"].backward()
        optimiser.step()
    without = [n for n, p in detector.localizer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    assert all(torch.equal(value, detector.state_dict()[name]) for name, value in frozen.items())


def test_denoising_does_not_change_what_the_anchors_see(detector: Detector, vocabulary: Vocabulary) -> None:
    inputs = batch()
    plain = LocalizerTask(detector=detector, vocabulary=vocabulary, config=config()).train()(inputs)
    noised = LocalizerTask(
        detector=detector, vocabulary=vocabulary, config=config(denoising=DenoisingConfig(groups=3, max_queries=30))
    ).train()(inputs)
    for name in ("objectness", "l1", "giou"):
        torch.testing.assert_close(plain[name], noised[name])
    assert noised["loss"] > plain["loss"]


def test_both_halves_of_class_dropout_together_hold_every_class_once(
    detector: Detector, vocabulary: Vocabulary
) -> None:
    task = LocalizerTask(detector=detector, vocabulary=vocabulary, config=config(class_dropout=1.0)).train()
    halves = task._known_classes()
    assert sorted(torch.cat(halves).tolist()) == list(range(CLASSES))
    assert len(task.eval()._known_classes()) == 1


def test_no_boxes_still_teach_that_there_is_nothing(detector: Detector, vocabulary: Vocabulary) -> None:
    c3, c4, _ = batch()
    nothing = Targets(boxes_cxcywh=torch.zeros(0, 4), classes=torch.zeros(0, dtype=torch.int64))
    task = LocalizerTask(
        detector=detector, vocabulary=vocabulary, config=config(denoising=DenoisingConfig(groups=2, max_queries=20))
    )
    loss = task.train()((c3, c4, (nothing, nothing)))["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > 0


def test_learns_two_pictures_by_heart(detector: Detector, vocabulary: Vocabulary) -> None:
    inputs = batch()
    task = LocalizerTask(
        detector=detector,
        vocabulary=vocabulary,
        config=config(denoising=DenoisingConfig(groups=2, max_queries=20), target_repeats=2),
    ).train()
    optimiser = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        losses.append(task(inputs)["loss"])
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("wrong", [{"class_dropout": 1.5}, {"target_repeats": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        config(**wrong)
