"""How the prompts of a class meet: the mean of their embeddings, or the best cosine of them.

Command: python recipes/nano/prompts.py --kit ../shared/kit --every 2

Measured: the mean 35.1 and the best 36.7 without the class name, 38.7 and 39.1 with it, plain names 39.1 (AP50 of 126
images; intervals in docs/detect.md). The best is 1.6 (-0.3 to 2.9) and 0.5 (-0.4 to 1.7) above the mean.

On the images that choices are made on (`sources.choice_images`), nano looks for the 80 classes of COCO. 42 of them have
the prompts of `prompts.json`, "others": synonyms without the class name; "all": the class name, too; "one": the first
synonym alone. The rest have their name. AP50 of the 42 classes, and its difference to that with plain names, paired:
both on the same resamples of the images.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from sources import as_coco, choice_images, coco
from torch import Tensor

import cora
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.detector.postprocess import combine_scores, suppress
from cora.evaluation.base_novel import group_scores, resampled_ap50
from cora.evaluation.bootstrap import Estimate, FloatArray, estimate, mean_of_known, resample_counts
from cora.evaluation.coco_ap import MAX_DETECTIONS, evaluate_boxes
from cora.evaluation.predict import MIN_SCORE, ground_truth
from cora.predictor import at_precision
from cora.regions import RegionClassifier, Vocabulary, class_prompts

RESAMPLES, GROUP = 1000, "with prompts"


class BestOf(RegionClassifier):
    """The logit of a class is that of its best prompt; the classes stand for runs of prompts, `counts` long."""

    def __init__(self, classifier: RegionClassifier, counts: list[int]) -> None:
        super().__init__(scale=classifier.scale, background=classifier.background)
        self.counts = counts

    def logits(self, regions: Tensor, class_embeddings: Tensor) -> Tensor:
        """[..., C] from regions [..., D] and the embeddings [P, D] of all prompts."""
        parts = super().logits(regions, class_embeddings).split(self.counts, dim=-1)
        return torch.stack([part.amax(dim=-1) for part in parts], dim=-1)


@dataclass(frozen=True)
class Way:
    """A way to look for the classes: what answers, and for what."""

    title: str
    detector: Detector
    vocabulary: Vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--every", type=int, default=1, help="take each so manieth image")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    given = json.loads((Path(__file__).parent / "prompts.json").read_text(encoding="utf-8"))
    more = arguments.kit / "coco_more"
    chosen = choice_images(coco(more / "all.json", more / "photos", "more"))[:: arguments.every]
    with tempfile.TemporaryDirectory() as folder:
        annotations = Path(folder) / "choice.json"
        annotations.write_text(json.dumps(as_coco(chosen)), encoding="utf-8")
        dataset = CocoDataset(annotations=annotations, images=more / "photos")
    names = dataset.class_names
    print(f"{len(dataset)} images, {len(given)} of {len(names)} classes with prompts")
    detector = at_precision(cora.load(arguments.model).detector, "float32")
    ways = list(all_ways(detector, names, given))
    found = list(zip(*detect(detector, dataset, ways), strict=True))
    counts = resample_counts(len(dataset), resamples=RESAMPLES)
    columns = [place for place, name in enumerate(names) if name in given]
    measured: dict[str, tuple[float, FloatArray]] = {}
    for way, results in zip(ways, found, strict=True):
        ids = {name: number for number, name in enumerate(names, start=1)}
        evaluation = evaluate_boxes(ground_truth(dataset), [one for part in results for one in part], classes=ids)
        resampled = resampled_ap50(evaluation, counts)
        score = group_scores(evaluation, resampled, {GROUP: tuple(given)})[GROUP].ap50
        measured[way.title] = score.value or 0.0, mean_of_known(resampled[:, columns])
        print(f"{way.title:<24}{told(score)}   to plain names {told(change(measured, way.title, 'plain names'))}")
    for title in ("others", "all"):
        print(f"{title}, best to mean: {told(change(measured, f'{title}, best', f'{title}, mean'))}")


def change(measured: Mapping[str, tuple[float, FloatArray]], title: str, before: str) -> Estimate:
    """Difference of two ways on the same resamples."""
    (value, means), (old_value, old_means) = measured[title], measured[before]
    return estimate(value - old_value, means - old_means)


def all_ways(detector: Detector, names: Sequence[str], given: Mapping[str, list[str]]) -> Iterator[Way]:
    """Plain names first."""
    encoder = detector.vocabulary_encoder
    yield Way("plain names", detector, encoder.encode(names))
    yield Way("one", detector, encoder.encode(class_prompts({name: given.get(name, [name])[:1] for name in names})))
    for title, prompts in {
        "others": {name: given.get(name, [name]) for name in names},
        "all": {name: [name, *given.get(name, ())] for name in names},
    }.items():
        classes = class_prompts(prompts)
        yield Way(f"{title}, mean", detector, encoder.encode(classes))
        best = BestOf(detector.classifier, [len(prompts) for prompts in classes.values()])
        yield Way(
            f"{title}, best",
            detector.with_parts(classifier=best),
            encoder.encode([prompt for prompts in classes.values() for prompt in prompts]),
        )


@torch.inference_mode()
def detect(detector: Detector, dataset: CocoDataset, ways: Sequence[Way]) -> Iterator[list[list[dict[str, Any]]]]:
    """COCO results of each way, image by image: all of them look at the same maps."""
    config = replace(detector.config.postprocess, nms_iou=0.5, max_detections=MAX_DETECTIONS)
    for image, _, image_id in map(dataset.__getitem__, track(range(len(dataset)), console=Console(stderr=True))):
        batch = detector.preprocessor([image])
        c3, c4 = detector.encode(batch)
        memory, prepared = detector.encode_map(c3), detector.prepare_fast_pooling(c4)
        anchors = detector.anchors(memory)
        answers = []
        for way in ways:
            matched = detector.pre_match(prepared, anchors, way.vocabulary)
            boxes, objectness = detector.select_top_boxes(detector.decode(memory, matched))
            probabilities = way.detector.classify_best(c3, prepared, boxes, objectness, way.vocabulary, MIN_SCORE)
            scores = combine_scores(probabilities, objectness, config.objectness_power)
            ((corners, best, labels),) = suppress(boxes, scores, batch.original_sizes, config, score=MIN_SCORE)
            # Labels are places of logits: of classes, whatever the prompts are.
            answers.append(
                [
                    {
                        "image_id": image_id,
                        "category_id": int(label) + 1,
                        "bbox": [left, top, right - left, bottom - top],
                        "score": float(score),
                    }
                    for (left, top, right, bottom), score, label in zip(corners.tolist(), best, labels, strict=True)
                ]
            )
        yield answers


def told(share: Estimate) -> str:
    """In points, with its interval."""
    return " ".join(f"{100 * (value or 0):6.1f}" for value in (share.value, share.low, share.high))


if __name__ == "__main__":
    main()
