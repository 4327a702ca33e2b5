"""The thread that owns the model: it runs the jobs of all clients, in batches where they can share one."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from cora.detector import Detector
from cora.detector.postprocess import SCORE_THRESHOLD
from cora.errors import CoraError
from cora.predictor import PredictOptions, Predictor
from cora.service.encoded_images import EncodedImages
from cora.service.pictures import Picture
from cora.service.refusal import RefusedError
from cora.service.vocabularies import VocabularyCache
from cora.structures import Detections

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Query:
    """Class names and options of a detection; images with equal queries can share a batch.

    Attributes:
        classes: names to look for, with prompts (`cora.regions.written_classes`) or without; None for the model's own,
            or the built-in vocabulary.
        score: only detections above it are reported. Part of the query, since a detector spends less on regions that
            cannot reach it.
        distractors: names that compete with the classes; None for the model's own choice.
        nms_iou: per-class suppression threshold; None for the model's own.
        max_detections: boxes kept per image; None for the model's own limit.
        class_agnostic: suppress boxes of different classes, too; None for the built-in vocabulary only.
    """

    classes: tuple[str, ...] | None
    score: float = SCORE_THRESHOLD
    distractors: tuple[str, ...] | None = None
    nms_iou: float | None = None
    max_detections: int | None = None
    class_agnostic: bool | None = None


@dataclass(eq=False)
class Job:
    """Work for the model: a `DetectJob` or a `CallJob`.

    Attributes:
        future: gets the result or the exception.
        started: whether the worker has begun with it.
        arrived: time of its arrival, in seconds of the monotonic clock.
    """

    future: Future[Any] = field(default_factory=Future)
    started: bool = False
    arrived: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class DetectJob(Job):
    """Detects the classes of `query` in `picture`; gives `Detections` in pixels of the image before it was shrunk."""

    picture: Picture = field(kw_only=True)
    query: Query = field(kw_only=True)


@dataclass(eq=False)
class CallJob(Job):
    """Calls a function with the detector, while nothing else runs on it; gives what the function returns."""

    function: Callable[[Any], Any] = field(kw_only=True)


class ModelWorker:
    """Runs jobs, oldest first, in a thread of its own.

    A batch holds the oldest image and those with the same query and padded size, up to `max_batch`. An image waits for
    others until `gather_s` after its arrival. Under load, jobs pile up while the model is busy, so none has to wait.

    Args:
        detector: the model.
        max_batch: largest number of images in one pass of the model.
        gather_s: seconds.
        on_batch: called with the number of images and the seconds of every pass, in the worker's thread.
        class_weights: class name -> factor on its score in pre-matching, for the classes that a query names.
    """

    def __init__(
        self,
        *,
        detector: Predictor | Detector,
        max_batch: int = 8,
        gather_s: float = 0.004,
        on_batch: Callable[[int, float], None] = lambda pictures, seconds: None,
        class_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.max_batch = max_batch
        self.gather_s = gather_s
        self._detector = Predictor.of(detector)
        self._vocabularies = VocabularyCache(detector=self._detector, class_weights=class_weights)
        self._images = EncodedImages(detector=self._detector)
        self._on_batch = on_batch
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        # A daemon, so that a second Ctrl-C ends the program in the middle of a pass.
        self._thread = threading.Thread(target=self._run, name="cora-model", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the worker accepts jobs."""
        return self._thread.is_alive() and not self._closing

    @property
    def waiting(self) -> int:
        """Number of jobs that have not started."""
        return len(self._jobs)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs; their futures get the results.

        Raises:
            RefusedError: 503, the worker is closing.
        """
        with self._changed:
            if not self.alive:
                raise RefusedError(503, "expected a running service, got one that is stopping; try again later")
            self._jobs.extend(jobs)
            self._changed.notify()

    def withdraw(self, jobs: Sequence[Job]) -> None:
        """Cancel those of the jobs that have not started."""
        unwanted = set(jobs)
        with self._changed:
            kept = [job for job in self._jobs if job not in unwanted]
            self._jobs.clear()
            self._jobs.extend(kept)
        for job in jobs:
            job.future.cancel()

    def close(self) -> None:
        """Finish all jobs, then end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            self._work(jobs)
            # Or the list would keep images and results in memory until the next jobs come.
            jobs.clear()

    def _next(self) -> list[Job]:
        """The next jobs to run together; an empty list ends the worker."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs:
                    return []
                jobs = self._first_batch()
                left = jobs[0].arrived + self.gather_s - time.monotonic()
                if self._closing or left <= 0 or len(jobs) >= self.max_batch or isinstance(jobs[0], CallJob):
                    break
                self._changed.wait(left)
            taken = set(jobs)
            rest = [job for job in self._jobs if job not in taken]
            self._jobs.clear()
            self._jobs.extend(rest)
        for job in jobs:
            job.started = job.future.set_running_or_notify_cancel()
        # Where all of them were cancelled, an empty list would end the worker.
        return [job for job in jobs if job.started] or self._next()

    def _first_batch(self) -> list[Job]:
        """The oldest job, and those that can share its batch."""
        first = self._jobs[0]
        if not isinstance(first, DetectJob):
            return [first]
        key = self._batch_key(first)
        alike = [job for job in self._jobs if isinstance(job, DetectJob) and self._batch_key(job) == key]
        return list(alike[: self.max_batch])

    def _batch_key(self, job: DetectJob) -> tuple[Query, tuple[int, int]]:
        """Query and padded size, which are equal for jobs that can share a batch."""
        image = job.picture.image
        return job.query, self._detector.preprocessor.padded_size(image.height, image.width)

    def _work(self, jobs: Sequence[Job]) -> None:
        try:
            results = self._results(jobs)
        except Exception as error:
            if len(jobs) > 1:
                # One by one: a single job may be at fault, or all of them together too large.
                for job in jobs:
                    self._work([job])
                return
            if not isinstance(error, CoraError):
                _LOG.exception("a job failed")
            jobs[0].future.set_exception(error)
        else:
            for job, result in zip(jobs, results, strict=True):
                job.future.set_result(result)

    def _results(self, jobs: Sequence[Job]) -> list[Any]:
        if isinstance(jobs[0], CallJob):
            self._vocabularies.count(1)  # a search by text encodes one name
            return [jobs[0].function(self._detector)]
        return list(self._detect([job for job in jobs if isinstance(job, DetectJob)]))

    def _detect(self, jobs: Sequence[DetectJob]) -> list[Detections]:
        start = time.perf_counter()
        query = jobs[0].query
        vocabulary = self._vocabularies.get(query.classes, query.distractors)
        options: PredictOptions = {
            "score": query.score,
            "nms_iou": query.nms_iou,
            "max_detections": query.max_detections,
            "class_agnostic": query.class_agnostic,
            "batch_size": len(jobs),
        }
        if len(jobs) == 1:  # perhaps somebody who tries several names on one image
            found = [self._detector.predict(self._images.get(jobs[0].picture.image), vocabulary, **options)]
        else:
            found = self._detector.predict([job.picture.image for job in jobs], vocabulary, **options)
        self._on_batch(len(jobs), time.perf_counter() - start)
        return [_scaled_back(detections, job.picture.size_hw) for detections, job in zip(found, jobs, strict=True)]


def _scaled_back(detections: Detections, size_hw: tuple[int, int]) -> Detections:
    """The same detections with boxes in pixels of the image before it was shrunk, without the image itself."""
    (height, width), (new_height, new_width) = detections.image_size, size_hw
    factors = detections.boxes_xyxy_px.new_tensor([new_width / width, new_height / height] * 2)
    return replace(detections, boxes_xyxy_px=detections.boxes_xyxy_px * factors, image_size=size_hw, image=None)
