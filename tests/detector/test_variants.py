"""Detectors that differ in one step: in which, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from cora.detector import Detector, DetectorOutput
from cora.detector.variants import (
    ConditionalDetector,
    CropDetector,
    EndToEndDetector,
    EndToEndHead,
    RegionProposalDetector,
    TopKDetector,
    any_object,
    classes_of_boxes,
    without_prompt,
)
from cora.regions import Vocabulary
from cora.structures import ImageBatch, Targets
from tests.detector.conftest import tiny_detector
from tests.toy_nano import toy_nano


@pytest.fixture
def trained(tmp_path: Path) -> Detector:
    """Random weights everywhere, box heads and prompt included: nothing is neutral."""
    detector = tiny_detector(tmp_path / "cache")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in [detector.prompt.offset, *detector.localizer.decoder.box_heads.parameters()]:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return detector


@pytest.fixture
def batch(trained: Detector) -> ImageBatch:
    photos = [Image.effect_noise(size, 90).convert("RGB") for size in ((96, 64), (64, 64))]
    return trained.preprocessor(photos)


def words(count: int, seed: int = 0) -> Vocabulary:
    embeddings = torch.randn(count, 32, generator=torch.Generator().manual_seed(seed))
    return Vocabulary(tuple(f"word {i}" for i in range(count)), torch.nn.functional.normalize(embeddings, dim=-1))


@torch.no_grad()
def output(detector: Detector, batch: ImageBatch, vocabulary: Vocabulary) -> DetectorOutput:
    found: DetectorOutput = detector(batch, vocabulary)
    return found


def decodings(detector: Detector, batch: ImageBatch, vocabulary: Vocabulary) -> tuple[int, int]:
    """How often the decoder runs, and how many queries an image it decodes in all."""
    counts: list[int] = []
    handle = detector.localizer.decoder.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[1].shape[1]))
    output(detector, batch, vocabulary)
    handle.remove()
    return len(counts), sum(counts)


def test_proposals_do_not_depend_on_the_vocabulary(trained: Detector, batch: ImageBatch) -> None:
    few, many = words(2), words(7, seed=1)
    own = RegionProposalDetector.of(trained)
    first, second = output(own, batch, few), output(own, batch, many)
    assert torch.equal(first.boxes_cxcywh, second.boxes_cxcywh)
    assert torch.equal(first.objectness, second.objectness)
    assert first.scores.shape[-1] == 2
    assert second.scores.shape[-1] == 7
    assert not torch.equal(output(trained, batch, few).objectness, output(trained, batch, many).objectness)
    torch.testing.assert_close(any_object(32).norm(), torch.tensor(1.0))


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_conditional_matching_costs_a_decoding_a_class(trained: Detector, batch: ImageBatch, classes: int) -> None:
    anchors = trained.config.localizer.num_queries
    assert decodings(ConditionalDetector.of(trained), batch, words(classes)) == (classes, classes * anchors)
    assert decodings(trained, batch, words(classes)) == (1, anchors)


def test_conditional_boxes_count_for_their_class_only(trained: Detector, batch: ImageBatch) -> None:
    own, vocabulary = ConditionalDetector.of(trained), words(3)
    found = output(own, batch, vocabulary)
    assert found.boxes_cxcywh.shape == (2, 36, 4)
    assert ((found.scores > 0).sum(dim=-1) == 1).all()
    # What is found for a class does not depend on which others are asked for.
    alone = output(own, batch, Vocabulary(vocabulary.names[1:2], vocabulary.embeddings[1:2]))
    mine = found.scores[0].argmax(dim=-1) == 1
    assert mine.sum() == 12
    torch.testing.assert_close(found.boxes_cxcywh[0, mine], alone.boxes_cxcywh[0])
    torch.testing.assert_close(found.objectness[0, mine], alone.objectness[0])


def test_conditional_keeps_the_best_of_all_classes(trained: Detector, batch: ImageBatch) -> None:
    own, vocabulary = ConditionalDetector.of(trained), words(3)
    whole = output(own, batch, vocabulary)
    own.config = replace(own.config, postprocess=replace(own.config.postprocess, max_scored_boxes=5))
    few = output(own, batch, vocabulary)
    torch.testing.assert_close(few.objectness, whole.objectness[:, :5])


def test_without_prompt_is_the_towers_own_pool(trained: Detector, batch: ImageBatch) -> None:
    own = without_prompt(trained)
    assert torch.equal(own.prompted_positions(), trained.image_tower.attention_pool.positional_embedding)
    assert not torch.equal(trained.prompted_positions(), own.prompted_positions())
    first, second = output(own, batch, words(3)), output(trained, batch, words(3))
    assert not torch.allclose(first.probabilities, second.probabilities)


def test_crops_see_nothing_but_the_crop_and_no_prompt(trained: Detector, batch: ImageBatch) -> None:
    own = CropDetector.of(trained)
    boxes = torch.tensor([[[0.25, 0.5, 0.5, 1.0]], [[0.5, 0.5, 1.0, 1.0]]])
    changed = batch.pixels.clone()
    changed[0, :, :, 60:] = 2.0  # the right half of the first image

    def embedded(detector: Detector, pixels: Tensor) -> Tensor:
        c3, _ = detector.encode(ImageBatch(pixels, batch.mask, batch.sizes, batch.original_sizes))
        return detector.embed_exact(c3, boxes)

    before, after = embedded(own, batch.pixels), embedded(own, changed)
    assert before.shape == (2, 1, 32)
    torch.testing.assert_close(before.norm(dim=-1), torch.ones(2, 1))
    torch.testing.assert_close(after, before)
    assert not torch.allclose(embedded(trained, changed)[0], embedded(trained, batch.pixels)[0])
    torch.testing.assert_close(embedded(CropDetector.of(without_prompt(trained)), batch.pixels), before)


def test_a_crop_of_the_whole_photo_is_the_photo(trained: Detector) -> None:
    photo = Image.effect_noise((64, 64), 90).convert("RGB")
    batch = trained.preprocessor([photo])
    own = CropDetector.of(trained)
    c3, _ = own.encode(batch)
    whole = own.embed_exact(c3, torch.tensor([[[0.5, 0.5, 1.0, 1.0]]]))
    torch.testing.assert_close(whole[0], trained.image_tower.encode_image(batch.pixels), atol=1e-4, rtol=1e-4)


def test_crops_of_a_timm_tower_see_nothing_but_the_crop(tmp_path: Path) -> None:
    network = toy_nano(tmp_path, seed=2).eval()
    with torch.no_grad():
        network.prompt.offset.add_(1.0)
    batch = network.preprocessor([Image.effect_noise((128, 128), 90).convert("RGB")])
    own, left = CropDetector.of(network), torch.tensor([[[0.25, 0.5, 0.5, 1.0]]])
    changed = replace(batch, pixels=batch.pixels.clone())
    changed.pixels[..., 80:] = 2.0  # right of the crop
    with torch.no_grad():
        before, after = (own.embed_exact(own.encode(one)[0], left) for one in (batch, changed))
        region = network.embed_exact(network.encode(batch)[0], left)
    torch.testing.assert_close(before.norm(dim=-1), torch.ones(1, 1))
    torch.testing.assert_close(after, before)
    assert not torch.allclose(region, before, atol=1e-3)


def test_crops_need_the_photos(trained: Detector, batch: ImageBatch) -> None:
    c3, _ = trained.encode(batch)
    with pytest.raises(ValueError, match=r"expected the map that CropDetector\.encode gave"):
        CropDetector.of(trained).embed_exact(c3, torch.rand(2, 1, 4))


def test_no_boxes_have_no_crops(trained: Detector, batch: ImageBatch) -> None:
    own = CropDetector.of(trained)
    c3, _ = own.encode(batch)
    assert own.embed_exact(c3, torch.zeros(2, 0, 4)).shape == (2, 0, 32)


def test_the_end_to_end_head_is_a_scaled_cosine() -> None:
    head = EndToEndHead(dim=8, embed_dim=4)
    hidden, classes = torch.randn(3, 5, 8), torch.nn.functional.normalize(torch.randn(6, 4), dim=-1)
    logits = head(hidden, classes)
    assert logits.shape == (3, 5, 6)
    torch.testing.assert_close(head(hidden, classes[[2]])[..., 0], logits[..., 2])
    cosine = (logits - head.bias) / head.log_scale.exp()
    assert cosine.abs().max() <= 1 + 1e-5
    own = torch.nn.functional.normalize(head.projection(hidden), dim=-1)
    torch.testing.assert_close(head(hidden, own[0, :1])[0, 0, 0], head.bias + head.log_scale.exp())


def test_end_to_end_scores_pool_no_region(trained: Detector, batch: ImageBatch) -> None:
    own, calls = EndToEndDetector.of(trained), []
    handle = trained.image_tower.layer4.register_forward_hook(lambda *_: calls.append(1))
    found = output(own, batch, words(4))
    handle.remove()
    assert len(calls) == 1  # of the whole map, for pre-matching
    assert found.scores.shape == (2, 12, 4)
    assert ((found.scores > 0) & (found.scores < 1)).all()
    torch.testing.assert_close(found.objectness.sigmoid(), found.scores.amax(dim=-1))


@pytest.mark.parametrize(("top_k", "classes", "queries"), [(1, 4, 12), (3, 4, 36), (3, 2, 24)])
def test_top_k_decodes_k_queries_an_anchor(
    trained: Detector,
    batch: ImageBatch,
    top_k: int,
    classes: int,
    queries: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TopKDetector, "top_k", top_k)
    assert decodings(TopKDetector.of(trained), batch, words(classes)) == (1, queries)


def test_top_1_is_the_method_itself(trained: Detector, batch: ImageBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TopKDetector, "top_k", 1)
    first, second = (output(d, batch, words(4)) for d in (trained, TopKDetector.of(trained)))
    torch.testing.assert_close(first.scores, second.scores)


def test_anchors_take_the_class_of_the_box_they_overlap_most() -> None:
    anchors = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2], [0.5, 0.05, 0.01, 0.01]]).expand(2, -1, -1)
    boxes = torch.tensor([[0.3, 0.3, 0.4, 0.4], [0.2, 0.2, 0.2, 0.3], [0.8, 0.8, 0.6, 0.6]])
    targets = [
        Targets(boxes_cxcywh=boxes, classes=torch.tensor([5, 6, 7])),
        Targets(boxes_cxcywh=boxes[:0], classes=torch.zeros(0, dtype=torch.int64)),
    ]
    found = classes_of_boxes(anchors, targets, torch.tensor([[0, 1, 2], [3, 4, 0]]))
    assert found.tolist() == [[6, 7, 2], [3, 4, 0]]
