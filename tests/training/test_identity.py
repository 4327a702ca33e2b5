"""What identifies a stage of a run: settings that came after its run folder must not keep it from resuming."""

import pytest

from cora.training.identity import stage_settings
from cora.training.override import override
from cora.training.recipe import NamesStage, ProposalStage, TrainRecipe

#: Keys that the first run folders of this form hold. A new setting belongs into the table of `identity`, not here.
STAGE = {"accumulate", "batch", "ema", "grad_clip", "keep", "lr", "precision", "schedule", "weight_decay"}
KEYS = {
    "prompts": STAGE | {"balance", "classes_per_step", "max_boxes"},
    "proposals": STAGE | {"trunk_factor"},
    "names": STAGE | {"background", "box_noise"},
    "localizer": (STAGE - {"keep"}) | {"anchors", "groups", "lr_factors", "task"},
}
DATA = {"augment", "sampling", "small_factor", "versions"}
TASK = {
    *("activation_checkpointing", "class_dropout", "classes_per_step", "denoising", "mixed_precision"),
    *("relaxed_cosine", "target_repeats"),
}
RECIPE = TrainRecipe(names=NamesStage(), proposals=ProposalStage())


@pytest.mark.parametrize("name", KEYS)
def test_runs_of_earlier_versions_resume(name: str) -> None:
    settings = stage_settings(RECIPE.to_dict(), name)
    assert set(settings) == {f"{name}.{key}" for key in KEYS[name]} | {f"data.{key}" for key in DATA}
    if name == "localizer":
        assert set(settings["localizer.task"]) == TASK


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("localizer.objectness=plain", "localizer.objectness"),
        ("localizer.variant=top-2", "localizer.variant"),
        ("localizer.architecture={'dec_layers': 2}", "localizer.architecture"),
        ("localizer.task.proposals=False", "localizer.task"),
        ("data.repeat_threshold=0.01", "data.repeat_threshold"),
    ],
)
def test_a_setting_that_is_used_is_part_of_the_run(setting: str, key: str) -> None:
    changed = stage_settings(override(RECIPE, [setting]).to_dict(), "localizer")
    assert changed != stage_settings(RECIPE.to_dict(), "localizer")
    assert key in changed
