from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cora.detector import Detector
from cora.export import check
from cora.export.check import drawn_pictures, plain_detector
from cora.export.fixed_size import FixedSizePreprocessor
from cora.export.graph import COMPETES, DetectorGraph, FixedVocabularyGraph, class_inputs
from cora.export.program import trace
from cora.export.suppression import kept_boxes
from cora.images import Preprocessor
from cora.predictor import Predictor
from cora.regions import FastAlignment
from tests.export.conftest import NAMES, manifest_of, picture, toy_config, toy_detector
from tests.tolerances import assert_near


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("anchors", ["learned", "proposed"])
@pytest.mark.parametrize("exact_boxes", [0, 4])
def test_graph_is_the_detector(tmp_path: Path, anchors: str, exact_boxes: int, aligned: bool) -> None:
    detector = toy_detector(tmp_path, toy_config(anchors=anchors))
    if aligned:
        alignment = FastAlignment(embed_dim=32)
        for value in alignment.parameters():
            value.normal_(std=0.1)
        detector.align_fast_pooling(alignment)
    manifest = manifest_of(detector, exact_boxes=exact_boxes)
    graph = DetectorGraph(detector=detector, manifest=manifest, suppress=kept_boxes)
    batch = detector.preprocessor([picture(120, 160), picture(151, 101, seed=1)])  # padded in both directions
    vocabulary = Predictor(detector).vocabulary(NAMES, class_weights={"dog": 3.0}, distractors=["tree", "sky"])
    with torch.no_grad():
        boxes, scores = graph(batch.pixels, torch.tensor(batch.sizes), *class_inputs(vocabulary))
        expected = plain_detector(detector, manifest)(batch, vocabulary)
    assert boxes.shape == (2, 12, 4)
    assert scores.shape == (2, 12, 5)  # the distractors' scores are cut off outside
    assert_near(boxes, expected.boxes_cxcywh)
    assert_near(scores[..., :3], expected.scores)


def test_a_fixed_vocabulary_gives_the_scores_of_its_classes(toy: Detector) -> None:
    vocabulary = Predictor(toy).vocabulary(NAMES, distractors=["tree"])
    graph = DetectorGraph(detector=toy, manifest=manifest_of(toy, vocabulary), suppress=kept_boxes)
    batch = toy.preprocessor([picture(120, 160)])
    sizes = torch.tensor(batch.sizes)
    with torch.no_grad():
        boxes, scores = FixedVocabularyGraph(graph=graph, vocabulary=vocabulary)(batch.pixels, sizes)
        expected = graph(batch.pixels, sizes, *class_inputs(vocabulary))
    assert torch.equal(boxes, expected[0])
    assert torch.equal(scores, expected[1][..., :3])


def test_what_competes_is_neither_looked_for_nor_reported(toy: Detector) -> None:
    vocabulary = Predictor(toy).vocabulary(NAMES[:1], distractors=["tree", "sky"])
    embeddings, log_weights = class_inputs(vocabulary)
    assert log_weights.tolist() == [0.0, COMPETES, COMPETES]
    graph = DetectorGraph(detector=toy, manifest=manifest_of(toy, nms="inside"), suppress=kept_boxes)
    batch = toy.preprocessor([picture(120, 160)])
    with torch.no_grad():
        _, _, labels = graph(batch.pixels, torch.tensor(batch.sizes), embeddings, log_weights)
    assert set(labels.unique().tolist()) <= {-1, 0}
    assert (labels == 0).any()


def test_more_boxes_than_queries_are_all_of_them(toy: Detector) -> None:
    manifest = manifest_of(toy, boxes=500, exact_boxes=400)
    assert (manifest.boxes, manifest.exact_boxes) == (20, 20)
    everything = replace(toy.config.postprocess, max_scored_boxes=0)
    manifest = replace(manifest_of(toy), config=replace(toy.config, postprocess=everything))
    assert manifest.boxes == 20


@pytest.mark.parametrize(("size", "largest"), [(None, 800), ((800, 1344), 1344)])
def test_pictures_are_compared_together_at_a_size_that_fits_into_memory(
    toy: Detector, size: tuple[int, int] | None, largest: int
) -> None:
    usual = Preprocessor() if size is None else FixedSizePreprocessor(config=Preprocessor().config, size_hw=size)
    exported = SimpleNamespace(manifest=manifest_of(toy, size_hw=size), preprocessor=usual)
    batch = check._batch_preprocessor(exported)(drawn_pictures())  # type: ignore[arg-type]
    assert max(batch.pixels.shape[-2:]) == largest


@pytest.mark.slow
def test_sides_stay_open_where_the_grid_of_a_region_is_large(tmp_path: Path) -> None:
    """CLIP's own grid has 7 cells a side; traced with as few rows, one sample a bin would be a constant."""
    config = toy_config()
    detector = toy_detector(tmp_path, replace(config, tower=replace(config.tower, image_size=224, pool_size=7)))
    manifest = manifest_of(detector)
    program = trace(detector, manifest, None, suppress=kept_boxes)
    assert all(limits.upper > 10_000 for limits in program.range_constraints.values())
    batch = detector.preprocessor.collate([picture(500, 400), picture(480, 440, seed=1)])
    vocabulary = Predictor(detector).vocabulary(NAMES)
    with torch.no_grad():
        graph = program.module(check_guards=False)
        boxes, scores = graph(batch.pixels, torch.tensor(batch.sizes), *class_inputs(vocabulary))
        expected = plain_detector(detector, manifest)(batch, vocabulary)
    assert_near(boxes, expected.boxes_cxcywh)
    assert_near(scores, expected.scores)
