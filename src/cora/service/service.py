"""Answers requests that have been read and checked; knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from PIL import Image

from cora.detector import Detector
from cora.errors import ImageError
from cora.images import read_image
from cora.predictor import Predictor, count_distractors
from cora.retrieval import Hit, RegionIndex
from cora.service.admission import Admission
from cora.service.limits import Limits
from cora.service.metrics import Metrics
from cora.service.pictures import open_picture, shrink
from cora.service.refusal import RefusedError
from cora.service.schemas import SearchOptions
from cora.service.worker import CallJob, DetectJob, Job, ModelWorker, Query
from cora.structures import Detections

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

#: Threads that decode images. Few, since each holds an image of full size, and more would take cores from the model.
_DECODERS = 2
_THUMBNAIL_PX = 160


async def before(deadline: float, awaitable: Awaitable[_T], refuse: Callable[[], RefusedError]) -> _T:
    """Await something until a deadline in the event loop's time.

    Raises:
        RefusedError: it was not done in time; the error is made by `refuse`.
    """
    try:
        async with asyncio.timeout_at(deadline):
            return await awaitable
    except TimeoutError:
        raise refuse() from None


class Service:
    """Detects and searches for the clients of the HTTP application.

    Args:
        detector: the model, on its device; nothing else may use it while the service runs.
        limits: limits of requests.
        max_batch: largest number of images in one pass of the model.
        gather_s: seconds for which an image waits for others that can share its batch.
        index: the index for `search`, if there is one.
        class_weights: class name -> factor on its score in pre-matching, for the classes that a request names.
    """

    def __init__(
        self,
        *,
        detector: Predictor | Detector,
        limits: Limits,
        max_batch: int = 8,
        gather_s: float = 0.004,
        index: RegionIndex | None = None,
        class_weights: Mapping[str, float] | None = None,
    ) -> None:
        detector = Predictor.of(detector)
        self.limits = limits
        self.index = index
        self.admission = Admission(capacity=limits.max_waiting)
        self.metrics = Metrics(waiting=lambda: self.admission.taken)
        self.worker = ModelWorker(
            detector=detector,
            max_batch=max_batch,
            gather_s=gather_s,
            on_batch=self._count_batch,
            class_weights=class_weights,
        )
        self._detector = detector  # for its settings only; the worker computes with it
        self._resize = detector.preprocessor.resize
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="cora-decode")

    @property
    def usual_names(self) -> tuple[str, ...]:
        """Class names for requests that give none: the model's own, or the built-in vocabulary."""
        return self._detector.usual_names

    def is_built_in(self, classes: Sequence[str] | None) -> bool:
        """Whether a request with these classes uses the built-in vocabulary."""
        return classes is None and not self._detector.own_names

    def score(self, asked: float | None, classes: Sequence[str] | None) -> float:
        """The score threshold of a request: the one that it asks for, or the model's own for the classes."""
        return self._detector.score_of(asked, built_in=self.is_built_in(classes))

    def distractors(self, classes: Sequence[str], asked: Sequence[str] | None) -> int:
        """Number of distractors beside the classes and their prompts; `asked` is None for the model's own choice."""
        return count_distractors(self._detector, classes, asked)

    def start(self) -> None:
        """Start the model's thread."""
        self.worker.start()

    def close(self) -> None:
        """Finish the accepted work, then end all threads."""
        self.worker.close()
        self._decoders.shutdown()

    def deadline(self) -> float:
        """Time of the event loop by which a request that comes now must be answered."""
        return asyncio.get_running_loop().time() + self.limits.timeout_s

    async def detect(self, images: Sequence[bytes], query: Query, deadline: float) -> list[Detections]:
        """Detect objects in image files.

        Returns:
            The detections of each image, with boxes in pixels of the upright image as it was sent.

        Raises:
            ImageError: a file is not an image; the message says which.
            VocabularyError: the names are unusable.
            RefusedError: 413, an image has too many pixels; 503, the service is stopping or too busy; 504, the model
                is too slow.
        """
        pictures = await self._decode(images, lambda picture: shrink(picture, self._resize), deadline)
        return await self._run([DetectJob(picture=picture, query=query) for picture in pictures], deadline)

    async def search(
        self, index: RegionIndex, asked: SearchOptions, image_file: bytes | None, deadline: float
    ) -> list[Hit]:
        """Regions of the index that look like a text, an image or a box in an image, best first.

        Raises:
            VocabularyError: the text is unusable.
            ImageError: the file is not an image, or the box does not lie in it.
            RefusedError: as in `detect`.
        """
        image = None
        if image_file is not None:
            (image,) = await self._decode([image_file], lambda picture: picture, deadline)

        def call(detector: Predictor) -> list[Hit]:
            if image is None:
                return index.search_text(detector, asked.text or "", top=asked.top, per_picture=asked.per_picture)
            return index.search_image(detector, image, box=asked.box, top=asked.top, per_picture=asked.per_picture)

        (hits,) = await self._run([CallJob(function=call)], deadline)
        return list(hits)

    async def thumbnails(self, index: RegionIndex, hits: Sequence[Hit], deadline: float) -> list[str | None]:
        """Small images of regions as data URLs; None where the file can no longer be read.

        Raises:
            RefusedError: 503, decoding took too long.
        """
        calls = [partial(_thumbnail, index.folder, hit, self.limits.max_pixels) for hit in hits]
        return await before(deadline, self._in_threads(calls), self._busy)

    async def _decode(self, images: Sequence[bytes], then: Callable[[Image.Image], _T], deadline: float) -> list[_T]:
        def decode(place: int, data: bytes) -> _T:
            try:
                return then(open_picture(data, max_pixels=self.limits.max_pixels))
            except ImageError as error:
                raise ImageError(f"image {place}: {error}") from None
            except RefusedError as error:
                raise RefusedError(error.status, f"image {place}: {error}") from None

        calls = [partial(decode, place, data) for place, data in enumerate(images, start=1)]
        return await before(deadline, self._in_threads(calls), self._busy)

    async def _in_threads(self, calls: Sequence[Callable[[], _T]]) -> list[_T]:
        loop = asyncio.get_running_loop()
        results = [loop.run_in_executor(self._decoders, call) for call in calls]
        try:
            return await asyncio.gather(*results)
        finally:
            # Where one failed, `gather` leaves the others in the queue, though their request has given back its place.
            for result in results:
                result.cancel()

    async def _run(self, jobs: Sequence[Job], deadline: float) -> list[Any]:
        self.worker.submit(jobs)
        results = asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))
        try:
            return await before(deadline, results, lambda: self._too_slow(jobs))
        finally:
            # Where one failed, or the client has gone or waited too long, nobody wants the others.
            self.worker.withdraw(jobs)

    def _too_slow(self, jobs: Sequence[Job]) -> RefusedError:
        if not any(job.started for job in jobs):
            return self._busy()
        return RefusedError(
            504, f"expected the model to answer within {self.limits.timeout_s:g} s, got none; send less at once"
        )

    def _busy(self) -> RefusedError:
        return RefusedError(
            503,
            f"expected the model to be free within {self.limits.timeout_s:g} s, got a longer queue; try again later",
            retry_after_s=self.admission.retry_after_s,
        )

    def _count_batch(self, pictures: int, seconds: float) -> None:
        self.admission.note(pictures, seconds)
        self.metrics.batch(pictures, seconds)


def _thumbnail(folder: Path, hit: Hit, max_pixels: int) -> str | None:
    from cora.retrieval.sheet import framed

    file = PurePosixPath(hit.file)
    if file.is_absolute() or ".." in file.parts:
        _LOG.warning("no thumbnail: expected a file below the indexed folder, got %s; index the folder again", file)
        return None
    try:
        cell = framed(read_image(folder / file, max_pixels=max_pixels), hit.box_xyxy_px, _THUMBNAIL_PX)
    except ImageError as error:
        _LOG.warning("no thumbnail: %s", error)
        return None
    cell.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))  # `framed` gives a whole image where the region lies outside it
    buffer = io.BytesIO()
    cell.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
