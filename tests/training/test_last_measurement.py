"""What is measured last is what is saved: the fast alignment is fitted before, not after."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cora.data.read import read_dataset
from cora.data.transforms import AugmentConfig
from cora.detector import Detector
from cora.regions import FastAlignment
from cora.training.pipeline import Hooks, TrainingPipeline
from cora.training.recipe import DataStage, LocalizerStage, TrainRecipe
from tests.detector.conftest import tiny_detector


def write_photos(folder: Path) -> Path:
    random = np.random.default_rng(0)
    images, boxes = [], []
    for number in range(3):
        pixels = random.integers(0, 255, size=(64, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 64})
        boxes.append({"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [5, 6, 40, 30]})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder / "boxes.json"


def test_the_last_measurement_is_of_the_saved_alignment(tmp_path: Path) -> None:
    detector = tiny_detector(tmp_path / "cache")
    detector.align_fast_pooling(FastAlignment(embed_dim=detector.config.tower.embed_dim))
    detector.config = replace(detector.config, untrained=True)
    assert detector.fast_alignment is not None
    start = {name: value.clone() for name, value in detector.fast_alignment.state_dict().items()}
    measured: list[dict[str, Tensor]] = []

    def measure(model: Detector) -> Mapping[str, float]:
        assert model.fast_alignment is not None
        assert not model.config.untrained
        measured.append({name: value.clone() for name, value in model.fast_alignment.state_dict().items()})
        return {"ap50_all": 0.0}

    augment = AugmentConfig(short_sides=(64,), long_side=100, crop=0.0)
    stage = LocalizerStage(epochs=2, batch=3, lr=1e-2, ema=0.5)
    recipe = TrainRecipe(data=DataStage(augment=augment), prompts=None, relabel=None, localizer=stage)
    dataset = read_dataset(images=tmp_path, annotations=write_photos(tmp_path))
    fitted: list[int] = []
    pipeline = TrainingPipeline(
        recipe=recipe,
        detector=detector,
        dataset=dataset,
        run=tmp_path / "run",
        hooks=Hooks(measure_localizer=measure, progress=False, report=lambda _step, done, _all: fitted.append(done)),
    )
    pipeline.all()
    assert fitted == [1, 2, 3]  # once, for the weights that are measured and saved
    saved = detector.fast_alignment.state_dict()
    first, last = measured
    assert all(torch.equal(first[name], value) for name, value in start.items())
    assert all(torch.equal(last[name], value) for name, value in saved.items())
    assert any(not torch.equal(saved[name], value) for name, value in start.items())
