"""Several processes on one or more machines: PyTorch's DDP, started and kept together by Lightning Fabric.

An engine wraps the task so that its backward pass averages gradients, and computes means and exchanges small objects
over processes. `Engine` itself serves a single process and has no dependencies. Where one process fails, it says why
and all end.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from cora.errors import CoraError, TrainingError, needs_extra

Result = TypeVar("Result")
Device = Literal["auto", "cpu", "cuda"]

#: The others wait for the first process while it evaluates.
PATIENCE = timedelta(hours=6)

#: Seconds in which whoever started the processes ends those that are left when one has failed and said why.
GRACE = 30.0


class Engine:
    """One process that works alone.

    Attributes:
        rank: number of this process, 0 for the one that writes files and evaluates.
        world: processes in all, of all machines.
        device: where the task of this process belongs.
    """

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self.rank, self.world, self.device = 0, 1, torch.device(device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and evaluates."""
        return self.rank == 0

    def wrap(self, task: nn.Module) -> nn.Module:
        """The task to call in training; weights stay those of `task`."""
        return task

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss; those of several processes are averaged."""
        loss.backward()

    def without_averaging(self, wrapped: nn.Module, *, enabled: bool) -> AbstractContextManager[None]:
        """Inside the block gradients are not averaged; for all but the last batch of an accumulated step."""
        return nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """Mean over processes of a tensor of the same shape in all of them."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in order of rank."""
        return [value]

    def collect(self, value: Any) -> list[Any]:
        """In the first process the value of every process, in order of rank; in the others an empty list."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The first process's value."""
        return value

    def barrier(self) -> None:
        """Wait until all processes are here."""


class FabricEngine(Engine):
    """One of several processes, kept together by Lightning Fabric.

    Args:
        fabric: a launched `lightning_fabric.Fabric` with a DDP strategy.
    """

    def __init__(self, *, fabric: Any) -> None:
        super().__init__(device=fabric.device)
        self._fabric = fabric
        self.rank, self.world = int(fabric.global_rank), int(fabric.world_size)

    def wrap(self, task: nn.Module) -> nn.Module:
        """DDP around the task, which must be on `device`: its optimiser and averages hold its tensors already.

        Raises:
            TrainingError: the task is elsewhere.
        """
        elsewhere = {p.device for p in task.parameters() if p.device.type != self.device.type}
        if elsewhere:
            raise TrainingError(
                f"expected the task on {self.device}, got weights on {', '.join(sorted(map(str, elsewhere)))}; call "
                f"task.to(engine.device) before making optimiser and moving average"
            )
        wrapped: nn.Module = self._fabric.setup_module(task, move_to_device=False)
        return wrapped

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, averaged over the processes by DDP."""
        self._fabric.backward(loss)

    def without_averaging(self, wrapped: nn.Module, *, enabled: bool) -> AbstractContextManager[None]:
        """Fabric's block without the averaging of DDP, where enabled."""
        block: AbstractContextManager[None] = self._fabric.no_backward_sync(wrapped, enabled=enabled)
        return block

    def mean(self, values: Tensor) -> Tensor:
        """Mean over processes, in a tensor of its own; all processes must call it."""
        values = values.detach().clone()
        with self._all_here():
            dist.all_reduce(values)
        return values / self.world

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, pickled, in order of rank; all processes must call it."""
        found: list[Any] = [None] * self.world
        with self._all_here():
            dist.all_gather_object(found, value)
        return found

    def collect(self, value: Any) -> list[Any]:
        """As `gather`, for the first process only; all processes must call it."""
        found: list[Any] = [None] * self.world if self.is_main else []
        with self._all_here():
            dist.gather_object(value, found if self.is_main else None)
        return found

    def broadcast(self, value: Any) -> Any:
        """The first process's value, pickled; all processes must call it."""
        with self._all_here():
            return self._fabric.broadcast(value)

    def barrier(self) -> None:
        """Wait until all processes are here; fails where one of them is gone."""
        with self._all_here():
            self._fabric.barrier()

    @contextmanager
    def _all_here(self) -> Iterator[None]:
        """Wait for the others inside the block.

        Raises:
            TrainingError: one of them is gone, and this process was not ended, too.
        """
        try:
            yield
        except RuntimeError as error:
            time.sleep(GRACE)  # The one that failed says why.
            raise TrainingError(
                f"expected {self.world} processes to the end, but process {self.rank} lost the others "
                f"({str(error).strip().splitlines()[0]}); see what they say, then start all again"
            ) from error


