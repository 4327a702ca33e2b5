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
    data, more = tmp_path / "kit" / "coco_ovd_mini", tmp_path / "kit" / "coco_more"
    for folder in (data / "train", data / "val", more / "photos"):
        shutil.copytree(boxed_photos / "images", folder)
    content = json.loads((boxed_photos / "annotations.json").read_text())
    base = [entry for entry in content["annotations"] if entry["category_id"] != 3]
    (data / "val.json").write_text(json.dumps(content))
    some = [entry for entry in content["annotations"] if entry["image_id"] < 5]
    (data / "train_all.json").write_text(json.dumps(content | {"images": content["images"][:5], "annotations": some}))
    (data / "train_base.json").write_text(
        json.dumps(content | {"annotations": base, "categories": content["categories"][:2]})
    )
    shutil.copy(data / "val.json", more / "all.json")
    shutil.copy(data / "train_base.json", more / "base.json")
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


def test_another_detector_labels_the_images_of_another_set(
    recipe: ModuleType, kit: Path, tiny_model: Path, tmp_path: Path
) -> None:
    teacher, run = tmp_path / "teacher.safetensors", tmp_path / "run"
    shutil.copy(tiny_model, teacher)
    arguments = ["--kit", str(kit), "--run", str(run), "--model", str(tiny_model), "--data", "coco_more"]
    arguments += ["--teacher", str(teacher), "--names", "list", "--proposals", "--score", "0", "--rounds", "2"]
    recipe.main([*arguments, "--resamples", "10"])
    for number in (1, 2):
        labelled = json.loads((run / f"round{number}.json").read_text())["annotations"]
        assert {entry["source"]["model"] for entry in labelled if "source" in entry} == {teacher.name}
    assert "teacher.safetensors" in (run / "table.md").read_text()
    with pytest.raises(SystemExit, match=r"has results of teacher .*teacher.safetensors, not None; name another --run"):
        recipe.main([*(word for word in arguments if word not in ("--teacher", str(teacher))), "--resamples", "10"])


def test_images_with_captions_join_those_with_boxes(
    recipe: ModuleType, kit: Path, boxed_photos: Path, tiny_model: Path, tmp_path: Path
) -> None:
    captioned, run = tmp_path / "flickr", tmp_path / "run"
    (captioned / "images").mkdir(parents=True)
    lines = ["image,caption"]
    for number, text in enumerate(("A red square , alone .", "A blue square .", "Nothing to see .")):
        shutil.copy(boxed_photos / "images" / f"{number}.png", captioned / "images" / f"seen{number}.png")
        lines += [f"seen{number}.png,{text}", f"seen{number}.png,It lies there ."]
    (captioned / "captions.txt").write_text("\n".join(lines) + "\n")
    arguments = ["--kit", str(kit), "--run", str(run), "--model", str(tiny_model), "--names", "captions"]
    with pytest.raises(SystemExit, match="2"):
        recipe.main(arguments)
    recipe.main([*arguments, "--captioned", str(captioned), "--weight", "0.5", "--score", "0", "--resamples", "10"])
    content = json.loads((run / "round1.json").read_text())
    files = {image["id"]: image["file_name"] for image in content["images"]}
    made = {files[entry["image_id"]] for entry in content["annotations"] if "source" in entry}
    assert made == {"seen0.png", "seen1.png"}
    assert {"0.png", "9.png"} < {path.name for path in (run / "images").iterdir()}
    settings = json.loads((run / "round-1" / "localizer" / "run.json").read_text())
    assert settings["data.pseudo_weight"] == 0.5
