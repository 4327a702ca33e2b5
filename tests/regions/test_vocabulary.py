"""Vocabularies: checked names, cached embeddings, no harm from a broken cache."""

import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.errors import VocabularyError
from cora.regions import IMAGENET_TEMPLATES, Vocabulary, VocabularyEncoder, clean_names, default_cache_dir
from cora.regions.learned_text import LearnedContext, LearnedOffsets
from cora.towers import TextTower, TowerConfig, build_towers

CONFIG = TowerConfig(
    layers=(1, 1, 1, 1), width=8, image_size=64, embed_dim=32, text_width=32, text_heads=1, text_layers=1,
    context_length=24, vocab_size=2000,
)  # fmt: skip
NAMES = ["cat", "remote control", "red car"]


@pytest.fixture(scope="module")
def text_tower() -> TextTower:
    torch.manual_seed(2)
    return build_towers(CONFIG)[1]


def refuse(*_: object) -> None:
    raise AssertionError("expected a cached embedding, the text tower was asked")


def test_embedding_is_the_mean_over_templates(text_tower: TextTower) -> None:
    found = VocabularyEncoder(text_tower=text_tower).encode(NAMES)
    sentences = text_tower.encode([template.format("red car") for template in IMAGENET_TEMPLATES])
    expected = sentences.mean(dim=0)
    torch.testing.assert_close(found.embeddings[2], expected / expected.norm())
    assert found.names == ("cat", "remote control", "red car")
    plain = VocabularyEncoder(text_tower=text_tower, templates="plain").encode(["cat"])
    torch.testing.assert_close(plain.embeddings, text_tower.encode(["a cat"]))


def test_there_are_eighty_templates() -> None:
    assert len(set(IMAGENET_TEMPLATES)) == 80
    assert all(template.count("{}") == 1 for template in IMAGENET_TEMPLATES)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(len(NAMES))))
def test_order_of_names_is_the_order_of_embeddings(text_tower: TextTower, order: list[int]) -> None:
    expected = VocabularyEncoder(text_tower=text_tower, templates="plain").encode(NAMES)
    permuted = VocabularyEncoder(text_tower=text_tower, templates="plain").encode([NAMES[index] for index in order])
    torch.testing.assert_close(permuted.embeddings, expected.embeddings[order])


def test_unusable_names() -> None:
    assert clean_names(["  cat ", "Dog"]) == ("cat", "Dog")
    with pytest.raises(VocabularyError, match="at least one, got an empty list"):
        clean_names([])
    with pytest.raises(VocabularyError, match="blank one at position 2"):
        clean_names(["cat", "  "])
    with pytest.raises(VocabularyError, match=r"'Cat ?' twice|'Cat' twice"):
        clean_names(["Cat ", "dog", "cat"])
    with pytest.raises(VocabularyError, match="expected a list of names, got the text 'cat'"):
        clean_names("cat")


def test_too_long_a_name_is_named(text_tower: TextTower) -> None:
    encoder = VocabularyEncoder(text_tower=text_tower)
    long = "word " * 30
    with pytest.raises(VocabularyError, match=r"class name 'word .*context of 24 tokens.*shorter") as raised:
        encoder.encode(["cat", long])
    assert "\n" not in str(raised.value)


def test_cache_in_memory_and_on_disk(text_tower: TextTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = VocabularyEncoder(text_tower=text_tower, cache_dir=tmp_path / "deep" / "cache")
    expected = encoder.encode(NAMES)
    assert len(list((tmp_path / "deep" / "cache").iterdir())) == 3
    fresh = VocabularyEncoder(text_tower=text_tower, cache_dir=tmp_path / "deep" / "cache")
    monkeypatch.setattr(text_tower, "encode", refuse)
    assert torch.equal(encoder.encode(NAMES).embeddings, expected.embeddings)
    assert torch.equal(fresh.encode(NAMES[::-1]).embeddings, expected.embeddings.flip(0))


def test_cache_key_knows_tower_and_templates(text_tower: TextTower, tmp_path: Path) -> None:
    torch.manual_seed(9)
    other = build_towers(CONFIG)[1]
    assert other.fingerprint != text_tower.fingerprint
    for tower, templates in ((text_tower, "plain"), (text_tower, "imagenet"), (other, "plain")):
        VocabularyEncoder(text_tower=tower, templates=templates, cache_dir=tmp_path).encode(["cat"])  # type: ignore[arg-type]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", ["truncated", "text", "shape", "nan"])
def test_broken_cache_is_made_again(
    text_tower: TextTower, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    import numpy as np

    expected = VocabularyEncoder(text_tower=text_tower, templates="plain", cache_dir=tmp_path).encode(["cat"])
    (file,) = tmp_path.iterdir()
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:60])
    elif damage == "text":
        file.write_text("no array")
    else:
        np.save(file, np.zeros(3) if damage == "shape" else np.full(32, np.nan))
    with caplog.at_level(logging.WARNING):
        found = VocabularyEncoder(text_tower=text_tower, templates="plain", cache_dir=tmp_path).encode(["cat"])
    assert torch.equal(found.embeddings, expected.embeddings)
    assert "made again" in caplog.text


