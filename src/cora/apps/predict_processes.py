"""Predictions of a set of photos by one process or by several, with the same numbers whatever their count."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

import torch

from cora.apps.open_model import open_detector
from cora.apps.scoring_options import Scoring
from cora.apps.text_options import TextOptions
from cora.apps.tile_options import set_short_side
from cora.data.coco import CocoDataset
from cora.evaluation.oracles import AS_IT_IS, predict_oracles
from cora.evaluation.predict import Predictions, Progress, predict_dataset
from cora.predictor import Predictor as Model
from cora.predictor import Tiles

#: (indices, title) -> the indices, shown as they are done.
Track = Callable[[Sequence[Any], str], Iterable[Any]]

#: Parts of the work for each process: enough for a balance, few enough to cost nothing.
_PARTS = 8


@dataclass(frozen=True, kw_only=True)
class Request:
    """One pass over the photos.

    classes: names to search for, one for each class of the dataset; class_weights: by these names; oracles: whether
    to answer with all oracles instead of the detector's own results alone.
    """

    classes: tuple[str, ...]
    class_weights: Mapping[str, float] | None = None
    oracles: bool = False


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A model and the photos it is measured on.

    model: its name or path, which further processes load; detector: the same, loaded; score: lowest kept;
    max_detections: kept in a photo; batch_size: photos in one pass; tiles: parts of a photo that are looked at, too;
    short_side: that photos are resized to, None for the model's; scoring: of boxes; processes: how many compute.
    """

    model: str
    detector: Model
    text: TextOptions
    dataset: CocoDataset
    indices: Sequence[int]
    score: float
    max_detections: int
    batch_size: int = 1
    tiles: Tiles | None = None
    short_side: int | None = None
    scoring: Scoring = field(default_factory=Scoring)
    processes: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "detector", self.scoring.applied(self.detector))

    def predict(self, request: Request, title: str, track: Track) -> dict[str, Predictions]:
        """Name -> results; without oracles the only name is `AS_IT_IS`."""
        if self.processes == 1 or len(self.indices) == 1:
            return self._here(request, self.indices, lambda indices: track(indices, title))
        # Whole batches in every part: which photos share a pass does not depend on the number of processes.
        batches = -(-len(self.indices) // self.batch_size)
        step = self.batch_size * max(1, batches // (self.processes * _PARTS))
        parts = [self.indices[start : start + step] for start in range(0, len(self.indices), step)]
        context = multiprocessing.get_context("spawn")
        threads = max(1, torch.get_num_threads() // self.processes)
        # Pickled here, since the pool would pass each of the thousands of tensors through a file of its own.
        device = str(self.detector.device)
        work = pickle.dumps(
            (self.model, self.text, self.short_side, self.scoring, self.dataset, self._options(), device)
        )
        started = context.Value("i", 0)
        with ProcessPoolExecutor(
            self.processes, mp_context=context, initializer=_start, initargs=(work, threads, started)
        ) as pool:
            futures = {pool.submit(_predict, request, part): place for place, part in enumerate(parts)}
            try:
                answers = _gather(futures, title, track)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return {name: _joined([answer[name] for answer in answers]) for name in answers[0]}

    def _options(self) -> dict[str, Any]:
        return {
            "score": self.score,
            "max_detections": self.max_detections,
            "batch_size": self.batch_size,
            "tiles": self.tiles,
        }

    def _here(self, request: Request, indices: Sequence[int], progress: Progress) -> dict[str, Predictions]:
        return _run(self.detector, self.dataset, request, indices, self._options(), progress)


def _run(
    detector: Model,
    dataset: CocoDataset,
    request: Request,
    indices: Sequence[int],
    options: Mapping[str, Any],
    progress: Progress,
) -> dict[str, Predictions]:
    if request.oracles:
        chosen = {name: options[name] for name in ("score", "max_detections")}
        return predict_oracles(detector, dataset, request.classes, indices=indices, progress=progress, **chosen)
    found = predict_dataset(
        detector,
        dataset,
        request.classes,
        indices=indices,
        class_weights=request.class_weights,
        progress=progress,
        **options,
    )
    return {AS_IT_IS: found}


def _gather(
    futures: Mapping[Future[dict[str, Predictions]], int], title: str, track: Track
) -> list[dict[str, Predictions]]:
    done = as_completed(futures)
    answers: dict[int, dict[str, Predictions]] = {}
    for _ in track(range(len(futures)), title):
        future = next(done)
        answers[futures[future]] = future.result()
    return [answers[place] for place in range(len(futures))]


def _joined(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(
        results=[result for part in parts for result in part.results],
        images=sum(part.images for part in parts),
        seconds=sum(part.seconds for part in parts),
    )


#: What `_start` loaded, in a worker process: detector, dataset, options.
_loaded: list[Any] = []


def _start(work: bytes, threads: int, started: Any) -> None:
    torch.set_num_threads(threads)
    model, text, short_side, scoring, dataset, options, device = pickle.loads(work)
    if device.startswith("cuda") and torch.cuda.device_count() > 1:
        with started.get_lock():
            device = f"cuda:{started.value % torch.cuda.device_count()}"
            started.value += 1
    detector = open_detector(model, device)
    set_short_side(detector, short_side)
    detector = scoring.applied(detector)
    text.apply(detector.vocabulary_encoder)
    _loaded[:] = [detector, dataset, options]


def _predict(request: Request, indices: Sequence[int]) -> dict[str, Predictions]:
    detector, dataset, options = _loaded
    return _run(detector, dataset, request, indices, options, iter)
