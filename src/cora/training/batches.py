"""How many photos a step has, over all processes, and what a recipe means."""

from __future__ import annotations

from cora.training.recipe import Stage, TrainRecipe

_STAGES = ("prompts", "names", "localizer")


def batch_lines(recipe: TrainRecipe, *, processes: int) -> list[str]:
    """Of every stage a line on its photos a step, and how to reach what the recipe is meant for.

    Args:
        recipe: of the run.
        processes: that train together, on all machines.
    """
    stages: dict[str, Stage | None] = {name: getattr(recipe, name) for name in _STAGES}
    return [_line(name, stage, recipe, processes) for name, stage in stages.items() if stage is not None]


def _line(name: str, stage: Stage, recipe: TrainRecipe, processes: int) -> str:
    whole = stage.batch * stage.accumulate * processes
    times = f", {stage.accumulate} times" if stage.accumulate > 1 else ""
    several = f"process{'es' * (processes > 1)}"
    line = f"{name}: {whole} photos a step, {stage.batch} in {processes} {several}{times}"
    if recipe.processes is None or whole == stage.batch * recipe.processes:
        return line
    meant = stage.batch * recipe.processes
    line += f"; the recipe means {meant}, {stage.batch} in {recipe.processes} processes"
    factor, rest = divmod(meant, stage.batch * processes)
    return line if rest or factor < 2 else f"{line}: --set {name}.accumulate={factor} makes up for it"
