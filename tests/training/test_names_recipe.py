"""How nano learns names from boxes (`recipes/nano/names.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from cora.towers import TimmTower
from tests.recipe_modules import RECIPES, recipe_module
from tests.toy_nano import nano_config, toy_nano

NAMES = ("cat", "dog", "house")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with recipe_module(RECIPES / "nano/names.py", monkeypatch) as module:
        yield module


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_boxes_teach_their_names_and_a_share_of_nothing_is_the_model_as_it_was(
    recipe: ModuleType, tmp_path: Path, share: float
) -> None:
    torch.manual_seed(0)
    detector = toy_nano(tmp_path, nano_config(detector=False, box_stages=(3, 4), fine_bins=2))
    tower = detector.image_tower
    assert isinstance(tower, TimmTower)
    labels = torch.arange(1200) % 3
    cells = torch.randn(3, 320, 3, 3)[labels] + 0.1 * torch.randn(1200, 320, 3, 3)
    seen, fine = torch.zeros(1200, 80), torch.randn(3, 112, 2, 2)[labels]
    regions = recipe.Regions(cells.half(), seen.half(), fine.half(), labels, NAMES)
    text = detector.vocabulary_encoder.encode(list(NAMES)).embeddings
    with torch.no_grad():
        zero_shot = recipe.zero_shot(tower.text_space, tower.head(cells))

    def right() -> float:
        with torch.no_grad():
            found = tower.embed(tower.head(cells), None, fine)
        return float((found @ text.T).argmax(1).eq(labels).float().mean())

    others = F.normalize(torch.randn(9, 32), dim=-1)
    recipe.learn_text_space(detector, [regions], others, epochs=40.0, kl=0.0, share=share, strict=False)
    if share:
        assert right() > 0.9
    else:
        with torch.no_grad():
            learned = tower.text_space(tower.head(cells))
        torch.testing.assert_close(learned, zero_shot, atol=1e-4, rtol=0)
