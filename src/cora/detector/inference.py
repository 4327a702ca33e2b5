"""From pictures to detections: reading ahead, batches, vocabulary and options around the detector's forward pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import torch
from PIL import Image

from cora.detector.exemplars import Exemplars, exemplar_vocabulary
from cora.detector.tiling import Tiles, predict_tiled
from cora.errors import VocabularyError
from cora.images import ImageSource, read_image
from cora.localizer import inference_localizer
from cora.regions import EVERYDAY_NAMES, Descriptions, Vocabulary
from cora.structures import Detections, ImageBatch
from cora.towers import ImageTower
from cora.towers.folding import Precision, inference_dtype

if TYPE_CHECKING:
    from cora.detector.cora import Detector

AnyDetector = TypeVar("AnyDetector", bound="Detector")


class VocabularyOptions(TypedDict, total=False):
    """How names become a vocabulary.

    Attributes:
        class_weights: factor by name on a class's score in anchor pre-matching (METHOD section 7).
        distractors: names of other things that may be in the pictures. They take their share of a region's class
            probability and are never reported, which keeps a short list of classes from claiming everything.
            None takes the model's choice, () none.
        descriptions: sentences on what some classes look like, {"dog": ["a golden retriever"]}; they share in the
            embeddings of those classes.
        exemplars: pictures of classes, {"my logo": ["logo.png"]}: of classes that have no name in the list, or that
            have one, too; see `cora.detector.exemplars`.
    """

    class_weights: Mapping[str, float] | None
    distractors: Sequence[str] | None
    descriptions: Descriptions | None
    exemplars: Exemplars | None


class PredictOptions(VocabularyOptions, total=False):
    """Everything that `Detector.predict` can be told besides pictures and names; see also `VocabularyOptions`.

    Attributes:
        score: only detections above it, 0..1; the model's own threshold if None.
        nms_iou: per-class suppression threshold; the model's if None.
        max_detections: boxes kept per image; the model's if None.
        tiles: look at overlapping parts of a picture, too, for small objects.
        batch_size: pictures in one pass, padded to the largest of them; 1 by default.
        score_all_boxes: the published way: every box through exact pooling, in the precision of the weights.
        precision: type that the image tower and the localizer's layers run in; the detector's own choice
            (`Detector.precision`) by default.
    """

    score: float | None
    nms_iou: float | None
    max_detections: int | None
    tiles: Tiles | None
    batch_size: int
    score_all_boxes: bool
    precision: Precision | None


@dataclass(frozen=True)
class _Settings:
    score: float
    nms_iou: float | None = None
    max_detections: int | None = None


def build_vocabulary(detector: Detector, classes: Sequence[str] | Vocabulary, options: VocabularyOptions) -> Vocabulary:
    """Encode names, with everything that goes beside them; a vocabulary that was encoded before is completed.

    Raises:
        VocabularyError: the names are unusable, or descriptions come with an encoded vocabulary.
    """
    descriptions, exemplars = options.get("descriptions"), options.get("exemplars")
    if isinstance(classes, Vocabulary) and descriptions is not None:
        raise VocabularyError(
            "descriptions: expected names of classes beside them, got an encoded vocabulary; "
            "give the descriptions where it is encoded"
        )
    if exemplars:
        vocabulary = exemplar_vocabulary(detector, classes, exemplars, descriptions)
    elif isinstance(classes, Vocabulary):
        vocabulary = classes
    else:
        vocabulary = detector.vocabulary_encoder.encode(classes, descriptions=descriptions)
    vocabulary = vocabulary.weighted(options.get("class_weights"))
    others = options.get("distractors")
    if others is None and vocabulary.distractors is None:
        others = _own_distractors(detector)
    if others is not None:
        # No distractors is a choice, too: an empty list of them stays with the vocabulary, None would ask again.
        vocabulary = replace(vocabulary, distractors=vocabulary.embeddings[:0])
        vocabulary = vocabulary.beside(detector.vocabulary_encoder, others)
    return vocabulary.to(detector.device)


def _own_distractors(detector: Detector) -> tuple[str, ...]:
    return EVERYDAY_NAMES if detector.config.postprocess.distractors == "everyday" else ()


def count_distractors(detector: Detector, classes: Sequence[str], asked: Sequence[str] | None = None) -> int:
    """How many names compete with the classes of a call and are never reported.

    Args:
        detector: the model, or an exported one.
        classes: names to look for; of them none competes with itself.
        asked: the distractors of the call; None for the model's own choice.
    """
    manifest = getattr(detector, "manifest", None)
    if manifest is not None and manifest.vocabulary == "fixed":
        return int(manifest.distractors)  # those of the graph, whatever is asked
    known = {name.strip().casefold() for name in classes}
    others = _own_distractors(detector) if asked is None else asked
    return sum(name.strip().casefold() not in known for name in others)


@torch.inference_mode()
def predict_pictures(
    detector: Detector, sources: Sequence[ImageSource], vocabulary: Vocabulary, options: PredictOptions
) -> list[Detections]:
    """Detections of every picture, in order; the next pictures are read and resized while the model runs."""
    batch_size = options.get("batch_size", 1)
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    settings = _Settings(
        score=score_of(detector, options.get("score")),
        nms_iou=options.get("nms_iou"),
        max_detections=options.get("max_detections"),
    )
    runner = _runner(detector, options)
    tiles = options.get("tiles")
    if tiles is not None:
        return predict_in_tiles(
            lambda parts: _predict(runner, parts, vocabulary, settings, batch_size),
            sources,
            tiles=tiles,
            max_detections=settings.max_detections or detector.config.postprocess.max_detections,
        )
    return _predict(runner, sources, vocabulary, settings, batch_size)


def score_of(detector: Detector, asked: float | None) -> float:
    """Score above which detections are reported: as asked, or the model's own threshold."""
    return detector.config.postprocess.score_threshold if asked is None else asked


