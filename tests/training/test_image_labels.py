"""How the strict model learns from image labels (`recipes/nano/image_labels.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cora.files import write_safetensors
from cora.regions import RegionClassifier
from tests.recipe_modules import RECIPES, recipe_module
from tests.toy_nano import toy_tower

NAMES, BASE = ["person", "car", "dog", "cup"], 2


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with recipe_module(RECIPES / "nano/image_labels.py", monkeypatch) as module:
        yield module


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with recipe_module(RECIPES / "nano/sources.py", monkeypatch) as module:
        yield module


def drawn_regions(recipe: ModuleType, count: int) -> object:
    classes = torch.arange(count) % 3 - 1
    return recipe.Regions(torch.randn(count, 1280).half(), torch.randn(count, 112, 2, 2).half(), classes, classes < 0)


def test_heads_start_as_the_tower_and_give_it_what_they_learned(recipe: ModuleType) -> None:
    tower = toy_tower(detector=False, box_stages=(3, 4), fine_bins=2)
    regions = drawn_regions(recipe, 40)
    heads = recipe.Heads(tower, regions).eval()
    pooled, fine = regions.pooled.float(), regions.fine.float()
    before = tower.embed(pooled, None, fine)
    embeddings, known = heads(pooled, fine)
    assert torch.allclose(embeddings, before, atol=1e-4)
    assert torch.allclose(known.norm(dim=-1), torch.ones(40), atol=1e-4)
    names, others = F.normalize(torch.randn(10, 32), dim=-1).split([4, 6])
    vocabulary = recipe.Vocabulary(names, BASE, others)
    labelled = recipe.Regions(pooled[:4], fine[:4], torch.tensor([2, 2, 3, 3]), torch.zeros(4, dtype=torch.bool))
    classifier = RegionClassifier(scale=12.0, background=0.4)
    frozen = {name: value.clone() for name, value in tower.named_parameters()}
    recipe.learn(heads.train(), regions, (labelled, torch.full((4,), 0.5)), vocabulary, classifier, steps=3)
    assert all(torch.equal(value, frozen[name]) for name, value in tower.named_parameters())
    heads.eval().store()
    learned, _ = heads(pooled, fine)
    assert (learned - before).abs().max() > 1e-3
    assert torch.allclose(tower.embed(pooled, None, fine), learned, atol=1e-4)
    changed = {name for name, value in tower.named_parameters() if not torch.equal(value, frozen[name])}
    assert {name.split(".")[0] for name in changed} == {"text_space", "fine"}
    assert not any("classifier" in name for name in changed)


def test_an_image_label_means_the_likeliest_region_and_what_overlaps_it(recipe: ModuleType) -> None:
    tower = toy_tower(detector=False, box_stages=(3, 4), fine_bins=2)
    regions = drawn_regions(recipe, 12)
    heads = recipe.Heads(tower, regions)
    classifier = RegionClassifier(scale=12.0, background=0.0)
    heads.eval()
    embeddings, _ = heads(regions.pooled[:4], regions.fine[:4])
    # Each name is what one region looks like: "dog" the third, "cup" the first.
    names = torch.stack([embeddings[3], embeddings[1], embeddings[2], embeddings[0]]).detach()
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.1, 0.0, 0.6, 0.5], [0.02, 0.0, 0.5, 0.5]])
    one = recipe.Candidates(regions.pooled[:4], regions.fine[:4], boxes, torch.ones(4), (2, 3))
    found, shares = recipe.regions_of_labels(heads, [one], names, classifier)
    assert heads.training
    assert found.classes.tolist() == [2, 2, 2, 3, 3, 3]
    assert torch.equal(found.pooled[3:], regions.pooled[[0, 2, 3]])
    assert shares.tolist() == pytest.approx([1 / 3] * 6)


@pytest.mark.parametrize("all_boxes", [True, False])
def test_regions_are_background_only_where_all_base_boxes_are_known(
    recipe: ModuleType, sources: ModuleType, tmp_path: Path, all_boxes: bool
) -> None:
    box = torch.tensor([[0.1, 0.1, 0.5, 0.5]])
    source = sources.Source(
        "set/one", tmp_path / "one.jpg", ("car",), box, torch.tensor([0]), 1.0,
        image_labels=("car", "dog", "vase"), all_boxes=all_boxes,
    )  # fmt: skip
    proposals = torch.tensor([[0.1, 0.1, 0.5, 0.48], [0.6, 0.6, 0.9, 0.9], [0.1, 0.1, 0.5, 0.31]])
    boxes = torch.cat([box.expand(1 + recipe.COPIES, 4), proposals])
    content = {"pooled": torch.arange(6.0)[:, None].half(), "fine": torch.zeros(6, 1, 1, 1).half(), "boxes_xyxy": boxes}
    write_safetensors(tmp_path / "set/one.safetensors", content)
    regions, (candidates,) = recipe.divide([source], tmp_path, NAMES, BASE)
    # The copies and the first proposal are a car; the second is nothing known; the third fits neither (IoU 0.52).
    assert regions.pooled[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert regions.classes.tolist() == [1, 1, 1, 1, -1]
    assert regions.background.tolist() == [False] * 4 + [all_boxes]
    assert candidates.labels == (2,)  # "car" has boxes, and of "vase" nobody asked
    assert candidates.pooled[:, 0].tolist() == [4]


def test_captions_must_agree_and_squashed_images_get_their_shape(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images").mkdir()
    for name in ("bus.jpg", "once.jpg"):
        Image.new("RGB", (224, 224)).save(tmp_path / "images" / name)
    lines = ["image,caption", 'bus.jpg,"A bus , and a car ."', "bus.jpg,Two Buses on a street .", "once.jpg,A cup .",
             "once.jpg,A cupboard .", "gone.jpg,A cat .", "gone.jpg,Two cats ."]  # fmt: skip
    (tmp_path / "captions.txt").write_text("\n".join(lines), encoding="utf-8")
    with recipe_module(RECIPES / "nano/labelled_images.py", monkeypatch) as labelled:
        (found,) = labelled.flickr(tmp_path)
    assert (found.key, found.image_labels, len(found.boxes_xyxy)) == ("flickr/bus", ("bus",), 0)
    assert recipe._in_shape(found).size == (299, 224)
