"""The whole detector against the numbers of the published code, in float32."""

import argparse
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import cora
from cora.apps.cli import main
from cora.detector import Detector, detector_from_published, load_published
from cora.detector.postprocess import select_detections
from cora.errors import ModelError
from cora.regions import Vocabulary, VocabularyEncoder
from cora.structures import FeatureMap
from tests.parity.toy import Toy, assert_close, published_order, reorder
from tests.published_files import written_by_main
from tests.tolerances import assert_near


@pytest.fixture(scope="module")
def detector(toy: Toy) -> Detector:
    return detector_from_published(toy.state_dict)


@pytest.fixture(scope="module")
def vocabulary(toy: Toy) -> Vocabulary:
    return Vocabulary(toy.names, toy.expected["class_embeddings"])


@pytest.fixture(scope="module")
def order(toy: Toy) -> Tensor:
    return published_order(toy)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def features(toy: Toy, detector: Detector) -> tuple[FeatureMap, FeatureMap]:
    with torch.no_grad():
        return detector.encode(toy.batch)


def inverse_sigmoid(values: Tensor) -> Tensor:
    """Clamped at 1e-5 as where the published detector reads boxes and scores out."""
    return torch.log(values.clamp(min=1e-5) / (1 - values).clamp(min=1e-5))


def test_text_tower(toy: Toy, detector: Detector) -> None:
    found = VocabularyEncoder(text_tower=detector.text_tower).encode(toy.names)
    assert_close(found.embeddings, toy.expected["text_tower"])


def test_features_and_masks(toy: Toy, features: tuple[FeatureMap, FeatureMap]) -> None:
    for stage, found in zip((3, 4), features, strict=True):
        assert_close(found.features, toy.expected[f"features.layer{stage}"])
        assert torch.equal(found.mask, toy.expected[f"mask.layer{stage}"])


def test_fast_pooling(toy: Toy, detector: Detector, features: tuple[FeatureMap, FeatureMap]) -> None:
    assert_close(
        detector.embed_fast(features[1], detector.anchors(detector.encode_map(features[0]))), toy.expected["roi_fast"]
    )


def test_pre_matched_classes(
    toy: Toy,
    detector: Detector,
    vocabulary: Vocabulary,
    features: tuple[FeatureMap, FeatureMap],
    order: Tensor,
) -> None:
    matched = detector.pre_match(features[1], detector.anchors(detector.encode_map(features[0])), vocabulary)
    assert torch.equal(reorder(matched.classes, order), toy.expected["pre_matched_class"])


def test_decoding(
    toy: Toy,
    detector: Detector,
    vocabulary: Vocabulary,
    features: tuple[FeatureMap, FeatureMap],
    order: Tensor,
) -> None:
    matched = detector.pre_match(features[1], detector.anchors(detector.encode_map(features[0])), vocabulary)
    decoded = detector.decode(detector.encode_map(features[0]), matched)
    for layer in range(2):
        assert_close(reorder(decoded.boxes_cxcywh[layer], order), toy.expected["aux_boxes"][layer])
        assert_close(reorder(decoded.objectness[layer], order), toy.expected["aux_objectness"][layer, ..., 0])
    assert_close(reorder(decoded.boxes_cxcywh[-1], order), toy.expected["pred_boxes"])
    for layer in range(3):
        assert_close(reorder(decoded.hidden[layer], order), toy.expected["hs"][layer])


def test_exact_pooling(toy: Toy, detector: Detector, features: tuple[FeatureMap, FeatureMap]) -> None:
    assert_close(detector.embed_exact(features[0], toy.expected["pred_boxes"]), toy.expected["roi_exact"])


def test_scores(toy: Toy, detector: Detector, vocabulary: Vocabulary, order: Tensor) -> None:
    output = detector(toy.batch, vocabulary)
    assert_close(reorder(output.boxes_cxcywh, order), toy.expected["pred_boxes"])
    assert_close(inverse_sigmoid(reorder(output.scores, order)), toy.expected["pred_logits"])


