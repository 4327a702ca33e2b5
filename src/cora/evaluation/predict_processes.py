"""Detects classes in a dataset with one process or several; the results do not depend on their number.

The processes are a pool on this machine, or those that torchrun or Slurm has started, perhaps on several machines.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from cora.data.coco import CocoDataset
from cora.errors import CoraError
from cora.evaluation.oracles import AS_IT_IS, predict_oracles
from cora.evaluation.predict import Predictions, Progress, predict_dataset
from cora.predictor import Predictor, Tiles
from cora.regions import ClassPrompts
from cora.workers import StoppedError, ctrl_c_waits, obey_parent

#: (indices, title) -> the indices, with their progress shown under the title.
Track = Callable[[Sequence[Any], str], Iterable[Any]]

#: Parts of the work per process: enough to balance the load, and few enough to cost no time.
_PARTS = 8


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to detect in one pass over the images.

    Attributes:
        classes: names to look for, one for each class of the dataset, maybe with prompts.
        class_weights: class name -> weight in pre-matching.
        oracles: whether to give the results of all oracles, or those of the detector alone.
    """

    classes: tuple[str, ...] | ClassPrompts
    class_weights: Mapping[str, float] | None = None
    oracles: bool = False


class Engine(Protocol):
    """The communication between processes that torchrun or Slurm has started, as in `cora.training.engine`."""

    rank: int
    world: int
    device: torch.device

    def collect(self, value: Any) -> list[Any]:
        """The values of all processes in order of rank, in the first process; an empty list in the others."""

    def broadcast(self, value: Any) -> Any:
        """The value of the first process."""


