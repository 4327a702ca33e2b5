"""Templates and descriptions: what people write is checked, and messages hold the text that is wrong."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from cora.data.class_split import known_split
from cora.errors import VocabularyError
from cora.regions import (
    IMAGENET_TEMPLATES,
    VocabularyEncoder,
    check_described,
    clean_descriptions,
    clean_templates,
    read_descriptions,
    read_templates,
)
from cora.towers import TextTower, TowerConfig, build_towers

CONFIG = TowerConfig(
    layers=(1, 1, 1, 1), width=8, image_size=64, embed_dim=32, text_width=32, text_heads=1, text_layers=1,
    context_length=24, vocab_size=2000,
)  # fmt: skip
DRONE = ("a drone photo of a {}", "a {} from above")


@pytest.fixture(scope="module")
def text_tower() -> TextTower:
    torch.manual_seed(2)
    return build_towers(CONFIG)[1]


def test_own_templates_are_averaged(text_tower: TextTower) -> None:
    found = VocabularyEncoder(text_tower=text_tower, templates=DRONE).encode(["red car"])
    expected = text_tower.encode(["a drone photo of a red car", "a red car from above"]).mean(dim=0)
    torch.testing.assert_close(found.embeddings[0], normalize(expected, dim=0))


def test_templates_can_be_changed_later(text_tower: TextTower) -> None:
    encoder = VocabularyEncoder(text_tower=text_tower, templates="plain")
    plain = encoder.encode(["cat"]).embeddings
    encoder.templates = DRONE
    assert encoder.templates == DRONE
    drone = encoder.encode(["cat"]).embeddings
    assert not torch.equal(plain, drone)
    encoder.templates = "plain"
    assert torch.equal(encoder.encode(["cat"]).embeddings, plain)


def test_names_are_put_in_and_never_read_as_templates(text_tower: TextTower) -> None:
    encoder = VocabularyEncoder(text_tower=text_tower, templates="plain")
    found = encoder.encode(["{} {0} %s"]).embeddings
    torch.testing.assert_close(found, text_tower.encode(["a {} {0} %s"]))


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ([], "expected 1 to 1000 sentences, got 0"),
        (["a {}"] * 1001, "expected 1 to 1000 sentences, got 1001"),
        (["a {}", "a drone photo"], r"template 2: expected {} exactly once .* got 'a drone photo'"),
        (["{} and {}"], "template 1: expected {} exactly once"),
        (["a {name}"], r"no other braces, got 'a {name}'"),
        (["a {0.__class__} {}"], "no other braces"),
        (["  "], "template 1: expected a text, got a blank one"),
        ([7], "template 1: expected a text, got 7"),
        (["x" * 600 + "{}"], r"at most 500 characters, got 602: 'xxx.*\.\.\."),
        ("drone", "expected one of imagenet, plain or a list of sentences, got 'drone'"),
    ],
)
def test_unusable_templates(templates: list[str], message: str) -> None:
    with pytest.raises(VocabularyError, match=message) as raised:
        clean_templates(templates)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 250


def test_a_template_too_long_for_the_tower_is_named(text_tower: TextTower) -> None:
    long = "a very " + "long " * 30 + "photo of a {}"
    with pytest.raises(VocabularyError, match=r"template 'a very long .*context of 24 tokens"):
        VocabularyEncoder(text_tower=text_tower, templates=[long])


def test_template_files(tmp_path: Path) -> None:
    lines = tmp_path / "drone.txt"
    lines.write_text("\ufeff# from above\n\n" + "\n".join(DRONE) + "\n", encoding="utf-8")
    assert read_templates(lines) == DRONE
    listed = tmp_path / "drone.json"
    listed.write_text(json.dumps(DRONE))
    assert read_templates(listed) == DRONE
    assert read_templates("imagenet") == IMAGENET_TEMPLATES
    (tmp_path / "bad.json").write_text('{"a": 1}')
    with pytest.raises(VocabularyError, match=r"expected a JSON list of templates in .*bad.json, got an object"):
        read_templates(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("[")
    with pytest.raises(VocabularyError, match=r"bad.json: expected a JSON list of templates, got text"):
        read_templates(tmp_path / "bad.json")
    with pytest.raises(VocabularyError, match=r"expected a set of templates \(imagenet, plain\) or a file .*none.txt"):
        read_templates(tmp_path / "none.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe{}")
    with pytest.raises(VocabularyError, match=r"in UTF-8, got other bytes: .*bytes.txt"):
        read_templates(tmp_path / "bytes.txt")
    lines.write_text("an image")
    with pytest.raises(VocabularyError, match=r"drone.txt: template 1: expected {} exactly once"):
        read_templates(lines)


def test_a_described_class_is_a_mixture(text_tower: TextTower) -> None:
    sentences = ["a golden retriever on a lawn", "a {} with four legs"]
    encoder = VocabularyEncoder(text_tower=text_tower, templates="plain", description_share=0.5)
    found = encoder.encode(["cat", "Dog"], descriptions={"dog": sentences})
    plain = text_tower.encode(["a Dog"])[0]
    texts = normalize(text_tower.encode([sentences[0], "a Dog with four legs"]).mean(dim=0), dim=0)
    torch.testing.assert_close(found.embeddings[1], normalize(plain + texts, dim=0))
    assert torch.equal(found.embeddings[:1], encoder.encode(["cat"]).embeddings)
    alone = VocabularyEncoder(text_tower=text_tower, templates="plain", description_share=1.0)
    torch.testing.assert_close(alone.encode(["Dog"], descriptions={"DOG": sentences}).embeddings[0], texts)
    ignored = VocabularyEncoder(text_tower=text_tower, templates="plain", description_share=0.0)
    torch.testing.assert_close(ignored.encode(["Dog"], descriptions={"dog": sentences}).embeddings[0], plain)


def test_descriptions_of_the_encoder_and_of_one_call(text_tower: TextTower) -> None:
    encoder = VocabularyEncoder(text_tower=text_tower, templates="plain", descriptions={"dog": ["a hound"]})
    by_call = VocabularyEncoder(text_tower=text_tower, templates="plain")
    for names in (["dog"], ["cat", "dog"]):
        expected = by_call.encode(names, descriptions={"dog": ["a hound"]}).embeddings
        assert torch.equal(encoder.encode(names).embeddings, expected)
    # Of the encoder's own, none may fit: the same encoder embeds distractors.
    assert torch.equal(encoder.encode(["cat"]).embeddings, by_call.encode(["cat"]).embeddings)
    other = encoder.encode(["dog"], descriptions={"dog": ["a puppy"]}).embeddings
    assert torch.equal(other, by_call.encode(["dog"], descriptions={"dog": ["a puppy"]}).embeddings)
    with pytest.raises(VocabularyError, match="expected some of the 1 class names, got dgo; check the spelling"):
        by_call.encode(["dog"], descriptions={"dgo": ["a hound"]})


@pytest.mark.parametrize(
    ("descriptions", "message"),
    [
        (["a hound"], "expected names with lists of sentences, .*got list"),
        ({"dog": "a hound"}, "descriptions of 'dog': expected a list of sentences, got 'a hound'; put it in a list"),
        ({"dog": []}, "descriptions of 'dog': expected 1 to 200 sentences, got 0"),
        ({"dog": ["ok", ""]}, "descriptions of 'dog': expected a text, got a blank one"),
        ({"dog": [None]}, "descriptions of 'dog': expected a text, got None"),
        ({"dog": ["a {breed}"]}, "descriptions of 'dog': expected no other braces than {}, got 'a {breed}'"),
        ({"dog": ["x" * 501]}, "descriptions of 'dog': expected at most 500 characters, got 501"),
        ({"dog": ["a"], " DOG": ["b"]}, "expected every name once, got 'dog' twice"),
        ({" ": ["a"]}, "name of a class: expected a text, got a blank one"),
    ],
)
def test_unusable_descriptions(descriptions: dict[str, list[str]], message: str) -> None:
    with pytest.raises(VocabularyError, match=message) as raised:
        clean_descriptions(descriptions)
    assert "\n" not in str(raised.value)


def test_a_description_too_long_for_the_tower_is_named(text_tower: TextTower) -> None:
    encoder = VocabularyEncoder(text_tower=text_tower, templates="plain")
    with pytest.raises(VocabularyError, match=r"descriptions of 'dog': 'a long long .*context of 24 tokens.*sentence"):
        encoder.encode(["dog"], descriptions={"dog": ["a hound", "a " + "long " * 30 + "tail"]})
    with pytest.raises(VocabularyError, match=r"description_share: expected a number in 0..1, got 2"):
        VocabularyEncoder(text_tower=text_tower, description_share=2.0)


def test_description_files(tmp_path: Path) -> None:
    file = tmp_path / "words.json"
    file.write_text('{"Dog": ["a  golden\\n retriever"]}')
    assert read_descriptions(file) == {"dog": ("a golden retriever",)}
    for content, message in (
        ('{"dog": ["a"], "dog": ["b"]}', "the name 'dog' stands in it twice"),
        ("[1]", "words.json: descriptions: expected names with lists of sentences"),
        ("{", "words.json: expected a JSON object of descriptions"),
        ('{"dog": "a"}', "words.json: descriptions of 'dog': expected a list"),
    ):
        file.write_text(content)
        with pytest.raises(VocabularyError, match=message):
            read_descriptions(file)
    with pytest.raises(VocabularyError, match=r"expected a JSON file of descriptions, got No such file"):
        read_descriptions(tmp_path / "none.json")


def test_one_file_may_serve_many_lists() -> None:
    assert check_described({"dog": ["a"], "cow": ["b"]}, ["cat", " Dog"]) == ["cow"]
    with pytest.raises(VocabularyError, match="expected some of the 1 class names, got nothing"):
        check_described({}, ["cat"])


def test_descriptions_of_the_benchmark_are_complete() -> None:
    described = read_descriptions(Path(__file__).parents[2] / "benchmarks" / "coco_descriptions.json")
    assert described.keys() == {name.casefold() for name in known_split("coco").all}
