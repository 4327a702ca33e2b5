"""How many images a step has, over all processes, and what a recipe means; how many processes read them."""

from __future__ import annotations

import os
from dataclasses import replace

from cora.training.recipe import Stage, TrainRecipe

_STAGES = ("prompts", "proposals", "names", "localizer")


def batch_lines(recipe: TrainRecipe, *, processes: int, written: TrainRecipe | None = None) -> list[str]:
    """Of every stage a line on its images a step, and how to reach what the recipe is meant for.

    Args:
        recipe: of the run.
        processes: that train together, on all machines.
        written: the recipe as it was before options changed it; `recipe` if None.
    """
    lines = []
    for name in _STAGES:
        stage: Stage | None = getattr(recipe, name)
        meant: Stage | None = getattr(written or recipe, name) or stage
        if stage is not None and meant is not None:
            lines.append(_line(name, stage, meant, recipe.processes, processes))
    return lines


def fit_workers(recipe: TrainRecipe) -> tuple[TrainRecipe, str | None]:
    """The recipe with no more processes that read images than there are cores, and a line that says so.

    More would be slower, which PyTorch warns of. What is drawn does not depend on their number.
    """
    wanted, cores = recipe.data.workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    cores = cores or os.cpu_count() or 1
    if wanted <= cores:
        return recipe, None
    line = f"data.workers: {cores} processes read images, not {wanted}: as many as there are cores"
    return replace(recipe, data=replace(recipe.data, workers=cores)), line


def _line(name: str, stage: Stage, meant: Stage, meant_processes: int | None, processes: int) -> str:
    whole = stage.batch * stage.accumulate * processes
    times = f", {stage.accumulate} times" if stage.accumulate > 1 else ""
    several = f"process{'es' * (processes > 1)}"
    line = f"{name}: {whole} images a step, {stage.batch} in {processes} {several}{times}"
    if meant_processes is None or whole == meant.batch * meant_processes:
        return line
    line += f"; the recipe means {meant.batch * meant_processes}, {meant.batch} in {meant_processes} processes"
    factor, rest = divmod(meant.batch * meant_processes, stage.batch * processes)
    return line if rest or factor < 2 else f"{line}: --set {name}.accumulate={factor} makes up for it"
