"""Trains in a process that is killed again and again (SIGKILL), at the worst moments, and goes on each time.

python -m tests.training.killed_run FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.training.toy_run import Batches, run


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_batch(epoch: int, position: int) -> Callable[[Path], None]:
    """While a batch is loaded, some steps after the last checkpoint."""

    def act(now: int, here: int, x: Tensor) -> Tensor:
        if (now, here) == (epoch, position):
            kill()
        return x

    return lambda folder: train_on(folder, act=act)


def while_saving(name: str, count: int) -> Callable[[Path], None]:
    """After a checkpoint is written beside the old one and before it takes its place."""

    def start(folder: Path) -> None:
        replace, seen = os.replace, [0]

        def counted(source: Any, target: Any) -> None:
            seen[0] += Path(target).name == name
            if seen[0] == count:
                kill()
            replace(source, target)

        os.replace = counted
        train_on(folder)

    return start


def while_evaluating(epoch: int) -> Callable[[Path], None]:
    def measure(now: int, _module: nn.Module) -> dict[str, float]:
        if now == epoch:
            kill()
        return {"noise": float(torch.rand(()))}

    return lambda folder: train_on(folder, on_epoch_end=measure)


def train_on(folder: Path, *, act: Any = None, **options: Any) -> None:
    run(folder, Batches(act=act), checkpoint_steps=3, best="noise", **options)


#: In the order in which the run meets them.
DEATHS = (
    at_batch(0, 2),  # before the first checkpoint
    while_saving("last.pt", 1),
    while_evaluating(0),
    while_saving("best.pt", 1),
    at_batch(1, 3),
    while_saving("last.pt", 2),
    while_evaluating(2),
)


def main(folder: Path) -> None:
    # Children of a process that computed in several threads may not compute.
    torch.set_num_threads(1)
    run(folder.with_name("first"), Batches(), epochs=1)  # what is imported late is imported once
    for number, death in enumerate(DEATHS):
        child = os.fork()
        if child == 0:
            death(folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(f"death {number} did not happen: status {status}")
    train_on(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