class Helpers:
    """The processes that torchrun or Slurm has started: the first sends requests, and each detects in a share.

    Args:
        engine: communication of this process.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self.world = engine, engine.world
        self._sent = False

    def share(self, parts: Sequence[Any]) -> Sequence[Any]:
        """The parts of this process."""
        return parts[self._engine.rank :: self.world]

    def predict(
        self,
        work: Callable[[], bytes],
        request: Request,
        parts: Sequence[Sequence[int]],
        mine: Iterable[dict[str, Predictions]],
    ) -> list[dict[str, Predictions]]:
        """In the first process: the predictions of all processes, one for each part.

        Args:
            work: gives the pickled model and dataset, which are sent once.
            request: what to detect.
            parts: the images in parts; each process takes its `share`.
            mine: predictions of this process's share.
        """
        self._engine.broadcast((None if self._sent else work(), request, parts))
        self._sent = True
        found = self._engine.collect(list(mine))
        return [found[place % self.world][place // self.world] for place in range(len(parts))]

    def help(self) -> None:
        """In the other processes: serve the requests of the first until it has no more."""
        while (message := self._engine.broadcast(None)) is not None:
            work, request, parts = message
            if work is not None:
                _loaded[:] = _unpacked(work, str(self._engine.device))
            self._engine.collect([_predict(request, part) for part in self.share(parts)])

    def done(self) -> None:
        """In the first process: end `help` in the others."""
        self._engine.broadcast(None)


@dataclass(frozen=True, kw_only=True)
class DatasetPredictor:
    """A model and the images that it is measured on.

    Attributes:
        detector: the model.
        open_model: opens the same model on a device, in other processes; it has to be picklable.
        dataset: annotated images.
        indices: indices of the images.
        score: the lowest score to keep.
        max_detections: greatest number of detections of an image.
        batch_size: greatest number of images in one pass.
        class_agnostic: whether boxes of different classes suppress each other, too.
        tiles: parts of each image on which the detector runs, too.
        processes: number of processes of a pool on this machine.
        helpers: processes that torchrun or Slurm has started, to use instead of a pool.
    """

    detector: Predictor
    open_model: Callable[[str], Predictor]
    dataset: CocoDataset
    indices: Sequence[int]
    score: float
    max_detections: int
    batch_size: int = 1
    class_agnostic: bool = False
    tiles: Tiles | None = None
    processes: int = 1
    helpers: Helpers | None = None

    def predict(self, request: Request, title: str, track: Track) -> dict[str, Predictions]:
        """Oracle -> results in the order of the images; without oracles, `AS_IT_IS` alone."""
        helpers = self.helpers if self.helpers is not None and self.helpers.world > 1 else None
        processes = self.processes if helpers is None else helpers.world
        if processes == 1 or len(self.indices) == 1:
            return self._here(request, self.indices, lambda indices: track(indices, title))
        parts = self._parts(processes)
        if helpers is not None:
            mine = (self._here(request, part, iter) for part in track(helpers.share(parts), title))
            answers = helpers.predict(self._work, request, parts, mine)
        else:
            answers = self._in_pool(request, parts, title, track)
        return {name: self._joined([answer[name] for answer in answers]) for name in answers[0]}

    def _parts(self, processes: int) -> list[list[int]]:
        """The indices in parts of whole batches, so that the images of a batch do not depend on the processes."""
        batches: list[list[int]] = []
        incomplete: dict[tuple[int, int], list[int]] = {}
        for index in self.indices:
            size = self.detector.preprocessor.resized_size(*self.dataset.records[index].size)
            batch = incomplete.setdefault(size, [])
            batch.append(index)
            if len(batch) == self.batch_size:
                batches.append(incomplete.pop(size))
        batches += incomplete.values()
        step = max(1, len(batches) // (processes * _PARTS))
        shares = [batches[start : start + step] for start in range(0, len(batches), step)]
        return [[index for batch in share for index in batch] for share in shares]

    def _in_pool(
        self, request: Request, parts: Sequence[Sequence[int]], title: str, track: Track
    ) -> list[dict[str, Predictions]]:
        context = multiprocessing.get_context("spawn")
        threads = max(1, torch.get_num_threads() // self.processes)
        shared = (context.Value("i", 0), context.Event())
        device = str(self.detector.device)
        with ProcessPoolExecutor(
            self.processes,
            mp_context=context,
            initializer=_start,
            initargs=(self._work(), threads, device, *shared),
        ) as pool:
            with ctrl_c_waits():
                futures = {pool.submit(_predict, request, part): place for place, part in enumerate(parts)}
            try:
                return _gather(futures, title, track)
            except BrokenProcessPool:
                raise CoraError(
                    f"expected {self.processes} processes to the end, but one ended before; if memory was short, "
                    f"start fewer"
                ) from None
            except BaseException:
                shared[-1].set()
                # Wait, since a worker that is still importing needs the shared objects.
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _work(self) -> bytes:
        """Model, dataset and options, pickled here since a pool would pass each of thousands of tensors as a file."""
        return pickle.dumps((self.open_model, self.dataset, self._options()))

    def _joined(self, parts: Sequence[Predictions]) -> Predictions:
        place = {self.dataset.records[index].image_id: place for place, index in enumerate(self.indices)}
        results = [result for part in parts for result in part.results]
        return Predictions(
            results=sorted(results, key=lambda result: place[result["image_id"]]),
            images=sum(part.images for part in parts),
            seconds=sum(part.seconds for part in parts),
        )

    def _options(self) -> dict[str, Any]:
        return {
            "score": self.score,
            "max_detections": self.max_detections,
            "batch_size": self.batch_size,
            "tiles": self.tiles,
            "class_agnostic": self.class_agnostic,
        }

    def _here(self, request: Request, indices: Sequence[int], progress: Progress) -> dict[str, Predictions]:
        return _run(self.detector, self.dataset, request, indices, self._options(), progress)


def _run(
    detector: Predictor,
    dataset: CocoDataset,
    request: Request,
    indices: Sequence[int],
    options: Mapping[str, Any],
    progress: Progress,
) -> dict[str, Predictions]:
    if request.oracles:
        chosen = {name: options[name] for name in ("score", "max_detections")}
        return predict_oracles(detector, dataset, tuple(request.classes), indices=indices, progress=progress, **chosen)
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


#: In a worker process: model, dataset and options.
_loaded: list[Any] = []
#: In a worker of a pool: the event that tells it to stop.
_stop: list[Any] = []


def _start(work: bytes, threads: int, device: str, started: Any, stop: Any) -> None:
    """Prepare a worker of a pool; `started` counts the workers, which take turns on the GPUs."""
    obey_parent()
    _stop[:] = [stop]
    torch.set_num_threads(threads)
    if device.startswith("cuda") and torch.cuda.device_count() > 1:
        with started.get_lock():
            device = f"cuda:{started.value % torch.cuda.device_count()}"
            started.value += 1
    _loaded[:] = _unpacked(work, device)


def _unpacked(work: bytes, device: str) -> tuple[Predictor, CocoDataset, dict[str, Any]]:
    """Detector, dataset and options."""
    open_model, dataset, options = pickle.loads(work)
    return open_model(device), dataset, options


def _predict(request: Request, indices: Sequence[int]) -> dict[str, Predictions]:
    detector, dataset, options = _loaded
    return _run(detector, dataset, request, indices, options, _until_stopped)


def _until_stopped(indices: Sequence[int]) -> Iterator[int]:
    for index in indices:
        if _stop and _stop[0].is_set():
            raise StoppedError
        yield index
