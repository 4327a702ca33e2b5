"""Writes the metrics of a run as JSON lines and for TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cora.errors import needs_extra
from cora.files import write_text
from cora.training.run_state import Position

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class Metrics:
    """Averages metrics over several steps and writes one line for each average.

    A resumed run first removes the lines of steps that it will repeat.

    Args:
        run_dir: folder of `metrics.jsonl` and of the folder `tensorboard`.
        step: number of steps taken so far.
        tensorboard: also write for TensorBoard.
        enabled: False in processes that write nothing.

    Raises:
        MissingExtraError: `tensorboard` without the package.
    """

    def __init__(self, run_dir: Path, step: int, *, tensorboard: bool, enabled: bool = True) -> None:
        self.path, self.enabled = run_dir / METRICS, enabled
        self.sums: dict[str, float] = {}
        self.count = 0
        self.started = time.monotonic()
        self.board = _tensorboard(run_dir / TENSORBOARD, step) if tensorboard and enabled else None
        if enabled and self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            write_text(self.path, "".join(line + "\n" for line in lines if _step_of(line) <= step))

    def add(self, values: Mapping[str, float]) -> None:
        """Add the metrics of a step."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def write(self, position: Position, *, lr: float) -> None:
        """Write the means since the last call."""
        if self.count:
            seconds = (time.monotonic() - self.started) / self.count
            means = {name: total / self.count for name, total in self.sums.items()}
            rates = {"lr": lr, "seconds_a_step": round(seconds, 4)}
            self._write_line({"step": position.step, "epoch": position.epoch} | rates | means)
            self._write_scalars("train", position.step, rates | means)
        self.sums, self.count, self.started = {}, 0, time.monotonic()

    def write_evaluation(self, position: Position, values: Mapping[str, float]) -> None:
        """Write the metrics of an evaluation at the end of an epoch."""
        self._write_line({"step": position.step, "epoch": position.epoch, "evaluation": dict(values)})
        self._write_scalars("evaluation", position.step, values)
        self.started = time.monotonic()

    def close(self) -> None:
        """Close the TensorBoard writer."""
        if self.board is not None:
            self.board.close()

    def _write_line(self, content: Mapping[str, Any]) -> None:
        if self.enabled:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(content) + "\n")

    def _write_scalars(self, group: str, step: int, values: Mapping[str, Any]) -> None:
        if self.board is None:
            return
        for name, value in values.items():
            if isinstance(value, int | float):
                self.board.add_scalar(f"{group}/{name}", value, step)
        self.board.flush()


def _tensorboard(folder: Path, step: int) -> Any:
    with needs_extra("writing for TensorBoard (tensorboard=False trains without)", extra="train"):
        from torch.utils.tensorboard.writer import SummaryWriter
    # TensorBoard ignores points from purge_step on that were written before: a resumed run repeats these steps.
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut off by a crash
