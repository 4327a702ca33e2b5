"""What an embedding depends on is in its cache key; what it does not depend on is not."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.regions import TEMPLATE_SETS, LearnedContext, LearnedOffsets, VocabularyEncoder
from cora.regions.vocabulary import _ClassText
from cora.towers import TextTower, TowerConfig, build_towers

CONFIG = TowerConfig(
    layers=(1, 1, 1, 1), width=8, image_size=64, embed_dim=16, text_width=16, text_heads=1, text_layers=1,
    context_length=24, vocab_size=1000,
)  # fmt: skip
#: Few letters, so that texts often resemble each other; the separators of careless keys are among them.
words = st.text(alphabet='ab ,\n"[]', min_size=1, max_size=4).filter(lambda text: text.strip() != "")
sentences = st.lists(words, min_size=1, max_size=3)
requests = st.tuples(
    words.map(str.strip),
    sentences.map(lambda texts: tuple(f"{' '.join(text.split())}{{}}" for text in texts)),
    st.lists(words.map(lambda text: " ".join(text.split())), max_size=3).map(tuple),
    st.sampled_from([0.25, 0.5]),
)
Request = tuple[str, tuple[str, ...], tuple[str, ...], float]


@pytest.fixture(scope="module")
def text_tower() -> TextTower:
    torch.manual_seed(2)
    return build_towers(CONFIG)[1]


def key(tower: TextTower, request: Request) -> str:
    name, templates, descriptions, share = request
    encoder = VocabularyEncoder(text_tower=tower, templates=templates, description_share=share)
    return encoder._key(_ClassText(name, descriptions), encoder._shared_hash())


def meaning(request: Request) -> object:
    """All that shapes the embedding: without descriptions their share means nothing."""
    name, templates, descriptions, share = request
    return name, templates, descriptions, share if descriptions else None


@settings(max_examples=100, deadline=None)
@given(one=requests, other=requests)
def test_keys_are_equal_exactly_for_equal_requests(text_tower: TextTower, one: Request, other: Request) -> None:
    assert (key(text_tower, one) == key(text_tower, other)) == (meaning(one) == meaning(other))
    assert key(text_tower, one) == key(text_tower, one)


@settings(max_examples=50, deadline=None)
@given(request=requests, position=st.integers(0, 3))
def test_a_change_of_any_part_changes_the_key(text_tower: TextTower, request: Request, position: int) -> None:
    name, templates, descriptions, share = request
    described = descriptions or ("x",)
    base = (name, templates, described, share)
    changed: list[Request] = [
        (f"{name}a", templates, described, share),
        (name, (*templates, "c{}"), described, share),
        (name, templates, (*described, "c"), share),
        (name, templates, described, 0.75),
    ]
    assert key(text_tower, changed[position]) != key(text_tower, base)


def test_a_set_by_name_and_by_its_sentences_share_embeddings(text_tower: TextTower, tmp_path: Path) -> None:
    by_name = VocabularyEncoder(text_tower=text_tower, templates="plain", cache_dir=tmp_path).encode(["cat"])
    assert len(list(tmp_path.iterdir())) == 1
    same = VocabularyEncoder(text_tower=text_tower, templates=TEMPLATE_SETS["plain"], cache_dir=tmp_path)
    assert torch.equal(same.encode(["cat"]).embeddings, by_name.embeddings)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_context_has_keys_of_its_own_and_forgets_templates(text_tower: TextTower, tmp_path: Path) -> None:
    context = LearnedContext.from_text(text_tower, "a photo of a")
    encoder = VocabularyEncoder(text_tower=text_tower, templates="plain", learned=context, cache_dir=tmp_path)
    first = encoder.encode(["cat"]).embeddings
    encoder.templates = "imagenet"
    assert torch.equal(encoder.encode(["cat"]).embeddings, first)
    assert len(list(tmp_path.iterdir())) == 1
    with torch.no_grad():
        context.vectors.add_(0.5)
    moved = encoder.encode(["cat"]).embeddings
    assert not torch.equal(moved, first)
    assert len(list(tmp_path.iterdir())) == 2
    encoder.learned = None
    assert not torch.equal(encoder.encode(["cat"]).embeddings, moved)


def test_offsets_act_after_the_cache(text_tower: TextTower, tmp_path: Path) -> None:
    offsets = LearnedOffsets(width=16, names=["cat"])
    encoder = VocabularyEncoder(text_tower=text_tower, templates="plain", learned=offsets, cache_dir=tmp_path)
    plain = VocabularyEncoder(text_tower=text_tower, templates="plain", cache_dir=tmp_path)
    expected = plain.encode(["cat", "dog"]).embeddings
    torch.testing.assert_close(encoder.encode(["cat", "dog"]).embeddings, expected)
    with torch.no_grad():
        offsets.own.add_(1.0)
    moved = encoder.encode(["Cat", "dog"]).embeddings
    assert not torch.allclose(moved[0], expected[0])
    torch.testing.assert_close(moved[1], expected[1])
    assert torch.equal(plain.encode(["cat", "dog"]).embeddings, expected)
