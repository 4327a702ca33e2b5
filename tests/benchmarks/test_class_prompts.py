"""Region prompts of single classes, an experiment of the benchmark of few labels."""

from pathlib import Path

import pytest
import torch

from benchmarks import class_prompts
from benchmarks.class_prompts import ClassPromptDetector, background, few_regions, learn, pool, teach
from cora import Predictor
from cora.boxes import pairwise_iou
from cora.data.coco import CocoDataset
from cora.detector import Detector, DetectorConfig
from cora.regions.cell_pooling import cell_map
from tests.toy_nano import NAMES, nano_config, picture, toy_nano, write_boxed_photos

CONFIGS = [nano_config(), nano_config(looks=2), nano_config(detector=False, box_stages=(3, 4), fine_bins=2)]


def with_offsets(detector: Detector, offsets: torch.Tensor) -> Predictor:
    return Predictor(ClassPromptDetector.of(detector, offsets=offsets, precision=detector.precision))


def dataset_in(folder: Path) -> CocoDataset:
    photos = write_boxed_photos(folder)
    return CocoDataset(annotations=photos / "boxes.json", images=photos / "images")


@pytest.mark.parametrize("config", CONFIGS, ids=["one look", "two looks", "fine head"])
def test_zero_offsets_find_exactly_what_the_detector_finds(tmp_path: Path, config: DetectorConfig) -> None:
    detector = toy_nano(tmp_path, config)
    zeros = torch.zeros(len(NAMES), *detector.prompt.offset.shape)
    for seed, size in enumerate([(120, 160), (128, 96)]):
        expected = Predictor(detector).predict(picture(*size, seed), NAMES, score=0.0)
        found = with_offsets(detector, zeros).predict(picture(*size, seed), NAMES, score=0.0)
        assert len(found) > 10
        assert found.names == expected.names
        assert torch.equal(found.boxes_xyxy_px, expected.boxes_xyxy_px)
        assert torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("config", CONFIGS, ids=["one look", "two looks", "fine head"])
def test_a_class_has_the_probability_of_the_detector_whose_shared_prompt_has_its_offset(
    tmp_path: Path, config: DetectorConfig
) -> None:
    detector = toy_nano(tmp_path, config)
    torch.manual_seed(1)
    offsets = torch.randn(len(NAMES), *detector.prompt.offset.shape)
    vocabulary = detector.vocabulary_encoder.encode(NAMES)
    own = ClassPromptDetector.of(detector, offsets=offsets)
    boxes = torch.rand(2, 7, 4) * 0.4 + 0.3
    with torch.no_grad():
        c3, c4 = detector.encode(detector.preprocessor([picture(120, 160), picture(120, 160, 1)]))
        found = own.classify_best(c3, own.prepare_fast_pooling(c4), boxes, boxes[..., 0], vocabulary)
        shared, columns = detector.prompt.offset.clone(), []
        for label, offset in enumerate(offsets):
            detector.prompt.offset.copy_(shared + offset)
            regions = detector.embed_exact(c3, boxes)
            columns.append(detector.classifier.logits(regions, vocabulary.embeddings)[..., label])
    logits = torch.stack([*columns, torch.full_like(columns[0], detector.classifier.background_logit)], dim=-1)
    torch.testing.assert_close(found, logits.softmax(-1)[..., :-1], rtol=1e-4, atol=1e-5)


def test_offsets_learn_and_nothing_else_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_prompts, "BATCH", 16)
    dataset, detector = dataset_in(tmp_path / "photos"), toy_nano(tmp_path / "cache")
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    assert not learn(detector, dataset, steps=0).any()
    offsets = learn(detector, dataset, steps=30, rate=0.1)
    assert offsets.shape == (2, *detector.prompt.offset.shape)
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert all(parameter.requires_grad for parameter in detector.localizer.parameters())

    def loss(learned: torch.Tensor) -> float:
        regions, labels = few_regions(detector, dataset, torch.Generator().manual_seed(1))
        text = detector.vocabulary_encoder.encode(dataset.class_names).embeddings
        tower = class_prompts.tower_of(detector)
        logits = class_prompts.class_logits(tower, detector.classifier, regions, text, learned)
        return float(torch.nn.functional.cross_entropy(logits, labels))

    with torch.no_grad():
        assert loss(offsets) < 0.8 * loss(torch.zeros_like(offsets))


def test_a_predictor_that_was_taught_detects_with_the_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, detector = dataset_in(tmp_path / "photos"), toy_nano(tmp_path / "cache")
    monkeypatch.setattr(class_prompts, "STEPS", 2)
    predictor, names = Predictor(detector), dataset.class_names
    before = predictor.predict(picture(120, 160), names, score=0.0)
    teach(predictor, dataset)
    assert isinstance(predictor.detector, ClassPromptDetector)
    found = predictor.predict(picture(120, 160), names, score=0.0)
    assert len(found) > 10
    assert not torch.equal(found.scores[:10], before.scores[:10])
    with pytest.raises(ValueError, match="expected 2 classes, got 3"):
        predictor.predict(picture(120, 160), NAMES)


def test_regions_are_boxes_with_copies_and_proposals_beside_them(tmp_path: Path) -> None:
    dataset, detector = dataset_in(tmp_path / "photos"), toy_nano(tmp_path / "cache")
    regions, labels = few_regions(detector, dataset, torch.Generator().manual_seed(0))
    objects = 6 * (1 + class_prompts.COPIES)
    assert [int((labels == label).sum()) for label in (0, 1)] == [objects, objects]
    assert 0 < int((labels == 2).sum()) <= 6 * class_prompts.BACKGROUND
    assert len(regions.hidden) == len(labels)
    with torch.no_grad():
        c3, _ = detector.encode(detector.preprocessor([dataset[0][0]]))
        own = dataset.records[0].boxes_xyxy_px / torch.tensor([90.0, 120.0] * 2)
        centre_size = torch.cat([(own[:, :2] + own[:, 2:]) / 2, own[:, 2:] - own[:, :2]], dim=1)
        first = pool(detector, cell_map(c3, class_prompts.tower_of(detector)), centre_size[None])
    torch.testing.assert_close(regions.hidden[:2], first.hidden)


def test_background_hardly_overlaps_a_box() -> None:
    torch.manual_seed(0)
    proposals = torch.cat([torch.rand(200, 2) * 0.5, torch.rand(200, 2) * 0.5 + 0.5], dim=1)
    boxes = torch.tensor([[0.0, 0.0, 0.6, 0.6], [0.5, 0.5, 1.0, 1.0]])
    drawn = background(proposals, boxes, torch.Generator().manual_seed(0))
    assert 0 < len(drawn) <= class_prompts.BACKGROUND
    assert float(pairwise_iou(drawn, boxes).max()) < class_prompts.BACKGROUND_IOU
