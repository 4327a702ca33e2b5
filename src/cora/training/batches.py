"""Total batch size over all processes, compared with that of the recipe; number of data loading workers."""

from __future__ import annotations

import os
from dataclasses import replace

from cora.training.recipe import Stage, TrainRecipe

_STAGES = ("prompts", "proposals", "names", "localizer")


def batch_lines(recipe: TrainRecipe, *, processes: int, written: TrainRecipe | None = None) -> list[str]:
    """A line for each stage with its images per step and, if these are not the recipe's, how to reach those.

    Args:
        recipe: of the run.
        processes: number of training processes, on all machines.
        written: the recipe before options changed it; `recipe` if None.
    """
    lines = []
    for name in _STAGES:
        stage: Stage | None = getattr(recipe, name)
        original: Stage | None = getattr(written or recipe, name) or stage
        if stage is not None and original is not None:
            lines.append(_line(name, stage, original, recipe.processes, processes))
    return lines


def fit_workers(recipe: TrainRecipe) -> tuple[TrainRecipe, str | None]:
    """Limit the data loading workers to the number of cores; returns the recipe, and a line if it changed.

    More workers would be slower. Their number does not affect what is drawn at random.
    """
    wanted, cores = recipe.data.workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    cores = cores or os.cpu_count() or 1
    if wanted <= cores:
        return recipe, None
    line = f"data.workers: {cores} processes read images, not {wanted}: as many as there are cores"
    return replace(recipe, data=replace(recipe.data, workers=cores)), line


def _line(name: str, stage: Stage, original: Stage, planned: int | None, processes: int) -> str:
    images = stage.batch * stage.accumulate * processes
    times = f", {stage.accumulate} times" if stage.accumulate > 1 else ""
    several = f"process{'es' * (processes > 1)}"
    line = f"{name}: {images} images a step, {stage.batch} in {processes} {several}{times}"
    if planned is None or images == original.batch * planned:
        return line
    line += f"; the recipe means {original.batch * planned}, {original.batch} in {planned} processes"
    factor, rest = divmod(original.batch * planned, stage.batch * processes)
    return line if rest or factor < 2 else f"{line}: --set {name}.accumulate={factor} makes up for it"
