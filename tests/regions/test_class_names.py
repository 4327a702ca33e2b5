"""Classes with several prompts: how they are written, what is refused, and what is embedded for them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cora.errors import VocabularyError
from cora.names import names_in, prompted_name, quoted_name, sides_of
from cora.regions import Vocabulary, VocabularyEncoder, by_themselves, class_prompts, names_alone, written_classes
from cora.regions.class_names import MAX_PROMPTS, other_prompts
from cora.regions.learned_text import LearnedOffsets
from cora.towers import TextTower, TowerConfig, build_towers

CONFIG = TowerConfig(
    layers=(1, 1, 1, 1), width=8, image_size=64, embed_dim=32, text_width=32, text_heads=1, text_layers=1,
    context_length=24, vocab_size=2000,
)  # fmt: skip

LISTS: dict[str, dict[str, tuple[str, ...]]] = {
    "mug = cup | mug | coffee cup, spoon": {"mug": ("cup", "mug", "coffee cup"), "spoon": ("spoon",)},
    "mug=cup|coffee cup;spoon": {"mug": ("cup", "coffee cup"), "spoon": ("spoon",)},
    "cat | dog, mug = cup | mug": {"cat": ("cat",), "dog": ("dog",), "mug": ("cup", "mug")},
    "mug = cup | mug, cat | dog": {"mug": ("cup", "mug"), "cat": ("cat",), "dog": ("dog",)},
    "mug = cup | coffee_cup . spoon .": {"mug": ("cup", "coffee_cup"), "spoon": ("spoon",)},
    "mug = cup\nspoon = teaspoon | spoon": {"mug": ("cup",), "spoon": ("teaspoon", "spoon")},
    "pet = St. Bernard | T. rex": {"pet": ("St. Bernard", "T. rex")},
    '"salt, fine" = "salt | sand" | grains': {"salt, fine": ("salt | sand", "grains")},
    "'E=mc2', \"a = b\" = c": {"E=mc2": ("E=mc2",), "a = b": ("c",)},
    "driver's mug = driver's cup | o'clock": {"driver's mug": ("driver's cup", "o'clock")},
    "杯子 = cup | mug、spoon": {"杯子": ("cup", "mug"), "spoon": ("spoon",)},
}

BAD: dict[str, tuple[Any, str]] = {
    "nothing on the left": (["= cup | mug"], "expected a class name before \"=\", got none"),
    "only blanks on the left": (["_ = cup"], "expected a class name before \"=\", got none"),
    "nothing on the right": (["mug ="], "class 'mug': expected text in each prompt, got a blank one"),
    "a blank prompt": (["mug = cup || coffee cup"], "class 'mug': expected text in each prompt, got a blank one"),
    "a prompt that was forgotten": (["mug = cup |"], "class 'mug': expected text in each prompt, got a blank one"),
    "the same name twice": (["mug = cup", "spoon", "Mug"], "got 'mug' twice; remove one"),
    "a name with prompts twice": (["mug = cup", "mug = coffee cup"], "got 'mug' twice; remove one"),
    "a prompt twice": (["mug = cup | Cup"], "class 'mug': expected every prompt once, got 'cup' twice"),
    "two classes that are one": (["mug = cup | mug", "jar = mug | cup"], "expected other prompts than those of 'mug'"),
    "a name that is a prompt": (["mug = cup", "cup"], "class 'cup': expected other prompts than those of 'mug'"),
    "two signs": (["a = b = c"], "expected \"=\" once, got it 2 times"),
    "two names": (["a | b = c"], "expected one class name before \"=\", got 2"),
    "too many": ([f"a = {'|'.join(map(str, range(MAX_PROMPTS + 1)))}"], f"expected 1 to {MAX_PROMPTS} prompts, got 51"),
    "a list as text": ({"mug": "cup | mug"}, "class 'mug': expected a list of prompts, .* got the text 'cup | mug'"),
    "both forms": ({"mug": "mug = cup"}, "class 'mug': expected a list of prompts"),
    "a number": ({"mug": 3}, "class 'mug': expected a prompt or a list of prompts, .* got 3"),
    "bytes": ({"mug": b"cup"}, "class 'mug': expected a prompt or a list of prompts"),
    "a number among prompts": ({"mug": ["cup", 3]}, "class 'mug': expected a prompt or a list of prompts"),
    "a mapping of a mapping": ({"mug": {"cup": 1}}, "class 'mug': expected a prompt or a list of prompts"),
    "no prompt": ({"mug": []}, "class 'mug': expected 1 to 50 prompts, got 0"),
    "a name that is none": ({1: "cup"}, "class names: expected a text, got 1"),
    "a blank name": ({" ": "cup"}, "got a blank one at position 1"),
    "names that are the same": ({"mug": "cup", "Mug": "glass"}, "got 'mug' twice"),
}  # fmt: skip


@pytest.fixture(scope="module")
def text_tower() -> TextTower:
    torch.manual_seed(2)
    return build_towers(CONFIG)[1]


@pytest.fixture(scope="module")
def encoder(text_tower: TextTower) -> VocabularyEncoder:
    return VocabularyEncoder(text_tower=text_tower, templates="plain")


@pytest.mark.parametrize("text", LISTS)
def test_lists(text: str) -> None:
    assert list(class_prompts(names_in(text)).items()) == list(LISTS[text].items())


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read(kind: str) -> None:
    classes, message = BAD[kind]
    with pytest.raises(VocabularyError, match=message.replace("|", r"\|")) as error:
        class_prompts(classes)
    assert "\n" not in str(error.value)


def test_without_the_sign_nothing_is_taken_apart() -> None:
    names = ["cat | cup", "cat, cup", '"cat"', "St. Bernard"]
    assert class_prompts(names) == by_themselves(names)
    assert class_prompts([]) == class_prompts({}) == {}
    assert class_prompts({"a | b": ["a | b"], "a = b": "a = b"}) == by_themselves(["a | b", "a = b"])


def test_names_alone() -> None:
    assert names_alone("distractors", ["cup", '"a = b"']) == ("cup", "a = b")
    with pytest.raises(VocabularyError, match=r"distractors: expected names without prompts, got 'a = b'; write the"):
        names_alone("distractors", ["cup", "a = b"])


NAMES = st.text("abc=|,;. '\"-", min_size=1, max_size=8).map(str.strip).filter(
    lambda name: bool(name.strip(". ")) and not ("'" in name and '"' in name)
)  # fmt: skip
CLASSES = st.dictionaries(NAMES, st.lists(NAMES, min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)


@given(classes=CLASSES)
def test_what_is_written_is_read_back(classes: dict[str, tuple[str, ...]]) -> None:
    for name, prompts in classes.items():
        sides = sides_of(prompted_name(name, prompts))
        assert sides == ([[name], list(prompts)] if prompts != (name,) else [[name]])
    try:
        clean = class_prompts({name: list(prompts) for name, prompts in classes.items()})
    except VocabularyError:
        return
    assert class_prompts(written_classes(clean)) == clean


WORDS = st.text("abcdefgh", min_size=2, max_size=6).filter(lambda word: word != "ft")


@given(classes=st.dictionaries(WORDS, st.lists(WORDS, min_size=1, max_size=3).map(tuple), min_size=1, max_size=4))
def test_lists_of_a_line_and_of_lines_are_the_same(classes: dict[str, tuple[str, ...]]) -> None:
    texts = list(written_classes(classes))
    for divider in (", ", ";", "\n", " . "):
        assert names_in(divider.join(texts)) == texts


@given(name=NAMES)
def test_a_quoted_name_is_a_name(name: str) -> None:
    (found,) = names_in(quoted_name(name))
    assert sides_of(found) == [[name]]


def test_one_prompt_is_embedded_as_a_name_is(encoder: VocabularyEncoder) -> None:
    found, expected = encoder.encode({"a": ("red car",), "cat": ("cat",)}), encoder.encode(["red car", "cat"])
    assert found.names == ("a", "cat")
    assert torch.equal(found.embeddings, expected.embeddings)


def test_several_prompts_are_their_mean_on_the_unit_sphere(encoder: VocabularyEncoder) -> None:
    found = encoder.encode({"mug": ("cup", "mug", "coffee cup"), "cat": ("cat",)})
    parts = encoder.encode(["cup", "mug", "coffee cup", "cat"]).embeddings
    torch.testing.assert_close(found.embeddings[0], F.normalize(parts[:3].mean(dim=0), dim=0))
    assert torch.equal(found.embeddings[1], parts[3])
    assert found.prompts == ("cup", "coffee cup")


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(["cup", "mug", "coffee cup"]))
def test_the_order_of_prompts_does_not_count(encoder: VocabularyEncoder, order: list[str]) -> None:
    expected = encoder.encode({"mug": ("cup", "mug", "coffee cup")}).embeddings
    torch.testing.assert_close(encoder.encode({"mug": tuple(order)}).embeddings, expected)


def test_prompts_are_cached_as_names_are(
    text_tower: TextTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = VocabularyEncoder(text_tower=text_tower, templates="plain", cache_dir=tmp_path).encode(["cup", "mug"])
    again = VocabularyEncoder(text_tower=text_tower, templates="plain", cache_dir=tmp_path)
    monkeypatch.setattr(again, "_embed", lambda _: pytest.fail("expected cached embeddings, the text tower was asked"))
    found = again.encode({"a": ("cup", "mug")}).embeddings[0]
    torch.testing.assert_close(found, F.normalize(expected.embeddings.mean(dim=0), dim=0))


def test_learned_offsets_reach_the_prompts(text_tower: TextTower) -> None:
    offsets = LearnedOffsets(width=32, rank=2, names=["Coffee_cup", "scratch"])
    with torch.no_grad():
        for value in offsets.parameters():
            value.normal_()
    tuned = VocabularyEncoder(text_tower=text_tower, templates="plain", learned=offsets)
    parts = tuned.encode(["coffee cup", "bowl"]).embeddings
    found = tuned.encode({"mug": ("coffee cup",), "scratch": ("coffee cup", "bowl")}).embeddings
    assert torch.equal(found[0], parts[0])
    torch.testing.assert_close(found[1], F.normalize(parts.mean(dim=0), dim=0))
    without = VocabularyEncoder(text_tower=text_tower, templates="plain").encode(["coffee cup"]).embeddings
    assert not torch.allclose(parts[:1], without, atol=1e-3)


def test_descriptions_are_of_the_class(encoder: VocabularyEncoder) -> None:
    described = {"mug": ["a cup with a handle"]}
    found = encoder.encode({"mug": ("cup",)}, descriptions=described).embeddings
    expected = encoder.encode(["cup"], descriptions={"cup": ["a cup with a handle"]}).embeddings
    torch.testing.assert_close(found, expected)
    with pytest.raises(VocabularyError, match="expected some of the 1 class names, got cup"):
        encoder.encode({"mug": ("cup",)}, descriptions={"cup": ["a cup with a handle"]})


def test_too_long_a_prompt_is_named(encoder: VocabularyEncoder) -> None:
    with pytest.raises(VocabularyError, match=r"class name 'a a .*expected to fit the text tower's context"):
        encoder.encode({"mug": ("cup", "a " * 30)})


def test_a_prompt_is_no_distractor(encoder: VocabularyEncoder) -> None:
    vocabulary = encoder.encode({"mug": ("cup", "coffee cup")})
    beside = vocabulary.beside(encoder, ["Cup", "spoon", "mug"])
    assert beside.distractors is not None
    assert torch.equal(beside.distractors, encoder.encode(["spoon"]).embeddings)
    assert beside.to("cpu").prompts == ("cup", "coffee cup")
    assert other_prompts({"mug": ("cup", "mug"), "glass": ("Cup", "tumbler")}) == ("cup", "tumbler")
    assert Vocabulary(("cat",), torch.ones(1, 2)).prompts == ()
