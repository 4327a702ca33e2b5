"""Learned text in files: of its own and inside a detector's; the same embeddings come back."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import cora
from cora.detector import Detector, DetectorConfig
from cora.detector.text_artefact import TextArtefact, tower_digest
from cora.errors import ModelError, VocabularyError
from cora.predictor import Predictor
from cora.regions import LearnedContext, LearnedOffsets, LearnedTextConfig
from tests.detector.conftest import tiny_config, tiny_detector
from tests.detector.test_detector import picture

NAMES = ["cat", "dog", "red car"]


def artefact(detector: Detector, kind: str) -> TextArtefact:
    """Something that was learned, as far from the start as a good training would go."""
    torch.manual_seed(3)
    if kind == "tower":
        tuned = copy.deepcopy(detector.text_tower)
        with torch.no_grad():
            tuned.net.text_projection.add_(0.1 * torch.randn_like(tuned.net.text_projection))
        return TextArtefact.of_tower(tuned, detector, {"command": "cora text-prompts"})
    learned: LearnedContext | LearnedOffsets
    if kind == "context":
        learned = LearnedContext.from_text(detector.text_tower, "a photo of a")
    else:
        learned = LearnedOffsets(width=32, rank=2, names=["cat"])
    with torch.no_grad():
        for value in learned.parameters():
            value.add_(0.3 * torch.randn_like(value))
    return TextArtefact.of_learned(learned, detector, {"command": "cora text-prompts"})


@pytest.fixture
def stored(detector: Detector, tmp_path: Path) -> Path:
    """A detector's file in half precision, as shipped ones are."""
    detector.save(tmp_path / "plain.safetensors")
    return tmp_path / "plain.safetensors"


@pytest.mark.parametrize("kind", ["context", "offsets", "tower"])
def test_round_trips_give_the_same_embeddings(stored: Path, tmp_path: Path, kind: str) -> None:
    detector = cora.load(stored)
    plain = detector.vocabulary_encoder.encode(NAMES).embeddings
    made = artefact(detector, kind)
    made.write(tmp_path / "text.safetensors")
    made.apply(detector)
    expected = detector.vocabulary_encoder.encode(NAMES).embeddings
    assert not torch.allclose(expected, plain, atol=1e-2)

    other = cora.load(stored)
    read = TextArtefact.read(tmp_path / "text.safetensors")
    assert (read.kind, read.config, read.templates, dict(read.notes)) == (
        made.kind, made.config, made.templates, {"command": "cora text-prompts"},
    )  # fmt: skip
    read.apply(other)
    assert torch.equal(other.vocabulary_encoder.encode(NAMES).embeddings, expected)

    detector.save(tmp_path / "whole.safetensors")
    loaded = cora.load(tmp_path / "whole.safetensors")
    assert torch.equal(loaded.vocabulary_encoder.encode(NAMES).embeddings, expected)
    assert loaded.config == detector.config
    assert [
        name
        for name, value in loaded.named_parameters()
        if value.requires_grad and name.startswith(("learned_text", "text_tower"))
    ] == []
    assert loaded.predict(picture(), NAMES).class_names == tuple(NAMES)


def test_only_what_differs_of_a_tower_is_kept(detector: Detector) -> None:
    assert set(artefact(detector, "tower").tensors) == {"text_projection"}


def test_own_templates_are_saved_with_a_detector(detector: Detector, tmp_path: Path) -> None:
    templates = ("a drone photo of a {}", "a {} from above")
    detector.vocabulary_encoder.templates = templates
    detector.save(tmp_path / "drone.safetensors", dtype=torch.float32)
    loaded = cora.load(tmp_path / "drone.safetensors")
    assert loaded.vocabulary_encoder.templates == templates
    expected = detector.vocabulary_encoder.encode(NAMES).embeddings
    assert torch.equal(loaded.vocabulary_encoder.encode(NAMES).embeddings, expected)


def test_templates_come_with_the_artefact(stored: Path) -> None:
    trained = cora.load(stored)
    trained.vocabulary_encoder.templates = ("a drone photo of a {}",)
    made = artefact(trained, "offsets")
    detector = cora.load(stored)
    made.apply(detector)
    assert detector.vocabulary_encoder.templates == ("a drone photo of a {}",)
    plain = cora.load(stored)
    artefact(plain, "offsets").apply(plain)
    assert plain.vocabulary_encoder.templates == "plain"


def test_a_detector_without_learned_text_is_saved_as_before(detector: Detector) -> None:
    assert "text" not in detector.config.to_dict()
    assert DetectorConfig.from_dict({}).text is None
    assert not any(name.startswith("learned_text") for name in detector.state_dict())


def test_learned_text_can_be_taken_off(detector: Detector, tmp_path: Path) -> None:
    plain = detector.vocabulary_encoder.encode(NAMES).embeddings
    artefact(detector, "context").apply(detector)
    detector.learn_text(None)
    assert torch.equal(detector.vocabulary_encoder.encode(NAMES).embeddings, plain)
    assert detector.config == tiny_config()


def test_what_does_not_fit_is_refused(detector: Detector, tmp_path: Path) -> None:
    made = artefact(detector, "offsets")
    with pytest.raises(ModelError, match=r"text artefact \(offsets\): expected the text tower it was trained on"):
        made.apply(tiny_detector(tmp_path / "other", seed=5))
    made.apply(detector)
    with pytest.raises(ModelError, match="expected a detector without learned text, got one with offsets"):
        made.apply(detector)
    with pytest.raises(ValueError, match=r"text.width: expected the tower's 32, got 8"):
        detector.learn_text(LearnedOffsets(width=8))
    with pytest.raises(ValueError, match="expected the sizes of 'tower'"):
        TextArtefact(
            kind="tower", tensors={}, tower="", templates=(), config=LearnedTextConfig(kind="offsets", width=8)
        )


def test_unreadable_files(tmp_path: Path, detector: Detector) -> None:
    file = tmp_path / "text.safetensors"
    with pytest.raises(ModelError, match="expected an existing file, got none"):
        TextArtefact.read(file)
    file.write_text("nothing")
    with pytest.raises(ModelError, match="expected a file of `cora text-prompts`, could not read it"):
        TextArtefact.read(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="expected cora-text of version 1, got None"):
        TextArtefact.read(file)
    save_file({"a": torch.zeros(1)}, file, metadata={"format": "cora-text", "version": "1", "content": "{}"})
    with pytest.raises(ModelError, match="could not read it"):
        TextArtefact.read(file)
    (tmp_path / "folder").write_text("in the way")
    with pytest.raises(ModelError, match="expected to write"):
        artefact(detector, "context").write(tmp_path / "folder" / "text.safetensors")


def test_digest_survives_half_precision(detector: Detector, stored: Path) -> None:
    assert tower_digest(cora.load(stored).text_tower) == tower_digest(detector.text_tower)


def test_descriptions_in_predict(detector: Detector) -> None:
    described = {"dog": ["a golden retriever"]}
    vocabulary = detector.vocabulary_encoder.encode(NAMES, descriptions=described)
    one = Predictor(detector).predict(picture(), NAMES, score=0.0, descriptions=described)
    same = Predictor(detector).predict(picture(), vocabulary, score=0.0)
    assert torch.equal(one.scores, same.scores)
    assert not torch.equal(one.scores, Predictor(detector).predict(picture(), NAMES, score=0.0).scores)
    with pytest.raises(VocabularyError, match="expected names of classes beside them, got an encoded vocabulary"):
        Predictor(detector).predict(picture(), vocabulary, descriptions=described)