def _runner(detector: Detector, options: PredictOptions) -> Detector:
    if options.get("score_all_boxes", False):
        return scoring_all_boxes(detector)
    return at_precision(detector, options.get("precision") or detector.precision)


def scoring_all_boxes(detector: AnyDetector) -> AnyDetector:
    """A view that works as published: every box by exact pooling, the tower as it is, nothing folded."""
    view = copy.copy(detector)
    every = replace(detector.config.postprocess, max_scored_boxes=0, exact_boxes=0)
    view.config = replace(detector.config, postprocess=every)
    return view


def _predict(
    detector: Detector,
    sources: Sequence[ImageSource],
    vocabulary: Vocabulary,
    settings: _Settings,
    batch_size: int,
) -> list[Detections]:
    found: list[Detections] = []
    for names, pictures, batch in _batches(detector, sources, batch_size):
        batch = batch.to(detector.device)
        kept = detector.postprocess(
            detector(batch, vocabulary, least_score=settings.score),
            batch.original_sizes,
            score=settings.score,
            nms_iou=settings.nms_iou,
            max_detections=settings.max_detections,
        )
        found += [
            Detections(
                boxes_xyxy_px=boxes.cpu(),
                scores=scores.cpu(),
                labels=labels.cpu(),
                class_names=vocabulary.names,
                image_size=size,
                image=picture,
                path=_path_of(source),
            )
            for source, picture, size, (boxes, scores, labels) in zip(
                names, pictures, batch.original_sizes, kept, strict=True
            )
        ]
    return found


def predict_in_tiles(
    predict: Callable[[list[Image.Image]], list[Detections]],
    sources: Sequence[ImageSource],
    *,
    tiles: Tiles,
    max_detections: int,
) -> list[Detections]:
    """`predict_tiled` for every source; `predict` answers for the parts of one picture."""
    found = (predict_tiled(predict, read_image(one), tiles=tiles, max_detections=max_detections) for one in sources)
    return [replace(one, path=_path_of(source)) for one, source in zip(found, sources, strict=True)]


def _path_of(source: ImageSource) -> str | None:
    return str(source) if isinstance(source, str | Path) else None


_Batch = tuple[Sequence[ImageSource], list[Image.Image], ImageBatch]


def _batches(detector: Detector, sources: Sequence[ImageSource], batch_size: int) -> Iterator[_Batch]:
    """Batches in order, the next one made in a thread beside the model: decoding and resizing release Python's lock."""

    def make(start: int) -> _Batch:
        names = sources[start : start + batch_size]
        pictures = [read_image(source) for source in names]
        return names, pictures, detector.preprocessor(pictures)

    starts = range(0, len(sources), batch_size)
    if len(starts) < 2:
        yield from map(make, starts)
        return
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead: Future[_Batch] = reader.submit(make, 0)
        for start in starts[1:]:
            batch, ahead = ahead.result(), reader.submit(make, start)
            yield batch
        yield ahead.result()


def at_precision(detector: AnyDetector, precision: Precision) -> AnyDetector:
    """A view of the detector whose image tower and localizer are copies for inference; all other parts are shared.

    A copy is made again when weights of its original were trained, loaded or moved; in float32 the localizer is itself.
    """
    dtype = inference_dtype(precision, detector.device)
    view = copy.copy(detector)
    # Modules keep their parts in a dictionary, which a shallow copy shares.
    view._modules = dict(detector._modules)
    view.image_tower = _kept(detector, "image_tower", dtype, _tower_for_inference)
    view.localizer = _kept(detector, "localizer", dtype, inference_localizer)
    view.inference_parts = {}  # a copy of the view's copies is the view's own affair
    return view


def _kept(detector: Detector, name: str, dtype: torch.dtype, make: Callable[[Any, torch.dtype], Any]) -> Any:
    part = getattr(detector, name)
    state = (dtype, *((value.data_ptr(), value.device, _version(value)) for value in part.state_dict().values()))
    if name not in detector.inference_parts or detector.inference_parts[name][0] != state:
        with torch.inference_mode(False):
            detector.inference_parts[name] = (state, make(part, dtype))
    return detector.inference_parts[name][1]


def _tower_for_inference(tower: ImageTower, dtype: torch.dtype) -> ImageTower:
    return tower.for_inference(dtype)


def _version(value: torch.Tensor) -> int:
    return 0 if value.is_inference() else value._version
