"""The training loop of nano's localizer: minutes of training, a moving average, resumed after a stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cora.files import write_whole
from cora.training.ema import Ema
from cora.training.frozen_maps import TaskBatch

SAVE_EVERY_S, CHECK_EVERY_S = 60.0, 240.0
#: Steps until the learning rate is whole; smallest share of it.
WARM_STEPS, LEAST_RATE = 100, 0.02

#: The name of a data set, and a batch of it.
Drawn = tuple[str, TaskBatch]


class Training:
    """One phase: modules that learn, where batches come from, a step, and where all is kept.

    Args:
        learned: the modules, each with its learning rate.
        draw: gives the next batch.
        step: losses of a batch; "loss" is the one to minimise.
        folder: for `last.pt`.
        clip: largest norm of the gradient.
        decay: of the moving average.
        weight_decay: of AdamW.
        check: what the log says every few minutes.
    """

    def __init__(
        self,
        learned: Mapping[nn.Module, float],
        *,
        draw: Callable[[], Drawn],
        step: Callable[[str, TaskBatch], dict[str, Tensor]],
        folder: Path,
        clip: float = 0.5,
        decay: float = 0.997,
        weight_decay: float = 1e-3,
        check: Callable[[], str] | None = None,
    ) -> None:
        self.draw, self.step, self.folder, self.clip, self.check = draw, step, folder, clip, check
        self.modules = nn.ModuleList(learned)
        groups = [
            {"params": [value for value in module.parameters() if value.requires_grad], "lr": rate, "rate": rate}
            for module, rate in learned.items()
        ]
        self.parameters = [value for group in groups for value in group["params"]]  # type: ignore[attr-defined]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=weight_decay)
        self.ema = Ema(self.modules, decay=decay)
        self.spent, self.steps = 0.0, 0

    def run(self, minutes: float, *, hold: float = 0.5) -> None:
        """Train until `minutes` are spent in all, those before a stop included.

        Args:
            minutes: of training, checks and saving included.
            hold: share of them, 0..1, until which the learning rate stays; then it falls as a cosine.
        """
        self._resume()
        saved = checked = begun = time.monotonic()
        before = self.spent
        while (progress := self.spent / (60 * minutes)) < 1:
            losses = self._step(progress, hold)
            self.steps, self.spent = self.steps + 1, before + time.monotonic() - begun
            if self.steps % 50 == 0:
                loss = float(losses["loss"].detach())
                print(f"{self.folder.name} {self.steps}, {self.spent / 60:.1f} min: {loss:.3f}", flush=True)
            if time.monotonic() - saved > SAVE_EVERY_S:
                self._save()
                saved = time.monotonic()
            if time.monotonic() - checked > CHECK_EVERY_S:
                self._report()
                checked = time.monotonic()
        self._save()
        self._report()
        self.ema.apply_to(self.modules)

    def _step(self, progress: float, hold: float) -> dict[str, Tensor]:
        warm = min(1.0, (self.steps + 1) / WARM_STEPS)
        falling = max(0.0, progress - hold) / (1 - hold)
        cooled = max(LEAST_RATE, 0.5 * (1 + float(np.cos(np.pi * falling))))
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * warm * cooled
        losses = self.step(*self.draw())
        self.optimiser.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimiser.step()
        self.ema.update(self.modules)
        return losses

    def _report(self) -> None:
        if self.check is not None:
            with self.ema.swapped(self.modules):
                print(f"{self.folder.name} {self.spent / 60:.1f} min: {self.check()}", flush=True)

    def _save(self) -> None:
        state = {"optimiser": self.optimiser.state_dict(), "ema": self.ema.state_dict(), "steps": self.steps}
        state |= {"modules": self.modules.state_dict(), "spent": self.spent}
        write_whole(self.folder / "last.pt", lambda file: torch.save(state, file), temporary=self.folder / "last.part")

    def _resume(self) -> None:
        if (file := self.folder / "last.pt").exists():
            state = torch.load(file, weights_only=True)
            self.modules.load_state_dict(state["modules"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.ema.load_state_dict(state["ema"])
            self.steps, self.spent = state["steps"], state["spent"]
