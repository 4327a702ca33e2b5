"""The engines that compute the parts of a batch: this process, several on this machine, or Ray on a cluster.

An engine is a generator of (number of a part, lines of its results), in any order; the caller writes them.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from cora.batch.items import Item
from cora.batch.job import Job
from cora.batch.labeller import Labeller, Model, Work
from cora.errors import CoraError, needs_extra
from cora.workers import StoppedError, ctrl_c_waits, obey_parent

#: Yields (number of a part, lines of its results).
Done = Iterator[tuple[int, str]]
#: Called with the number of images that are done since the last call.
OnProgress = Callable[[int], object]

#: Parts that are queued for each process: enough to keep it busy, and few, since their items are in memory.
_QUEUED_PARTS = 2
_PROGRESS_SECONDS = 0.25
#: Parts that Ray gets at a time, since it keeps their items in memory.
_WAVE = 2048


def in_this_process(
    job: Job, work: Work, parts: Sequence[int], *, model: Model | None = None, on_progress: OnProgress
) -> Done:
    """Compute one part after the other; `model` is the model if it is loaded already."""
    labeller = Labeller(work, model=model)
    for part in parts:
        yield part, labeller(job.items(part), lambda: on_progress(1))


def in_processes(job: Job, work: Work, parts: Sequence[int], *, count: int, on_progress: OnProgress) -> Done:
    """Compute parts in `count` processes of this machine, each with a model of its own.

    Raises:
        CoraError: a process ended by itself, most likely because memory ran out.
    """
    context = multiprocessing.get_context("spawn")
    shared = (context.Value("q", 0), context.Value("i", 0), context.Event())
    threads = max(1, torch.get_num_threads() // count)
    # Pickled here: the pool would pass tensors through files of their own.
    pool = ProcessPoolExecutor(
        count, mp_context=context, initializer=_start, initargs=(pickle.dumps(work), threads, *shared)
    )
    done, _, stop = shared
    told, left = 0, iter(parts)
    waiting: dict[Future[str], int] = {}
    try:
        while True:
            with ctrl_c_waits():  # the pool starts its processes when parts are submitted
                while len(waiting) < count * _QUEUED_PARTS and (part := next(left, None)) is not None:
                    waiting[pool.submit(_label, job.items(part))] = part
            if not waiting:
                break
            finished, _ = wait(waiting, timeout=_PROGRESS_SECONDS, return_when=FIRST_COMPLETED)
            now = done.value  # read once: workers count on meanwhile
            on_progress(now - told)
            told = now
            for future in finished:
                yield waiting.pop(future), future.result()
        on_progress(done.value - told)
    except BrokenProcessPool:
        raise CoraError(
            "expected all processes to go on, got one that ended by itself, perhaps for want of memory; "
            "what is done is kept: run the command again, with fewer --processes"
        ) from None
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def on_ray(
    job: Job, work: Work, parts: Sequence[int], *, count: int, gpus: float = 0.0, on_progress: OnProgress
) -> Done:
    """Compute parts in `count` workers of Ray Data, each with a model of its own.

    The cluster is that of `RAY_ADDRESS`, or one that is started on this machine. Workers read the images, so all
    machines must see these under the same paths. Results come back to this process, which writes them.

    Args:
        job: the batch.
        work: what the workers need; cora must be installed where they run.
        parts: numbers of the parts to compute.
        count: number of workers.
        gpus: GPUs for each worker.
        on_progress: called after each part.

    Raises:
        MissingExtraError: Ray is not installed.
        CoraError: the cluster is too small, or a worker failed.
    """
    with needs_extra("the engine ray", extra="ray"):
        # Ray reports its usage to its makers by default.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        import ray.data
        from ray.exceptions import RayError
    own = not ray.is_initialized()
    try:
        if own:
            ray.init(
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=None if os.environ.get("RAY_ADDRESS") else False,
            )
        _check_room(
            ray.cluster_resources(),  # type: ignore[no-untyped-call]
            count,
            gpus,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        for start in range(0, len(parts), _WAVE):
            for part, lines in _ray_wave(ray, job, work, parts[start : start + _WAVE], count, gpus):
                on_progress(job.size_of(part))
                yield part, lines
    except (RayError, ConnectionError) as error:
        reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
        raise CoraError(f"Ray: expected its workers to go on, got {reason}; what is done is kept") from error
    finally:
        if own and ray.is_initialized():
            ray.shutdown()


def _ray_wave(ray: Any, job: Job, work: Work, parts: Sequence[int], count: int, gpus: float) -> Done:
    rows = []
    for part in parts:
        items = job.items(part)
        text = "".join(item.to_line() for item in items)
        rows.append({"part": part, "first": items[0].number, "items": text})
    found = ray.data.from_items(rows).map_batches(
        RayLabeller,
        fn_constructor_args=(pickle.dumps(work),),
        compute=ray.data.ActorPoolStrategy(size=min(count, len(parts))),
        batch_size=1,
        num_cpus=1,
        num_gpus=gpus,
    )
    for row in found.iter_rows():
        yield int(row["part"]), str(row["lines"])


class RayLabeller:
    """A worker of Ray Data.

    It turns rows of `part` (number of a part), `first` (number of its first image) and `items` (lines of `Item`) into
    rows of `part` and `lines`.

    Args:
        work: a pickled `Work`.
    """

    def __init__(self, work: bytes) -> None:
        self._labeller = Labeller(pickle.loads(work))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Label the images of the parts in a batch of rows."""
        lines = []
        for first, text in zip(batch["first"].tolist(), batch["items"].tolist(), strict=True):
            items = [Item.from_line(line, first + place) for place, line in enumerate(text.splitlines())]
            lines.append(self._labeller(items))
        return {"part": batch["part"].tolist(), "lines": lines}


def _check_room(resources: dict[str, float], count: int, gpus: float) -> None:
    """Refuse what the cluster does not have, since Ray would wait for it forever."""
    for kind, needed in (("CPU", float(count)), ("GPU", count * gpus)):
        if resources.get(kind, 0.0) < needed:
            raise CoraError(
                f"Ray: expected a cluster with {needed:g} {kind}s for {count} workers, got "
                f"{resources.get(kind, 0.0):g}; use fewer --processes"
            )


#: What `_start` received, in a worker process: pickled work, number of the worker, what all share.
_received: list[Any] = []
_labeller: list[Labeller] = []


def _start(work: bytes, threads: int, done: Any, started: Any, stop: Any) -> None:
    obey_parent()
    torch.set_num_threads(threads)
    with started.get_lock():
        number = started.value
        started.value += 1
    _received[:] = [work, number, done, stop]


def _label(items: list[Item]) -> str:
    work, number, done, stop = _received
    if not _labeller:  # not in `_start`, whose errors the pool reports as a process that has died
        _labeller.append(Labeller(pickle.loads(work), worker=number))

    def count() -> None:
        with done.get_lock():
            done.value += 1
        if stop.is_set():
            raise StoppedError

    return _labeller[0](items, count)
