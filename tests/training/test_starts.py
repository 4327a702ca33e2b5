"""Where the training of a localizer starts: the published start, the same for a seed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cora.detector import Detector
from cora.errors import TrainingError
from cora.training.recipe import LocalizerStage
from cora.training.starts import start_localizer
from tests.detector.conftest import tiny_detector

NO_BOXES: Any = SimpleNamespace(records=[])


def started(tmp_path: Path, seed: int, **settings: Any) -> Detector:
    detector = tiny_detector(tmp_path / "cache")
    start_localizer(detector, NO_BOXES, LocalizerStage(**settings), seed=seed)
    return detector


def anchors_of(detector: Detector) -> torch.Tensor:
    assert detector.localizer.learned_anchors is not None
    return detector.localizer.learned_anchors.logits.detach()


def test_the_published_start(tmp_path: Path) -> None:
    before = tiny_detector(tmp_path / "cache").localizer
    detector = started(tmp_path, 3, anchors="normal", objectness="plain")
    torch.manual_seed(0)  # no part of the start
    again, other = (started(tmp_path, seed, anchors="normal", objectness="plain") for seed in (3, 4))
    logits = anchors_of(detector)
    assert torch.equal(logits, anchors_of(again))
    assert not torch.equal(logits, anchors_of(other))
    assert abs(float(logits.mean())) < 0.6
    assert 0.6 < float(logits.std()) < 1.5
    bound = detector.localizer.objectness_head.in_features**-0.5
    assert before.objectness_head.bias.item() < -4
    assert abs(detector.localizer.objectness_head.bias.item()) <= bound
    assert torch.equal(detector.localizer.objectness_head.weight, again.localizer.objectness_head.weight)


def test_by_default_everything_is_kept(tmp_path: Path) -> None:
    before, after = tiny_detector(tmp_path / "cache").state_dict(), started(tmp_path, 3).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("anchors", ["normal", "kmeans"])
def test_proposed_anchors_have_no_start(tmp_path: Path, anchors: str) -> None:
    detector = tiny_detector(tmp_path / "cache")
    detector.localizer.learned_anchors = None
    with pytest.raises(TrainingError, match=f"anchors '{anchors}' are for models with learned anchors"):
        start_localizer(detector, NO_BOXES, LocalizerStage(anchors=anchors), seed=0)  # type: ignore[arg-type]