def test_detections(toy: Toy, detector: Detector, vocabulary: Vocabulary) -> None:
    output = detector(toy.batch, vocabulary)
    for index, size in enumerate(toy.batch.sizes):
        boxes, scores, labels = select_detections(
            output.boxes_cxcywh[index],
            output.scores[index],
            size,
            min_score=0.001,
            nms_iou=0.5,
            max_detections=100,
            clip=False,  # the published code leaves boxes as they are
        )
        assert torch.equal(labels, toy.expected[f"detections.{index}.labels"])
        assert_close(scores, toy.expected[f"detections.{index}.scores"])
        assert_close(boxes, toy.expected[f"detections.{index}.boxes"])


def test_published_files_load(toy: Toy, detector: Detector, tmp_path: Path) -> None:
    averaged = {name: value.half() for name, value in toy.state_dict.items()}
    plain = {**averaged, "query_embed.weight": averaged["query_embed.weight"] + 1}
    torch.save({"model": plain, "model_ema": averaged, "epoch": 34}, tmp_path / "published.pth")
    assert detector.config.postprocess.max_scored_boxes == 0
    found, expected = load_published(tmp_path / "published.pth").state_dict(), detector.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    other = load_published(tmp_path / "published.pth", ema=False).localizer.learned_anchors
    assert other is not None
    assert detector.localizer.learned_anchors is not None
    assert not torch.equal(other(1), detector.localizer.learned_anchors(1))


class Gadget:
    """A class of one's own, as a file may hold."""


@pytest.mark.slow
@pytest.mark.parametrize("best", [-1, 0.351, np.float64(0.351), np.float32(0.351)])
def test_complete_checkpoints_convert_averaged_weights_first(
    toy: Toy, detector: Detector, tmp_path: Path, best: float
) -> None:
    state = {name: value.half() for name, value in toy.state_dict.items()}
    plain = {**state, "query_embed.weight": state["query_embed.weight"] + 1}
    shifted = detector.state_dict()["localizer.learned_anchors.logits"] + 1
    source, target = tmp_path / "checkpoint.pth", tmp_path / "model.safetensors"
    before = set(map(str, torch.serialization.get_safe_globals()))
    for averaged, expected in ((OrderedDict(state), shifted - 1), (-1, shifted), ({}, shifted)):
        torch.save({**written_by_main(plain, averaged=averaged), "best_performance": best}, source)
        assert main(["convert", str(source), "--output", str(target)]) == 0
        found = cora.load(target).state_dict()["localizer.learned_anchors.logits"]
        assert_near(found, expected, computed_in=torch.float16)
    assert set(map(str, torch.serialization.get_safe_globals())) == before


@pytest.mark.parametrize("foreign", [Gadget(), Path("a"), np.zeros(3), Gadget, eval])
@pytest.mark.parametrize("place", ["best_performance", "args"])
def test_other_classes_are_refused_in_one_line(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str], foreign: object, place: str
) -> None:
    content = written_by_main(toy.state_dict, averaged=-1)
    content[place] = argparse.Namespace(hidden=foreign) if place == "args" else foreign
    torch.save(content, tmp_path / "checkpoint.pth")
    assert main(["convert", str(tmp_path / "checkpoint.pth"), "--output", str(tmp_path / "m.safetensors")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("cora: error: published checkpoint ")
    assert "holds more than tensors and could run code" in err
    assert err.count("\n") == 1
    for advice in ("weights_only", "safe_globals", "trust"):
        assert advice not in err
    assert not (tmp_path / "m.safetensors").exists()


def test_what_does_not_fit_is_counted(toy: Toy, tmp_path: Path) -> None:
    lacking = {name: value for name, value in toy.state_dict.items() if "encoder.query_scale" not in name}
    with pytest.raises(ModelError, match=r"\d+ missing and 0 unknown, for example localizer.encoder"):
        detector_from_published(lacking)
    with pytest.raises(ModelError, match="0 missing and 1 unknown, for example surplus"):
        detector_from_published({**toy.state_dict, "surplus": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"text_tower.net.positional_embedding|another shape"):
        detector_from_published({**toy.state_dict, "classifier.ln_final.bias": torch.zeros(3)})
    with pytest.raises(ModelError, match="got 1 tensor without backbone"):
        detector_from_published({"weight": torch.zeros(1)})
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="expected a mapping, got list"):
        load_published(tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ModelError, match="could not read it"):
        load_published(tmp_path / "text.pth")
    with pytest.raises(ModelError, match="expected an existing file"):
        load_published(tmp_path / "none.pth")