def test_unwritable_cache_is_done_without(
    text_tower: TextTower, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    encoder = VocabularyEncoder(text_tower=text_tower, templates="plain", cache_dir=tmp_path / "file" / "below")
    with caplog.at_level(logging.WARNING):
        assert len(encoder.encode(["cat", "dog"])) == 2
    assert caplog.text.count("cannot be cached") == 1


def test_encoded_in_inference_mode_still_trains(text_tower: TextTower) -> None:
    encoder = VocabularyEncoder(text_tower=text_tower, templates="plain")
    with torch.inference_mode():
        encoder.encode(["cat"])
    weight = torch.ones(32, requires_grad=True)
    (encoder.encode(["cat"]).embeddings * weight).sum().backward()
    assert weight.grad is not None


def test_weights_by_name() -> None:
    vocabulary = Vocabulary(("cat", "dog"), torch.eye(2))
    assert vocabulary.weighted(None) is vocabulary
    weighted = vocabulary.weighted({"Dog": 8.0})
    assert weighted.weights is not None
    assert weighted.weights.tolist() == [1.0, 8.0]
    with pytest.raises(VocabularyError, match="expected names of the vocabulary, got bird"):
        vocabulary.weighted({"bird": 2.0})
    with pytest.raises(VocabularyError, match="expected positive numbers, got -1"):
        vocabulary.weighted({"dog": -1.0})
    with pytest.raises(VocabularyError, match=r"expected shape \[2, D\] for 2 names, got \[3, 2\]"):
        Vocabulary(("cat", "dog"), torch.zeros(3, 2))


def test_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CORA_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path / "vocabulary"


def test_distractors_leave_out_the_classes_themselves(text_tower: TextTower) -> None:
    encoder = VocabularyEncoder(text_tower=text_tower)
    vocabulary = encoder.encode(["cat", "dog"])
    beside = vocabulary.beside(encoder, ["Dog", "tree", "car"])
    assert beside.names == vocabulary.names
    assert beside.distractors is not None
    assert torch.equal(beside.distractors, encoder.encode(["tree", "car"]).embeddings)
    assert vocabulary.beside(encoder, ["CAT"]).distractors is None


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("coffee_cup", "coffee cup"),
        ("coffee   cup", "coffee cup"),
        ("bow_(decorative_ribbons)", "bow (decorative ribbons)"),
    ],
)
@pytest.mark.parametrize("learned", [None, "context", "offsets"])
def test_spellings_of_a_name_have_one_embedding(
    text_tower: TextTower, tmp_path: Path, written: str, spoken: str, learned: str | None
) -> None:
    def encoder() -> VocabularyEncoder:
        part: LearnedContext | LearnedOffsets | None = None
        if learned == "context":
            part = LearnedContext(length=2, width=32)
        elif learned == "offsets":
            part = LearnedOffsets(width=32, names=["Coffee_cup", "bow (decorative_ribbons)"])
            torch.nn.init.normal_(part.own)
        descriptions = {"coffee__cup": ["a {} of clay"]}
        return VocabularyEncoder(text_tower=text_tower, learned=part, descriptions=descriptions, cache_dir=tmp_path)

    torch.manual_seed(0)
    first = encoder()
    found = first.encode([written])
    assert found.names == (written,)
    assert torch.equal(found.embeddings, first.encode([spoken]).embeddings)
    assert len(list(tmp_path.iterdir())) == 1  # one key in the cache
    torch.manual_seed(0)
    assert torch.equal(encoder().encode([spoken]).embeddings, found.embeddings)


@pytest.mark.parametrize("same", ["coffee cup", "Coffee_Cup", "coffee__cup"])
def test_two_spellings_are_a_duplicate(same: str) -> None:
    with pytest.raises(VocabularyError, match=r"expected every name once, got 'coffee_cup'.*; remove one"):
        clean_names(["dog", "coffee_cup", same])
    with pytest.raises(VocabularyError, match="blank one at position 1"):
        clean_names(["_"])


def test_spellings_count_as_one_for_weights_and_distractors(text_tower: TextTower) -> None:
    encoder = VocabularyEncoder(text_tower=text_tower, templates="plain")
    vocabulary = encoder.encode(["coffee_cup", "dog"])
    assert vocabulary.beside(encoder, ["Coffee cup", "cow"]).all_embeddings.shape[0] == 3
    assert vocabulary.beside(encoder, ["coffee  cup"]).distractors is None
    weights = vocabulary.weighted({"coffee cup": 8.0}).weights
    assert weights is not None
    assert weights.tolist() == [8.0, 1.0]
    described = encoder.encode(["coffee_cup"], descriptions={"coffee cup": ["a {} of clay"]}).embeddings
    assert not torch.allclose(described, vocabulary.embeddings[:1], atol=1e-4)
