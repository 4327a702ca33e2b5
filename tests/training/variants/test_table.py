"""Every row of the ablation table: what learns, what stays, what predicts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from cora.detector import Detector
from cora.predictor import Predictor
from cora.regions import Vocabulary
from cora.structures import FeatureMap, Targets
from cora.training.denoising import DenoisingConfig
from cora.training.ema import load_trainable_state, trainable_state
from cora.training.localizer_task import LocalizerTask, LocalizerTaskConfig
from cora.training.variants import VARIANTS

TRAINED = [name for name, variant in VARIANTS.items() if variant.weights_of is None]
CONFIG = LocalizerTaskConfig(class_dropout=0.5, denoising=DenoisingConfig(groups=2, max_queries=20), target_repeats=2)


def batch() -> tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]:
    """Maps of three images; the last holds nothing and is padded."""
    c3 = FeatureMap(torch.randn(3, 64, 6, 6), torch.zeros(3, 6, 6, dtype=torch.bool))
    c4 = FeatureMap(torch.randn(3, 128, 3, 3), torch.zeros(3, 3, 3, dtype=torch.bool))
    c3.mask[2, :, 4:] = True
    c4.mask[2, :, 2:] = True
    boxes = torch.tensor([[0.3, 0.3, 0.3, 0.4], [0.7, 0.6, 0.4, 0.3], [0.5, 0.5, 0.8, 0.8]])
    first = Targets(boxes_cxcywh=boxes, classes=torch.tensor([0, 1, 2]))
    second = Targets(boxes_cxcywh=boxes[:1], classes=torch.tensor([4]))
    return c3, c4, (first, second, Targets(boxes_cxcywh=boxes[:0], classes=torch.zeros(0, dtype=torch.int64)))


def build(name: str, detector: Detector, vocabulary: Vocabulary) -> LocalizerTask:
    return VARIANTS[name].build(detector=detector, vocabulary=vocabulary, config=CONFIG).train()


@pytest.mark.parametrize("name", TRAINED)
def test_all_that_may_learn_does_and_the_rest_stays_bit_identical(
    name: str, detector: Detector, vocabulary: Vocabulary
) -> None:
    task = build(name, detector, vocabulary)
    learning = {n: p for n, p in task.named_parameters() if p.requires_grad}
    frozen = {n: t.clone() for n, t in task.state_dict().items() if n not in learning}
    start = {n: p.detach().clone() for n, p in learning.items()}
    untouched = {n: t.clone() for n, t in detector.state_dict().items()}
    optimiser = torch.optim.AdamW(learning.values(), lr=1e-2, weight_decay=0.1)
    graded: set[str] = set()
    # The box heads start at zero, which hides the gradient of what lies below from the first step.
    for _ in range(3):
        optimiser.zero_grad()
        losses = task(batch())
        losses["loss"].backward()
        graded |= {n for n, p in learning.items() if p.grad is not None and p.grad.abs().sum() > 0}
        optimiser.step()
    assert set(learning) - graded == set()
    assert [n for n, p in learning.items() if torch.equal(p, start[n])] == []
    assert [n for n, value in frozen.items() if not torch.equal(task.state_dict()[n], value)] == []
    assert not any(module.training for module in task.detector.image_tower.modules())
    assert all(torch.equal(detector.state_dict()[n], value) for n, value in untouched.items())


@pytest.mark.parametrize("name", ["region-proposals", "conditional", "end-to-end", "oracle", "top-2"])
@pytest.mark.slow
def test_learns_by_heart(name: str, detector: Detector, vocabulary: Vocabulary) -> None:
    # Without class dropout: with so few boxes its copies sometimes match none, and losses jump.
    config = replace(CONFIG, class_dropout=0.0)
    task = VARIANTS[name].build(detector=detector, vocabulary=vocabulary, config=config).train()
    c3, c4, (first, *_) = batch()
    inputs = FeatureMap(c3.features[:2], c3.mask[:2]), FeatureMap(c4.features[:2], c4.mask[:2]), (first, first)
    optimiser = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        losses.append(task(inputs)["loss"])
        losses[-1].backward()
        optimiser.step()
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("name", VARIANTS)
def test_predicts_named_boxes_best_first(name: str, detector: Detector) -> None:
    variant = VARIANTS[name]
    own = variant.detector(detector)
    photo = Image.effect_noise((96, 64), 80).convert("RGB")
    found = Predictor(own).predict(photo, ["cat", "dog", "bus"], score=0.0, max_detections=20)
    assert len(found) > 0
    assert found.class_names == ("cat", "dog", "bus")
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


@pytest.mark.parametrize("name", TRAINED)
def test_weights_return_from_a_checkpoint(name: str, detector: Detector, vocabulary: Vocabulary) -> None:
    task, other = (build(name, detector, vocabulary) for _ in range(2))
    with torch.no_grad():
        for parameter in task.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    load_trainable_state(other, trainable_state(task), source="a test")
    for (path, value), again in zip(task.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, again), path


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_shares_the_modules_it_is_made_of(name: str, detector: Detector) -> None:
    own = VARIANTS[name].detector(detector)
    assert own.localizer is detector.localizer
    assert own.image_tower is detector.image_tower
    assert own.training == detector.training


def test_rows_without_weights_of_their_own_name_a_trained_one_and_are_not_trained(
    detector: Detector, vocabulary: Vocabulary
) -> None:
    others = [variant for variant in VARIANTS.values() if variant.weights_of is not None]
    assert others
    for variant in others:
        assert variant.weights_of in TRAINED
        with pytest.raises(ValueError, match="nothing to train: expected the weights of the row 'full'"):
            variant.build(detector=detector, vocabulary=vocabulary, config=CONFIG)


def test_the_rows_that_the_paper_compares_are_there() -> None:
    wanted = {"full", "no-prompt", "crops", "region-proposals", "conditional", "end-to-end", "no-class-dropout"}
    assert wanted | {"no-relabelling", "oracle"} <= set(VARIANTS)
    assert next(iter(VARIANTS)) == "full"
    assert [name for name, variant in VARIANTS.items() if not variant.relabel] == ["no-relabelling"]
    assert all(isinstance(variant.says, str) and variant.says.endswith(".") for variant in VARIANTS.values())


def test_no_class_dropout_gives_all_classes_in_every_step(detector: Detector, vocabulary: Vocabulary) -> None:
    counts = {}
    for name in ("full", "no-class-dropout"):
        task = build(name, detector, vocabulary)
        c3, c4, targets = batch()
        memory = task.detector.localizer.encode(c3)
        counts[name] = {len(task.copies(memory, c4, targets)) for _ in range(30)}
    assert counts == {"full": {1, 2}, "no-class-dropout": {1}}


def test_every_row_has_the_towers_in_evaluation_mode_only(detector: Detector, vocabulary: Vocabulary) -> None:
    for name in TRAINED:
        task = build(name, detector, vocabulary)
        frozen: list[nn.Module] = [task.detector.image_tower, task.detector.text_tower]
        assert not any(p.requires_grad for part in frozen for p in part.parameters()), name
        assert not task.detector.prompt.offset.requires_grad, name
