"""Several processes on one or more machines: PyTorch's DDP, started and kept together by Lightning Fabric.

An engine wraps the task so that its backward pass averages gradients, and computes means and exchanges small objects
over processes. `Engine` itself serves a single process and has no dependencies.
"""

from __future__ import annotations

import inspect
import os
import pickle
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cora.errors import MissingExtraError, TrainingError

Result = TypeVar("Result")
Device = Literal["auto", "cpu", "cuda"]

#: The others wait for the first process while it evaluates.
PATIENCE = timedelta(hours=6)


class Engine:
    """One process that trains alone.

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
        self._fabric.backward(loss)

    def without_averaging(self, wrapped: nn.Module, *, enabled: bool) -> AbstractContextManager[None]:
        block: AbstractContextManager[None] = self._fabric.no_backward_sync(wrapped, enabled=enabled)
        return block

    def mean(self, values: Tensor) -> Tensor:
        values = values.detach().clone()
        dist.all_reduce(values)
        return values / self.world

    def gather(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def broadcast(self, value: Any) -> Any:
        return self._fabric.broadcast(value)

    def barrier(self) -> None:
        self._fabric.barrier()


def launch(
    function: Callable[[Engine], Result],
    *,
    processes: int = 1,
    machines: int = 1,
    device: Device = "auto",
) -> Result | None:
    """Run ``function(engine)`` in every process of a training and return what the first process returns.

    A single process is this one. Where `torchrun` or Slurm's `srun` has started the processes, each of them calls
    `launch` and becomes one of the training; otherwise `processes` new ones are started on this machine, for which
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
        TrainingError: more processes than GPUs, a function that new processes cannot import, or several machines
            and nobody has started processes on them.
    """
    if processes < 1 or machines < 1:
        raise TrainingError(f"expected at least 1 process and 1 machine, got {processes} and {machines}")
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind == "cuda" and torch.cuda.device_count() < processes:
        raise TrainingError(
            f"expected at least {processes} GPUs for {processes} processes, got {torch.cuda.device_count()}; start "
            f"fewer processes or train on the CPU"
        )
    if processes == machines == 1:
        return function(Engine(device=torch.device(kind, 0) if kind == "cuda" else "cpu"))
    started = _started_by_others()
    if machines > 1 and not started:
        raise TrainingError(
            f"{machines} machines need torchrun or srun on each of them, which sets the variable RANK or SLURM_PROCID; "
            f"neither is set (see docs/scale_out.md)"
        )
    if not started:
        _check_can_be_sent(function)
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
    except ImportError as error:
        raise MissingExtraError("training in several processes", extra="train") from error
    # Buffers are those of frozen towers, which never change; PyTorch renamed the option that leaves them alone.
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    buffers: dict[str, Any] = {
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
    }
    start_method: Literal["popen", "spawn"] = "popen" if started else "spawn"
    strategy = DDPStrategy(start_method=start_method, timeout=PATIENCE, gradient_as_bucket_view=True, **buffers)
    fabric = Fabric(accelerator=kind, devices=processes, num_nodes=machines, strategy=strategy)
    result: Result | None = fabric.launch(partial(_enter, function))
    return result


def check_shared_folder(engine: Engine, folder: Path, seen: Sequence[Any]) -> None:
    """Raise TrainingError unless every process found the same in a run folder, which all machines must share."""
    of_all = engine.gather(list(seen))
    different = [rank for rank, one in enumerate(of_all) if one != of_all[0]]
    if different:
        raise TrainingError(
            f"expected every process to see the same files in {folder}, but {len(different)} of {engine.world} see "
            f"others than the first (rank {different[0]}); put the run folder on a disk that all machines share"
        )


def _enter(function: Callable[[Engine], Result], fabric: Any) -> Result:
    try:
        return function(FabricEngine(fabric=fabric))
    finally:
        # Threads of the group that are left when the process ends abort it, now and then.
        if dist.is_initialized():
            dist.destroy_process_group()


def _check_can_be_sent(function: Callable[[Engine], Any]) -> None:
    try:
        ForkingPickler.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TrainingError(
            f"expected a function that new processes can import by name, got {function!r} ({error}); define it at the "
            f"top of a module and give its arguments with functools.partial"
        ) from error


def _started_by_others() -> bool:
    by_torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    by_slurm = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    return by_torchrun or by_slurm
