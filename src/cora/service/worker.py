"""One thread owns the model; what many clients ask for at the same time goes through it in batches."""

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
    """What is looked for; images with equal queries may share a batch.

    Attributes:
        classes: the names, with prompts (`cora.regions.written_classes`) or without; None for the model's own, or the
            built-in vocabulary.
        score: only detections above it. Part of the query, since a detector spends more on what can reach it.
        distractors: names that compete with them; None for the model's own.
        nms_iou: per-class suppression threshold; None for the model's own.
        max_detections: boxes kept of an image; None for the model's own.
        class_agnostic: suppress between classes, too; None with the built-in vocabulary only.
    """

    classes: tuple[str, ...] | None
    score: float = SCORE_THRESHOLD
    distractors: tuple[str, ...] | None = None
    nms_iou: float | None = None
    max_detections: int | None = None
    class_agnostic: bool | None = None


@dataclass(eq=False)
class Job:
    """Work for the model: an image with a query, or a call that runs alone.

    Attributes:
        future: gets the result, or the exception.
        started: whether the model has begun with it.
        arrived: when it came, in seconds of the monotonic clock.
    """

    future: Future[Any] = field(default_factory=Future)
    started: bool = False
    arrived: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class DetectJob(Job):
    """Find `query` in `image`: gives `Detections` in pixels of the image as it was sent."""

    picture: Picture = field(kw_only=True)
    query: Query = field(kw_only=True)


@dataclass(eq=False)
class CallJob(Job):
    """Call a function of the detector, with nothing else running on it."""

    function: Callable[[Any], Any] = field(kw_only=True)


class ModelWorker:
    """Runs jobs, oldest first, in a thread of its own.

    An image takes along those with the same query and padded size that arrive within `gather_s` of it, up to
    `max_batch`. While the model is busy jobs pile up by themselves, so under load nobody waits for company.

    Args:
        detector: the model.
        max_batch: images in one pass.
        gather_s: seconds.
        on_batch: told the number of images and the seconds of every pass, in the worker's thread.
        class_weights: factors on classes in pre-matching, of those that a query names.
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
        # A daemon, since a second Ctrl-C must end the program in the middle of a pass.
        self._thread = threading.Thread(target=self._run, name="cora-model", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether jobs are taken."""
        return self._thread.is_alive() and not self._closing

    @property
    def waiting(self) -> int:
        """Jobs that have not started."""
        return len(self._jobs)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs; their futures tell how they ended.

        Raises:
            RefusedError: 503, the worker is closing.
        """
        with self._changed:
            if not self.alive:
                raise RefusedError(503, "expected a running service, got one that is stopping; try again later")
            self._jobs.extend(jobs)
            self._changed.notify()

    def withdraw(self, jobs: Sequence[Job]) -> None:
        """Take back those of the jobs that have not started: nobody waits for them any more."""
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
            # Until the next jobs nobody refers to these, or their images and results would outlive their answers.
            jobs.clear()

    def _next(self) -> list[Job]:
        """The next jobs to run together; none when there will be no more."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._closing)
                if not self._jobs:
                    return []
                jobs = self._gathered()
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
        # All of them cancelled: an empty list would mean the end.
        return [job for job in jobs if job.started] or self._next()

    def _gathered(self) -> list[Job]:
        first = self._jobs[0]
        if not isinstance(first, DetectJob):
            return [first]
        kind = self._kind(first)
        alike = [job for job in self._jobs if isinstance(job, DetectJob) and self._kind(job) == kind]
        return list(alike[: self.max_batch])

    def _kind(self, job: DetectJob) -> tuple[Query, tuple[int, int]]:
        """Equal for jobs that share a pass: one query, one size of the batch."""
        image = job.picture.image
        return job.query, self._detector.preprocessor.padded_size(image.height, image.width)

    def _work(self, jobs: Sequence[Job]) -> None:
        try:
            results = self._results(jobs)
        except Exception as error:
            if len(jobs) > 1:
                # One of them may be at fault (or all together too large); the others get their answer.
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
            self._vocabularies.count(1)  # a search by text encodes it
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
        if len(jobs) == 1:  # somebody who tries names on an image; under load, passes of several images count
            found = [self._detector.predict(self._images.get(jobs[0].picture.image), vocabulary, **options)]
        else:
            found = self._detector.predict([job.picture.image for job in jobs], vocabulary, **options)
        self._on_batch(len(jobs), time.perf_counter() - start)
        return [_enlarged(detections, job.picture.size_hw) for detections, job in zip(found, jobs, strict=True)]


def _enlarged(detections: Detections, size_hw: tuple[int, int]) -> Detections:
    """The same with boxes in pixels of the image as it was sent, without the image."""
    (height, width), (new_height, new_width) = detections.image_size, size_hw
    factors = detections.boxes_xyxy_px.new_tensor([new_width / width, new_height / height] * 2)
    return replace(detections, boxes_xyxy_px=detections.boxes_xyxy_px * factors, image_size=size_hw, image=None)
