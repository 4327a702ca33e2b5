"""Learned context and offsets: where they start, which names they reach, what passes gradients."""

import pytest
import torch

from cora.errors import VocabularyError
from cora.regions import LearnedContext, LearnedOffsets, LearnedTextConfig, build_learned_text
from cora.towers import TextTower, TowerConfig, build_towers

CONFIG = TowerConfig(
    layers=(1, 1, 1, 1), width=8, image_size=64, embed_dim=16, text_width=32, text_heads=2, text_layers=2,
    context_length=12, vocab_size=2000,
)  # fmt: skip
NAMES = ["cat", "remote control", "dog"]


@pytest.fixture(scope="module")
def text_tower() -> TextTower:
    torch.manual_seed(2)
    return build_towers(CONFIG)[1]


def test_a_context_starts_as_its_words(text_tower: TextTower) -> None:
    context = LearnedContext.from_text(text_tower, "a photo of a")
    expected = text_tower.encode([f"a photo of a {name}" for name in NAMES])
    torch.testing.assert_close(context.encode(text_tower, NAMES), expected)
    # Alone or beside longer names: padding after the end token reaches nothing.
    torch.testing.assert_close(context.encode(text_tower, NAMES[:1]), expected[:1])


def test_gradients_reach_the_context_and_nothing_of_the_tower(text_tower: TextTower) -> None:
    context = LearnedContext.from_text(text_tower, "an image")
    context.encode(text_tower, NAMES).square().cumsum(dim=1).sum().backward()
    assert context.vectors.grad is not None
    assert bool((context.vectors.grad.abs().sum(dim=1) > 0).all())
    assert all(value.grad is None for value in text_tower.parameters())


def test_contexts_that_do_not_fit(text_tower: TextTower) -> None:
    with pytest.raises(VocabularyError, match=r"context '': expected 1 to 9 tokens, got 0"):
        LearnedContext.from_text(text_tower, "")
    with pytest.raises(VocabularyError, match=r"context 'a a .*': expected 1 to 9 tokens, got 10"):
        LearnedContext.from_text(text_tower, "a " * 10)
    context = LearnedContext.from_text(text_tower, "a " * 9)
    context.encode(text_tower, ["a"])
    with pytest.raises(
        VocabularyError, match=r"class name 'a a': expected at most 1 tokens beside 9 learned ones, got 2"
    ):
        context.encode(text_tower, ["a a"])


def test_offsets_start_as_the_identity_and_stay_unit() -> None:
    offsets = LearnedOffsets(width=16, rank=4, names=["cat", "dog"])
    unit = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    torch.testing.assert_close(offsets(unit, NAMES), unit)
    with torch.no_grad():
        for value in offsets.parameters():
            value.normal_()
    torch.testing.assert_close(offsets(unit, NAMES).norm(dim=-1), torch.ones(3))


def test_own_offsets_are_found_by_name_and_others_move_by_the_map_alone() -> None:
    torch.manual_seed(0)
    offsets = LearnedOffsets(width=16, rank=4, names=["Dog", "cat"])
    unit = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    with torch.no_grad():
        offsets.own[0] = 1.0
    moved = offsets(unit, NAMES)
    torch.testing.assert_close(moved[:2], unit[:2])
    assert not torch.allclose(moved[2], unit[2])
    torch.testing.assert_close(offsets(unit, NAMES, torch.tensor([1.0, 1.0, 0.0])), unit)
    # The order of names is the order of rows; each row depends on its own name alone.
    torch.testing.assert_close(offsets(unit.flip(0), NAMES[::-1]), moved.flip(0))


def test_every_part_of_the_offsets_gets_a_gradient() -> None:
    torch.manual_seed(0)
    offsets = LearnedOffsets(width=16, rank=4, names=NAMES)
    with torch.no_grad():
        offsets.up.normal_()  # zero at the start, which hides `down` for one step
    offsets(torch.randn(3, 16), NAMES).cumsum(dim=1).sum().backward()
    for name, value in offsets.named_parameters():
        assert value.grad is not None, name
        assert bool(value.grad.abs().sum() > 0), name


@pytest.mark.parametrize(
    "learned",
    [LearnedContext(length=3, width=8), LearnedOffsets(width=8, rank=0), LearnedOffsets(width=8, names=["cat"])],
)
def test_rebuilt_from_its_config(learned: LearnedContext | LearnedOffsets) -> None:
    rebuilt = build_learned_text(learned.config)
    rebuilt.load_state_dict(learned.state_dict())
    assert rebuilt.config == learned.config
    assert not any(value.requires_grad for value in rebuilt.parameters())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "magic", "width": 8}, "expected the kind context or offsets, got 'magic'"),
        ({"kind": "context", "width": 8}, "expected a length for context and for nothing else, got 0"),
        ({"kind": "offsets", "width": 8, "length": 2}, "expected a length for context"),
        ({"kind": "offsets", "width": 0}, "expected width >= 1 and rank >= 0, got 0 and 0"),
    ],
)
def test_impossible_sizes(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnedTextConfig(**values)  # type: ignore[arg-type]
