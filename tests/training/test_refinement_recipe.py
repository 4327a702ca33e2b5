"""How the strict model learns to refine boxes (`recipes/nano/refinement.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cora.boxes import cxcywh_to_xyxy
from cora.detector import load
from cora.localizer import BoxRefinement
from cora.localizer.refinement import BINS, SCALES
from tests.recipe_modules import RECIPES, recipe_module
from tests.toy_nano import nano_config, picture, toy_nano


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with recipe_module(RECIPES / "nano/refinement.py", monkeypatch) as module:
        yield module


def test_what_was_learned_is_right_for_cells_as_they_are(recipe: ModuleType) -> None:
    torch.manual_seed(0)
    refinement = BoxRefinement(dim=6, hidden=8)
    cells = 3 + 5 * torch.randn(40, len(SCALES), 6, BINS, BINS)
    learning = recipe.LearningRefinement(refinement, cells).eval()
    before = learning(cells)
    learning.store()
    maps = refinement.reduce(cells.permute(0, 1, 3, 4, 2)).unflatten(-1, (len(SCALES), -1))
    pooled = torch.stack([maps[:, number, :, :, number] for number in range(len(SCALES))], dim=1)
    after = refinement.judge(pooled.permute(0, 1, 4, 2, 3).flatten(1))
    for found, expected in zip(after, before, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_pools_learns_and_gives_the_model_a_refinement(recipe: ModuleType, tmp_path: Path) -> None:
    config = nano_config(detector=False, box_stages=(3, 4), fine_bins=2)
    detector = toy_nano(tmp_path / "cache", config)
    sources = []
    for number in range(3):
        picture(96, 128, seed=number).save(tmp_path / f"{number}.png")
        boxes = torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 1.0, 0.9]])
        source = recipe.Source(
            f"toy/{number}", tmp_path / f"{number}.png", ("dog",), boxes, torch.zeros(2).long(), 4 / 3
        )
        sources.append(source)
    (tmp_path / "run/toy").mkdir(parents=True)
    recipe.pool(detector, sources[:1], ["dog", "cup"], tmp_path / "run")
    first = (tmp_path / "run/toy/0.safetensors").stat().st_mtime_ns
    recipe.pool(detector, sources, ["dog", "cup"], tmp_path / "run")
    assert (tmp_path / "run/toy/0.safetensors").stat().st_mtime_ns == first  # goes on where it was
    data = recipe.read(sources, tmp_path / "run")
    assert len(data.overlaps) > 0
    assert (data.overlaps >= recipe.FIT_IOU).all()
    frozen = {name: value.clone() for name, value in detector.state_dict().items()}
    refined = recipe.refined(detector, data, steps=3)
    refined.save(tmp_path / "refined.safetensors", dtype=torch.float32)
    again = load(tmp_path / "refined.safetensors")
    assert again.config.localizer == replace(config.localizer, refinement=recipe.HIDDEN)
    state = again.state_dict()
    assert all(torch.equal(state[name], value) for name, value in frozen.items())
    batch = again.preprocessor([picture(96, 128)])
    vocabulary = again.vocabulary_encoder.encode(["dog", "cup"])
    with torch.no_grad():
        seen = again.see(batch)
        decoded = again.decode(seen.memory, again.pre_match(seen.prepared, seen.anchors_cxcywh, vocabulary))
        refinement = again.localizer.refinement
        assert refinement is not None
        boxes, _ = refinement(seen.memory, decoded.boxes_cxcywh[-2])
    assert torch.equal(decoded.boxes_cxcywh[-1], boxes)
    assert (cxcywh_to_xyxy(boxes) - cxcywh_to_xyxy(decoded.boxes_cxcywh[-2])).abs().max() > 0
