"""Predictions of a set of images by one process or by several, with the same numbers whatever their count.

The processes are those of a pool on this machine, or those that torchrun or Slurm has started on some.
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

#: (indices, title) -> the indices, shown as they are done.
Track = Callable[[Sequence[Any], str], Iterable[Any]]

#: Parts of the work for each process: enough for a balance, few enough to cost nothing.
_PARTS = 8


@dataclass(frozen=True, kw_only=True)
class Request:
    """One pass over the images.

    classes: names to search for, one for each class of the dataset, maybe with prompts; class_weights: by these names;
    oracles: whether to answer with all oracles instead of the detector's own results alone.
    """

    classes: tuple[str, ...] | ClassPrompts
    class_weights: Mapping[str, float] | None = None
    oracles: bool = False


class Engine(Protocol):
    """What is needed of the processes that torchrun or Slurm has started; see `cora.training.engine`."""

    rank: int
    world: int
    device: torch.device

    def collect(self, value: Any) -> list[Any]:
        """In the first process the value of every process, in order of rank; in the others an empty list."""

    def broadcast(self, value: Any) -> Any:
        """The value of the first process."""


class Helpers:
    """The processes that torchrun or Slurm has started: the first asks for predictions, all of them predict a share.

    Args:
        engine: of this process.
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
        """In the first process: the answers of all, one a part; `mine` gives those of its own share."""
        self._engine.broadcast((None if self._sent else work(), request, parts))
        self._sent = True
        found = self._engine.collect(list(mine))
        return [found[place % self.world][place // self.world] for place in range(len(parts))]

    def help(self) -> None:
        """In the others: predict what the first asks for, until it asks no more."""
        while (asked := self._engine.broadcast(None)) is not None:
            work, request, parts = asked
            if work is not None:
                _loaded[:] = _unpacked(work, str(self._engine.device))
            self._engine.collect([_predict(request, part) for part in self.share(parts)])

    def done(self) -> None:
        """In the first process: let the others end."""
        self._engine.broadcast(None)


@dataclass(frozen=True, kw_only=True)
class DatasetPredictor:
    """A model and the images it is measured on.

    detector: the model; open_model: opens the same on a device, for other processes, which can import it; score: lowest
    kept; max_detections: kept in an image; batch_size: images in one pass; class_agnostic: suppress between classes,
    too; tiles: parts of an image that are looked at, too; processes: of a pool on this machine; helpers: the processes
    that others have started, instead of a pool.
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
        """Name -> results in the order of the images; without oracles the only name is `AS_IT_IS`."""
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
        """The work in shares of whole batches: which images share a pass does not depend on the processes."""
        batches: list[list[int]] = []
        open_ones: dict[tuple[int, int], list[int]] = {}
        for index in self.indices:
            size = self.detector.preprocessor.resized_size(*self.dataset.records[index].size)
            batch = open_ones.setdefault(size, [])
            batch.append(index)
            if len(batch) == self.batch_size:
                batches.append(open_ones.pop(size))
        batches += open_ones.values()
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
                # Waits: a worker that still imports needs what is shared.
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _work(self) -> bytes:
        """What another process needs: pickled, since a pool would pass each of thousands of tensors as a file."""
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


#: What `_start` loaded, in a worker process: detector, dataset, options.
_loaded: list[Any] = []
#: Set when nobody wants the results of a pool any more.
_stop: list[Any] = []


def _start(work: bytes, threads: int, device: str, started: Any, stop: Any) -> None:
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
