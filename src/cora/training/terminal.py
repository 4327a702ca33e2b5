"""Progress bar of training, and the message that a run is finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cora.progress import ProgressLines


def print_finished(run_dir: Path, steps: int) -> None:
    """Print on stderr that a run is already finished."""
    line = f"cora: {run_dir.name}: this run is finished, with {steps} steps; to train anew, use another run folder"
    Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(show: bool, total: int, done: int, *, title: str = "training") -> Iterator[Callable[[float], None]]:
    """Progress bar of `total` steps on stderr, lines if that is no terminal; yields a function to call per step."""
    console = Console(stderr=True)
    if not show:
        yield lambda _loss: None
        return
    if not console.is_terminal:
        lines = ProgressLines(title, total, done=done)
        try:
            yield lambda loss: lines.update(lines.done + 1, loss=loss)
        finally:
            lines.end()
        return
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, completed=done, loss=float("nan"))

        def advance(loss: float) -> None:
            progress.update(task, advance=1, loss=loss)

        yield advance