def launch(
    function: Callable[[Engine], Result],
    *,
    processes: int = 1,
    machines: int = 1,
    device: Device = "auto",
) -> Result | None:
    """Run ``function(engine)`` in every process and return what the first process returns.

    A single process is this one. Where `torchrun` or Slurm's `srun` has started the processes, each of them calls
    `launch` and becomes one of them; otherwise `processes` new ones are started on this machine, for which
    `function` must be importable by name (a function of a module or `functools.partial` of one) and the calling
    script must guard its start with ``if __name__ == "__main__":``.

    Args:
        function: what a process does, usually ending in `cora.training.loop.train(..., engine=engine)`.
        processes: on each machine; for GPUs one a GPU.
        machines: in all; more than one needs `torchrun` or `srun` on each.
        device: "auto" takes GPUs if PyTorch sees any.

    Returns:
        The result of the first process; where others have started the processes, each gets its own.

    Raises:
        MissingExtraError: several processes without the extra `train`.
        TrainingError: more processes than GPUs, a function that new processes cannot import, several machines and
            nobody has started processes on them, or as many processes as were not started; one of the new processes
            was killed.
        CoraError: what one of the new processes raises.
    """
    if processes < 1 or machines < 1:
        raise TrainingError(f"expected at least 1 process and 1 machine, got {processes} and {machines}")
    check_started(processes=processes, machines=machines)
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind == "cuda" and torch.cuda.device_count() < processes:
        raise TrainingError(
            f"expected at least {processes} GPUs for {processes} processes, got {torch.cuda.device_count()}; start "
            f"fewer processes or use the CPU"
        )
    if processes == machines == 1:
        return function(Engine(device=torch.device(kind, 0) if kind == "cuda" else "cpu"))
    started = started_by_others()
    if machines > 1 and not started:
        raise TrainingError(
            f"{machines} machines need torchrun or srun on each of them, which sets the variable RANK or SLURM_PROCID; "
            f"neither is set (see docs/scale_out.md)"
        )
    if not started:
        _check_can_be_sent(function)
    with needs_extra("work in several processes", extra="train"):
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
    # Buffers are those of frozen towers, which never change; PyTorch renamed the option that leaves them alone.
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    buffers: dict[str, Any] = {
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
    }
    start_method: Literal["popen", "spawn"] = "popen" if started else "spawn"
    strategy = DDPStrategy(start_method=start_method, timeout=PATIENCE, gradient_as_bucket_view=True, **buffers)
    fabric = Fabric(accelerator=kind, devices=processes, num_nodes=machines, strategy=strategy)
    failures = None if started else multiprocessing.get_context("spawn").SimpleQueue()
    try:
        result: Result | None = fabric.launch(partial(_enter, function, failures))
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise _cause(error, failures, processes) from error
    return result


def started_by_others() -> bool:
    """Whether `torchrun` or Slurm's `srun` has started this process, and others with it."""
    by_torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    by_slurm = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    return by_torchrun or by_slurm


def check_started(*, processes: int, machines: int) -> None:
    """Refuse numbers that are not those of the processes that were started: each would take itself for another.

    A single process inside a Slurm job is right, too: the job's script is one.

    Raises:
        TrainingError: they are not.
    """
    if not started_by_others():
        return
    by, name = ("torchrun", "WORLD_SIZE") if "WORLD_SIZE" in os.environ else ("Slurm", "SLURM_NTASKS")
    count = int(os.environ[name])
    if count != processes * machines and (by == "torchrun" or processes * machines > 1):
        raise TrainingError(
            f"expected --processes and --machines for the {count} processes that {by} starts, got {processes} on each "
            f"of {machines}; give their numbers"
        )


def check_shared_folder(engine: Engine, folder: Path, seen: Sequence[Any]) -> None:
    """Raise TrainingError unless every process found the same in a run folder, which all machines must share."""
    of_all = engine.gather(list(seen))
    different = [rank for rank, one in enumerate(of_all) if one != of_all[0]]
    if different:
        raise TrainingError(
            f"expected every process to see the same files in {folder}, but {len(different)} of {engine.world} see "
            f"others than the first (rank {different[0]}); put the run folder on a disk that all machines share"
        )


def _enter(function: Callable[[Engine], Result], failures: Any, fabric: Any) -> Result:
    try:
        return function(FabricEngine(fabric=fabric))
    except (CoraError, OSError) as error:
        if failures is not None:
            failures.put(error)
        raise
    finally:
        # Threads of the group that are left when the process ends abort it, now and then.
        if dist.is_initialized():
            dist.destroy_process_group()


def _cause(error: ProcessRaisedException | ProcessExitedException, failures: Any, processes: int) -> Exception:
    """What ended the new processes, as an error of this one."""
    if failures is not None and not failures.empty():
        told: Exception = failures.get()
        return told
    if isinstance(error, ProcessExitedException):
        how = error.signal_name or f"exit code {error.exit_code}"
        return TrainingError(
            f"expected {processes} processes to the end, but process {error.error_index} ended with {how}; if memory "
            f"was short, start fewer"
        )
    return error


def _check_can_be_sent(function: Callable[[Engine], Any]) -> None:
    try:
        ForkingPickler.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TrainingError(
            f"expected a function that new processes can import by name, got {function!r} ({error}); define it at the "
            f"top of a module and give its arguments with functools.partial"
        ) from error
