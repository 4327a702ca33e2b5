"""Distributed training on one or more machines: PyTorch's DDP, launched by Lightning Fabric.

An engine wraps the task, so that the backward pass averages gradients over processes, and offers the collective
operations that training needs. `Engine` is for a single process, `FabricEngine` for one of several. If one process
fails, all end, and the error of that process is reported.
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

#: Timeout of collective operations; long, since all processes wait while the first one evaluates.
TIMEOUT = timedelta(hours=6)

#: Seconds that a process waits to be ended after it lost another one, whose own error message matters more.
GRACE_SECONDS = 30.0


class Engine:
    """The engine of a single process; collective operations return their input.

    Attributes:
        rank: index of this process over all machines; the process of rank 0 writes files and evaluates.
        world: number of processes over all machines.
        device: device for the task of this process.
    """

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self.rank, self.world, self.device = 0, 1, torch.device(device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and evaluates."""
        return self.rank == 0

    def wrap(self, task: nn.Module) -> nn.Module:
        """Return the module to call in training; it shares its weights with `task`."""
        return task

    def backward(self, loss: Tensor) -> None:
        """Compute gradients of a loss, averaged over the processes."""
        loss.backward()

    def without_averaging(self, wrapped: nn.Module, *, enabled: bool) -> AbstractContextManager[None]:
        """If enabled, do not average gradients inside the block: for all but the last batch of an accumulated step."""
        return nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a tensor over the processes; it must have the same shape in all of them."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in order of rank."""
        return [value]

    def collect(self, value: Any) -> list[Any]:
        """As `gather` in the first process; an empty list in the others."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The value of the first process."""
        return value

    def barrier(self) -> None:
        """Wait until all processes have called this."""


class FabricEngine(Engine):
    """The engine of one of several processes, on Lightning Fabric.

    Args:
        fabric: a launched `lightning_fabric.Fabric` with a DDP strategy.
    """

    def __init__(self, *, fabric: Any) -> None:
        super().__init__(device=fabric.device)
        self._fabric = fabric
        self.rank, self.world = int(fabric.global_rank), int(fabric.world_size)

    def wrap(self, task: nn.Module) -> nn.Module:
        """Wrap the task in DDP. It must be on `device` already, since optimiser and moving average hold its tensors.

        Raises:
            TrainingError: the task is on another device.
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
        """Compute gradients of a loss; DDP averages them over the processes."""
        self._fabric.backward(loss)

    def without_averaging(self, wrapped: nn.Module, *, enabled: bool) -> AbstractContextManager[None]:
        """As in `Engine`, by DDP's `no_sync`."""
        block: AbstractContextManager[None] = self._fabric.no_backward_sync(wrapped, enabled=enabled)
        return block

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes, as a new tensor; all processes must call it."""
        values = values.detach().clone()
        with self._reporting_lost_processes():
            dist.all_reduce(values)
        return values / self.world

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, pickled, in order of rank; all processes must call it."""
        found: list[Any] = [None] * self.world
        with self._reporting_lost_processes():
            dist.all_gather_object(found, value)
        return found

    def collect(self, value: Any) -> list[Any]:
        """As `gather` in the first process, an empty list in the others; all processes must call it."""
        found: list[Any] = [None] * self.world if self.is_main else []
        with self._reporting_lost_processes():
            dist.gather_object(value, found if self.is_main else None)
        return found

    def broadcast(self, value: Any) -> Any:
        """The value of the first process, pickled; all processes must call it."""
        with self._reporting_lost_processes():
            return self._fabric.broadcast(value)

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        with self._reporting_lost_processes():
            self._fabric.barrier()

    @contextmanager
    def _reporting_lost_processes(self) -> Iterator[None]:
        """Turn the failure of a collective operation inside the block into a `TrainingError`.

        Raises:
            TrainingError: another process has ended, and the launcher did not end this one.
        """
        try:
            yield
        except RuntimeError as error:
            time.sleep(GRACE_SECONDS)  # The launcher usually ends this process before it reports a second error.
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

    With one process, the function runs in the current one. If `torchrun` or Slurm's `srun` has started the processes,
    each of them calls `launch`. Otherwise `launch` starts `processes` new ones on this machine. `function` must then be
    importable by name (a function of a module or `functools.partial` of one), and the calling script needs
    ``if __name__ == "__main__":``.

    Args:
        function: runs in every process, usually ends with `cora.training.loop.train(..., engine=engine)`.
        processes: processes on each machine; with GPUs, one per GPU.
        machines: number of machines; several need `torchrun` or `srun` on each.
        device: "auto" uses GPUs if PyTorch finds any.

    Returns:
        The result of the first process; with `torchrun` or `srun`, each process returns its own.

    Raises:
        MissingExtraError: several processes without the extra `train`.
        TrainingError: more processes than GPUs; a function that new processes cannot import; several machines without
            `torchrun` or `srun`, or another number of processes than they have started; a new process was killed.
        CoraError: raised by one of the new processes.
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
        _check_picklable(function)
    with needs_extra("work in several processes", extra="train"):
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
    # All buffers belong to frozen parts and never change, so DDP need not broadcast them. PyTorch renamed the option.
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    buffers: dict[str, Any] = {
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
    }
    start_method: Literal["popen", "spawn"] = "popen" if started else "spawn"
    strategy = DDPStrategy(start_method=start_method, timeout=TIMEOUT, gradient_as_bucket_view=True, **buffers)
    fabric = Fabric(accelerator=kind, devices=processes, num_nodes=machines, strategy=strategy)
    failures = None if started else multiprocessing.get_context("spawn").SimpleQueue()
    try:
        result: Result | None = fabric.launch(partial(_enter, function, failures))
    except (ProcessRaisedException, ProcessExitedException) as error:
        raise _cause(error, failures, processes) from error
    return result


def started_by_others() -> bool:
    """Whether `torchrun` or Slurm's `srun` has started this process as one of several."""
    by_torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    by_slurm = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    return by_torchrun or by_slurm


def check_started(*, processes: int, machines: int) -> None:
    """Check that `torchrun` or Slurm has started processes * machines processes, if it has started any.

    A single process is allowed inside a Slurm job, since the batch script is one.

    Raises:
        TrainingError: the numbers differ.
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
    """Check that all processes found the same state, `seen`, in the run folder, which all machines must share.

    Raises:
        TrainingError: they did not.
    """
    gathered = engine.gather(list(seen))
    different = [rank for rank, one in enumerate(gathered) if one != gathered[0]]
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
        # Otherwise threads of the process group sometimes abort the process when it ends.
        if dist.is_initialized():
            dist.destroy_process_group()


def _cause(error: ProcessRaisedException | ProcessExitedException, failures: Any, processes: int) -> Exception:
    """The error that ended the new processes: their own `CoraError`, if they sent one through the queue `failures`."""
    if failures is not None and not failures.empty():
        failure: Exception = failures.get()
        return failure
    if isinstance(error, ProcessExitedException):
        how = error.signal_name or f"exit code {error.exit_code}"
        return TrainingError(
            f"expected {processes} processes to the end, but process {error.error_index} ended with {how}; if memory "
            f"was short, start fewer"
        )
    return error


def _check_picklable(function: Callable[[Engine], Any]) -> None:
    try:
        ForkingPickler.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TrainingError(
            f"expected a function that new processes can import by name, got {function!r} ({error}); define it at the "
            f"top of a module and give its arguments with functools.partial"
        ) from error
