"""What a training step needs at its peak: frozen towers run without keeping anything, layers can be recomputed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from cora.detector import Detector, DetectorConfig
from cora.localizer import LocalizerConfig
from cora.regions import Vocabulary
from cora.structures import FeatureMap, ImageBatch, Targets
from cora.towers import TowerConfig
from cora.training.frozen_maps import TaskBatch
from cora.training.localizer_task import LocalizerTask, LocalizerTaskConfig

SIDE, IMAGES, CLASSES = 320, 2, 4


class TrainedTower(LocalizerTask):
    """Keeps the tower's activations, as if it were trained."""

    def _features(self, batch: TaskBatch) -> tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]:
        assert isinstance(batch[0], ImageBatch)
        return *self.detector.encode(batch[0]), batch[-1]


def task(kind: type[LocalizerTask], cache_dir: Path, *, recompute: bool) -> LocalizerTask:
    torch.manual_seed(0)
    sizes = {"image_size": 64, "embed_dim": 32, "text_width": 16, "text_heads": 2, "text_layers": 1}
    tower = TowerConfig(layers=(3, 4, 6, 3), width=16, context_length=8, vocab_size=600, templates="plain", **sizes)
    localizer = LocalizerConfig(
        c3_channels=256, embed_dim=32, dim=64, heads=4, ff=256, enc_layers=3, dec_layers=6, num_queries=100
    )
    detector = Detector.build(DetectorConfig(tower=tower, localizer=localizer), cache_dir=cache_dir)
    embeddings = torch.nn.functional.normalize(torch.randn(CLASSES, 32), dim=-1)
    config = LocalizerTaskConfig(class_dropout=0.0, activation_checkpointing=recompute)
    vocabulary = Vocabulary(tuple(map(str, range(CLASSES))), embeddings)
    made = kind(detector=detector, vocabulary=vocabulary, config=config)
    if kind is TrainedTower:
        detector.image_tower.net.requires_grad_(True)
    return made.train()


def peak_bytes(task: LocalizerTask) -> int:
    """Greatest sum of what PyTorch's allocator handed out and did not get back during a step."""
    sizes = ((SIDE, SIDE),) * IMAGES
    images = ImageBatch(
        torch.randn(IMAGES, 3, SIDE, SIDE), torch.zeros(IMAGES, SIDE, SIDE, dtype=torch.bool), sizes, sizes
    )
    targets = Targets(boxes_cxcywh=torch.tensor([[0.5, 0.5, 0.4, 0.4]] * CLASSES), classes=torch.arange(CLASSES))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        task((images, (targets,) * IMAGES))["loss"].backward()
    kineto = recorded.profiler.kineto_results  # type: ignore[union-attr]
    changes = [(event.start_ns(), event.nbytes()) for event in kineto.events() if event.name() == "[memory]"]
    now = most = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


@pytest.mark.slow
def test_frozen_towers_and_recomputed_layers_halve_the_peak(tmp_path: Path) -> None:
    kept = peak_bytes(task(TrainedTower, tmp_path, recompute=False))
    frozen = peak_bytes(task(LocalizerTask, tmp_path, recompute=False))
    recomputed = peak_bytes(task(LocalizerTask, tmp_path, recompute=True))
    assert recomputed <= kept / 2
    assert recomputed < frozen < kept
