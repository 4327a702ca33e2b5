"""The CORA+ recipe on toy images: every round is labelled, trained and measured; a second call does nothing again."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.integration

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPES))
    for name in ("ablation", "cora_plus"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import cora_plus

    return cora_plus


@pytest.fixture
def kit(boxed_photos: Path, tmp_path: Path) -> Path:
    data = tmp_path / "kit" / "coco_ovd_mini"
    for part in ("train", "val"):
        shutil.copytree(boxed_photos / "images", data / part)
    content = json.loads((boxed_photos / "annotations.json").read_text())
    base = [entry for entry in content["annotations"] if entry["category_id"] != 3]
    (data / "val.json").write_text(json.dumps(content))
    some = [entry for entry in content["annotations"] if entry["image_id"] < 5]
    (data / "train_all.json").write_text(json.dumps(content | {"images": content["images"][:5], "annotations": some}))
    (data / "train_base.json").write_text(
        json.dumps(content | {"annotations": base, "categories": content["categories"][:2]})
    )
    shutil.copy(boxed_photos / "split.json", data / "class_split.json")
    return tmp_path / "kit"


@pytest.mark.parametrize("names", ["tags", "list", "object"])
def test_rounds_are_labelled_trained_and_measured_once(
    recipe: ModuleType, kit: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    run = tmp_path / "run"
    arguments = ["--kit", str(kit), "--run", str(run), "--model", str(tiny_model), "--names", names]
    arguments += ["--score", "0", "--rounds", "2", "--resamples", "10"]
    recipe.main(arguments)
    rows = [line.split(" | ")[0] for line in (run / "table.md").read_text().splitlines()[4:]]
    assert rows == ["| start", "| base boxes", "| round 1", "| round 2"]
    labelled = json.loads((run / "round1.json").read_text())
    third = "object" if names == "object" else "blue square"
    assert {entry["name"] for entry in labelled["categories"]} == {"red square", "green square", third}
    made = [entry for entry in labelled["annotations"] if "source" in entry]
    assert made
    assert {entry["source"]["model"] for entry in made} == {tiny_model.name}
    if names == "tags":
        assert (run / "tags.csv").read_text().splitlines()[:2] == ["file,tags", "0.png,green square;red square"]
    second = json.loads((run / "round2.json").read_text())["annotations"]
    assert {entry["source"]["model"] for entry in second if "source" in entry} == {"model.safetensors"}
    table = (run / "table.md").read_text()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(recipe, "measure", refuse)
    recipe.main(arguments)
    assert (run / "table.md").read_text() == table
