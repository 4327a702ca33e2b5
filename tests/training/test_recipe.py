"""Recipes: checked where they are made, changed by settings, read from files."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cora.detector.checkpoint import read_config
from cora.detector.presets import embedded_file
from cora.errors import TrainingError
from cora.training.batches import batch_lines, fit_workers
from cora.training.defaults import FINETUNE_EPOCHS, TRUNK_EPOCHS, default_recipe, finetune_recipe, published_recipe
from cora.training.denoising import DenoisingConfig
from cora.training.identity import stage_settings
from cora.training.override import override
from cora.training.recipe import (
    LocalizerStage,
    NamesStage,
    PromptStage,
    StageSchedule,
    TrainRecipe,
    load_recipe,
)


def test_the_defaults_are_the_published_numbers() -> None:
    recipe = TrainRecipe()
    assert recipe.prompts is not None
    assert recipe.localizer is not None
    assert (recipe.prompts.epochs, recipe.prompts.lr, recipe.prompts.batch, recipe.prompts.weight_decay) == (
        *(5, 1e-4, 32),
        1e-4,
    )
    schedule = recipe.prompts.schedule.config(steps_an_epoch=10, epochs=5)
    assert [schedule.factor(step) for step in (0, 39, 40, 49)] == pytest.approx([1, 1, 0.1, 0.1])
    assert (recipe.localizer.epochs, recipe.localizer.lr, recipe.localizer.ema) == (35, 1e-4, 0.99996)
    assert (recipe.localizer.grad_clip, recipe.localizer.task.class_dropout) == (0.1, 0.2)
    assert recipe.localizer.schedule.config(steps_an_epoch=10, epochs=35).factor(349) == 1


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("seed=3", ("seed",), 3),
        ("model=runs/a.safetensors", ("model",), "runs/a.safetensors"),
        ("model=5", ("model",), "5"),
        ("localizer.lr=1", ("localizer", "lr"), 1.0),
        ("localizer.precision=16", ("localizer", "precision"), "16"),
        ("localizer.grad_clip=none", ("localizer", "grad_clip"), None),
        ("localizer.task.class_dropout=0", ("localizer", "task", "class_dropout"), 0.0),
        ("localizer.task.denoising.groups=2", ("localizer", "task", "denoising"), DenoisingConfig(groups=2)),
        ("data.augment.short_sides=[480, 512]", ("data", "augment", "short_sides"), (480, 512)),
        ("data.sampling=repeat-factor", ("data", "sampling"), "repeat-factor"),
        ("localizer.lr_factors={'detector.localizer.encoder': 0.1}", ("localizer", "lr_factors"), None),
        ("relabel.plot=true", ("relabel", "plot"), True),
        ("relabel=None", ("relabel",), None),
        ("names.lr=0.5", ("names", "lr"), 0.5),
        ("prompts.schedule.kind=cosine", None, "milestones"),
        ("prompts.schedule={}", None, "expected StageSchedule"),
        ("localizer.epochs=2.5", None, "expected int, got 2.5"),
        ("localizer.epochs=True", None, "expected int, got True"),
        ("localizer.lr=nan", None, "expected float"),
        ("localizer.lr=-1", None, "expected lr above 0"),
        ("localizer.ema=1", None, "expected ema in 0..1"),
        ("localizer.keep=1", None, "expected keep in 0..1"),
        ("names.prototypes=0.5", ("names", "prototypes"), 0.5),
        ("names.prototypes=1.5", None, "expected prototypes in 0..1, got 1.5"),
        ("names.prototypes=-1", None, "expected prototypes in 0..1, got -1"),
        ("data.sampling=rare", None, "'rare'"),
        ("data.pseudo_weight=0.5", ("data", "pseudo_weight"), 0.5),
        ("data.pseudo_weight=0", None, "expected pseudo_weight above 0, got 0"),
        ("data.augment.crop_sides=(400,)", None, "expected two sides, the least and the greatest"),
        ("data.augment.crop_sides=()", None, "expected two sides, the least and the greatest"),
        ("data.augment.crop_short_sides=(0,)", None, "crop_short_sides: expected whole numbers of 1 or more"),
        ("data.augment.short_sides=(96.5,)", None, "short_sides: expected whole numbers of 1 or more"),
        ("localizer.lr_factors={'localizer': 'x'}", None, "expected {'name': number}, got {'localizer': 'x'}"),
        ("localizer.lr_factors={1: 2}", None, "expected {'name': number}, got {1: 2}"),
        ("localizer.lr_factors={[]: 1}", None, "expected {'name': number}, got "),
        ("localizer.lr=1e400", None, "expected float, got inf"),
        (f"localizer.lr={10**400}", None, "expected float, got 1000"),
        ("seed=-1", None, "expected seed of at least 0"),
        (f"seed={2**63}", None, "expected a seed below 2"),
        ("prompts.balance=equal", None, "set prompts.max_boxes"),
        ("prompts.pool_size=6", ("prompts", "pool_size"), 6),
        ("prompts.pool_size=None", ("prompts", "pool_size"), None),
        ("prompts.pool_size=0", None, "expected pool_size in 1..32, got 0"),
        ("prompts.pool_size=100", None, "expected pool_size in 1..32, got 100"),
        ("prompts.pool_size=6.5", None, "expected int or None, got 6.5"),
        ("seed.more=1", None, "seed has no parts"),
        ("sed=1", None, "unknown key 'sed'; expected one of model"),
        ("seed", None, "expected a setting key=value"),
    ],
)
def test_settings(setting: str, path: tuple[str, ...] | None, value: object) -> None:
    before = TrainRecipe()
    if path is None:
        with pytest.raises(TrainingError) as caught:
            override(before, [setting])
        assert str(value) in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    found: object = override(before, [setting])
    for name in path:
        found = getattr(found, name)
    if path[-1] == "lr_factors":
        value = {"detector.localizer.encoder": 0.1}
    assert found == value
    assert type(found) is type(value)
    assert before == TrainRecipe()


def test_settings_that_fit_each_other_only_are_applied_together() -> None:
    settings = ["prompts.schedule.kind=step", "prompts.schedule.milestones=(3, 5)"]
    before = TrainRecipe(prompts=PromptStage(schedule=StageSchedule(kind="cosine")))
    for order in (settings, settings[::-1]):
        found = override(before, order)
        assert found.prompts is not None
        assert found.prompts.schedule == StageSchedule(kind="step", milestones=(3, 5))
    with pytest.raises(TrainingError, match="milestones with kind 'step'"):
        override(before, settings[:1])


def test_later_settings_win_and_others_stay() -> None:
    found = override(TrainRecipe(), ["localizer.epochs=3", "localizer.epochs=4"])
    assert found.localizer == LocalizerStage(epochs=4)
    assert found.prompts == PromptStage()


def test_fewer_epochs_than_milestones() -> None:
    stage = PromptStage(epochs=2)
    assert stage.schedule.config(steps_an_epoch=3, epochs=stage.epochs).factor(5) == 1


def test_parts_that_do_not_go_together() -> None:
    with pytest.raises(TrainingError, match="got none of them"):
        TrainRecipe(prompts=None, localizer=None)
    with pytest.raises(TrainingError, match="milestones with kind 'step'"):
        StageSchedule(kind="step")


@given(st.integers(1, 5000), st.sampled_from([96, 384, 480]))
def test_finetuning_takes_as_many_steps_for_any_set(photos: int, short_side: int) -> None:
    recipe = finetune_recipe("nano", short_side=short_side, photos=photos)
    assert isinstance(recipe.names, NamesStage)
    assert recipe.localizer is not None
    assert recipe.localizer.batch <= photos
    assert FINETUNE_EPOCHS[0] <= recipe.localizer.epochs <= FINETUNE_EPOCHS[1]
    assert recipe.localizer.anchors == "keep"
    assert recipe.prompts is None  # it is shared by all names, the old ones too


@given(st.integers(1, 5000))
def test_a_trunk_learns_before_the_decoder(photos: int) -> None:
    recipe = finetune_recipe("nano", short_side=640, photos=photos, trunk=True)
    assert recipe.proposals is not None
    assert recipe.localizer is not None
    assert recipe.proposals.batch <= photos
    assert TRUNK_EPOCHS[0] <= recipe.localizer.epochs <= recipe.proposals.epochs <= TRUNK_EPOCHS[1]
    assert [line.partition(":")[0] for line in batch_lines(recipe, processes=1)] == ["proposals", "names", "localizer"]


def test_no_more_processes_read_images_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    recipe = published_recipe("RN50-quickgelu")
    fitted, line = fit_workers(recipe)
    assert recipe.data.workers == 4
    assert (fitted.data.workers, replace(fitted, data=recipe.data)) == (2, recipe)
    assert line == "data.workers: 2 processes read images, not 4: as many as there are cores"
    assert fit_workers(fitted) == (fitted, None)


def test_large_photos_take_the_published_recipe() -> None:
    assert default_recipe("RN50-quickgelu", short_side=800) == TrainRecipe(model="RN50-quickgelu")
    small = default_recipe("nano", short_side=384)
    assert small.data.versions > 0
    assert max(small.data.augment.short_sides) == 384


def test_the_published_recipe_starts_and_measures_as_published() -> None:
    recipe = published_recipe("RN50-quickgelu")
    assert recipe.localizer is not None
    assert (recipe.localizer.anchors, recipe.localizer.objectness) == ("normal", "plain")
    assert (recipe.all_boxes, recipe.processes) == (True, 8)
    assert batch_lines(recipe, processes=8) == [
        "prompts: 32 images a step, 4 in 8 processes",
        "localizer: 32 images a step, 4 in 8 processes",
    ]
    on_two = batch_lines(override(recipe, ["localizer.accumulate=4"]), processes=2)
    assert on_two[0].endswith("the recipe means 32, 4 in 8 processes: --set prompts.accumulate=4 makes up for it")
    assert on_two[1] == "localizer: 32 images a step, 4 in 2 processes, 4 times"
    assert batch_lines(recipe, processes=3)[0].endswith("the recipe means 32, 4 in 8 processes")
    halved = override(recipe, ["localizer.batch=2"])  # the recipe goes on meaning what it says
    assert batch_lines(halved, processes=8, written=recipe)[1] == (
        "localizer: 16 images a step, 2 in 8 processes; the recipe means 32, 4 in 8 processes: "
        "--set localizer.accumulate=2 makes up for it"
    )
    assert batch_lines(replace(recipe, processes=None), processes=3)[0] == "prompts: 12 images a step, 4 in 3 processes"
    with pytest.raises(TrainingError, match="repeat_threshold of at most 1"):
        override(recipe, ["data.repeat_threshold=2"])


def test_nano_takes_the_settings_for_a_cpu() -> None:
    with embedded_file("nano") as file:
        config, _ = read_config(file)
    recipe = default_recipe("nano", short_side=config.preprocess.usual_short_side)
    assert recipe != TrainRecipe(model="nano")
    assert recipe.data.versions > 0


def test_recipe_files(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("from cora.training.recipe import *\n\ndef recipe():\n    return TrainRecipe(seed=7)\n")
    assert load_recipe(path) == TrainRecipe(seed=7)
    path.write_text("from cora.training.recipe import *\n\ndef recipe():\n    return TrainRecipe(seed=-1)\n")
    with pytest.raises(TrainingError, match="expected seed of at least 0, got -1"):
        load_recipe(path)


def test_a_recipe_is_written_as_plain_values() -> None:
    content = TrainRecipe().to_dict()
    assert content["data"]["augment"]["crop_sides"] == [384, 600]
    assert content["names"] is None


def test_runs_of_before_the_pool_size_resume() -> None:
    own = stage_settings(TrainRecipe().to_dict(), "prompts")
    assert "prompts.pool_size" not in own
    changed = stage_settings(override(TrainRecipe(), ["prompts.pool_size=6"]).to_dict(), "prompts")
    assert changed == own | {"prompts.pool_size": 6}
