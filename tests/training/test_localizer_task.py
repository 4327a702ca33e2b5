"""The localizer task: what learns, what classes are given, what denoising may not touch."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from cora.detector import Detector
from cora.localizer import LocalizerOutput
from cora.regions import Vocabulary
from cora.structures import FeatureMap, ImageBatch, Targets
from cora.training import localizer_task
from cora.training.allowed_pairs import allowed_pairs
from cora.training.denoising import DenoisingConfig
from cora.training.localizer_task import Copy, LocalizerTask, LocalizerTaskConfig

CLASSES = 5  # of the fixture `vocabulary`


def batch(images: int = 2) -> tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]:
    c3 = FeatureMap(torch.randn(images, 64, 6, 6), torch.zeros(images, 6, 6, dtype=torch.bool))
    c4 = FeatureMap(torch.randn(images, 128, 3, 3), torch.zeros(images, 3, 3, dtype=torch.bool))
    boxes = torch.tensor([[0.3, 0.3, 0.3, 0.4], [0.7, 0.6, 0.4, 0.3], [0.5, 0.5, 0.8, 0.8]])
    targets = Targets(boxes_cxcywh=boxes, classes=torch.tensor([0, 1, 2]))
    return c3, c4, (targets,) * images


def config(**changes: object) -> LocalizerTaskConfig:
    return LocalizerTaskConfig(**({"class_dropout": 0.0} | changes))  # type: ignore[arg-type]


def photos(images: int = 2) -> tuple[ImageBatch, tuple[Targets, ...]]:
    """The same boxes in images, for the whole way through the tower."""
    sizes = ((96, 96),) * images
    mask = torch.zeros(images, 96, 96, dtype=torch.bool)
    return ImageBatch(torch.randn(images, 3, 96, 96), mask, sizes, sizes), batch(images)[-1]


def copies(task: LocalizerTask) -> list[Copy]:
    c3, c4, targets = batch()
    return task.copies(task.detector.localizer.encode(c3), c4, targets)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_the_localizer_learns_and_all_of_it(
    detector: Detector, vocabulary: Vocabulary, checkpointing: bool
) -> None:
    settings = config(denoising=DenoisingConfig(groups=2, max_queries=20), activation_checkpointing=checkpointing)
    task = LocalizerTask(detector=detector, vocabulary=vocabulary, config=settings).train()
    frozen = {n: p.clone() for n, p in detector.state_dict().items() if not n.startswith("localizer")}
    learning = [p for p in task.parameters() if p.requires_grad]
    assert {id(p) for p in learning} == {id(p) for p in detector.localizer.parameters()}
    optimiser = torch.optim.AdamW(learning, lr=1e-2, weight_decay=0.1)
    # The box heads start at zero, which hides the gradient of what lies below: take a second step.
    for _ in range(2):
        optimiser.zero_grad()
        task(photos())["loss"].backward()
        optimiser.step()
    without = [n for n, p in detector.localizer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    assert all(torch.equal(value, detector.state_dict()[name]) for name, value in frozen.items())
    towers = [*detector.image_tower.modules(), *detector.text_tower.modules()]
    assert not any(module.training for module in towers)
    assert all(module.training for module in detector.localizer.modules())


def test_checkpointing_changes_no_gradient(detector: Detector, vocabulary: Vocabulary) -> None:
    for module in detector.localizer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    inputs, gradients = batch(), []
    for checkpointing in (False, True):
        task = LocalizerTask(
            detector=detector, vocabulary=vocabulary, config=config(activation_checkpointing=checkpointing)
        ).train()
        task.zero_grad()
        torch.manual_seed(7)
        task(inputs)["loss"].backward()
        gradients.append([p.grad.clone() for p in detector.localizer.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_denoising_does_not_change_what_the_anchors_see(detector: Detector, vocabulary: Vocabulary) -> None:
    inputs = batch()
    plain = LocalizerTask(detector=detector, vocabulary=vocabulary, config=config()).train()(inputs)
    noised = LocalizerTask(
        detector=detector, vocabulary=vocabulary, config=config(denoising=DenoisingConfig(groups=3, max_queries=30))
    ).train()(inputs)
    for name in ("objectness", "l1", "giou"):
        torch.testing.assert_close(plain[name], noised[name])
    assert noised["loss"] > plain["loss"]


def test_both_groups_of_class_dropout_together_hold_every_class_once(
    detector: Detector, vocabulary: Vocabulary
) -> None:
    task = LocalizerTask(detector=detector, vocabulary=vocabulary, config=config(class_dropout=1.0)).train()
    first, second = copies(task)  # this seed leaves no group empty
    assert sorted(torch.cat([first.known, second.known]).tolist()) == list(range(CLASSES))
    for half in (first, second):
        assert torch.isin(half.classes, half.known).all()
        assert all(torch.isin(one.classes, half.known).all() for one in half.targets)
    assert sum(len(one) for half in (first, second) for one in half.targets) == 6
    assert len(copies(task.eval())) == 1


def test_both_copies_count_as_one_doubled_batch(detector: Detector, vocabulary: Vocabulary) -> None:
    task = LocalizerTask(detector=detector, vocabulary=vocabulary, config=config(class_dropout=1.0)).train()
    for module in detector.localizer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    found = copies(task)
    assert len(found) == 2
    outputs = [task.decode(copy, copy.anchors_cxcywh, copy.classes) for copy in found]
    doubled = LocalizerOutput(
        **{
            entry.name: torch.cat([getattr(output, entry.name) for output in outputs], dim=1)
            for entry in fields(LocalizerOutput)
        }
    )
    targets = [one for copy in found for one in copy.targets]
    allowed = allowed_pairs(torch.cat([copy.classes for copy in found]), targets, task.similar)
    expected = task.criterion(doubled, targets, allowed)
    given = task.criterion.normalised(
        [task.criterion.sums(*task.matching(*pair)) for pair in zip(outputs, found, strict=True)]
    )
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(given[name], value)


def test_a_group_without_classes_makes_no_copy(
    detector: Detector, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = torch.ones(CLASSES, dtype=torch.bool)
    monkeypatch.setattr(localizer_task, "complementary_groups", lambda count, device: (~everything, everything))
    task = LocalizerTask(detector=detector, vocabulary=vocabulary, config=config(class_dropout=1.0)).train()
    (copy,) = copies(task)
    assert copy.known.tolist() == list(range(CLASSES))
    assert torch.isfinite(task(batch())["loss"])


@pytest.mark.parametrize(("wanted", "drawn"), [(1, 3), (3, 3), (4, 4), (5, 5), (100, 5)])
def test_a_step_tells_few_classes_apart_and_loses_no_box(
    detector: Detector, vocabulary: Vocabulary, wanted: int, drawn: int
) -> None:
    task = LocalizerTask(detector=detector, vocabulary=vocabulary, config=config(classes_per_step=wanted))
    (copy,) = copies(task)
    assert len(copy.known) == drawn
    assert {0, 1, 2} <= set(copy.known.tolist())
    assert torch.isin(copy.classes, copy.known).all()
    assert [len(one) for one in copy.targets] == [3, 3]


def test_relaxed_matching_finds_boxes_that_no_query_of_their_class_could(
    detector: Detector, vocabulary: Vocabulary
) -> None:
    inputs = batch()
    shares = {}
    for name, settings, groups in (
        ("strict", config(), None),
        ("cosine", config(relaxed_cosine=-1.0), None),
        ("groups", config(), [0] * CLASSES),
        ("own groups", config(), list(range(CLASSES))),
    ):
        task = LocalizerTask(detector=detector, vocabulary=vocabulary, config=settings, class_groups=groups).eval()
        shares[name] = float(task(inputs)["matched_share"])
    # All anchors of these random maps are pre-matched to few of the classes.
    assert shares["strict"] == shares["own groups"] < 1
    assert shares["cosine"] == shares["groups"] == 1


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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "wrong", [{"class_dropout": 1.5}, {"target_repeats": 0}, {"classes_per_step": 0}, {"relaxed_cosine": 7}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        config(**wrong)
