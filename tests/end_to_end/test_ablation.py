"""The ablation recipe on toy images: every row trains and is measured, a second call only prints."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from cora.training.recipe import PromptStage, StageSchedule
from cora.training.variants import VARIANTS

pytestmark = pytest.mark.integration

RECIPE = Path(__file__).parents[2] / "recipes" / "ablation.py"


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablation", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kit(boxed_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kit")
    data = folder / "coco_ovd_mini"
    for part, annotations in (("train", "train_base.json"), ("val", "val.json")):
        shutil.copytree(boxed_photos / "images", data / part)
        shutil.copy(boxed_photos / "annotations.json", data / annotations)
    shutil.copy(boxed_photos / "split.json", data / "class_split.json")
    return folder


def test_every_row_is_measured_once(
    ablation: ModuleType, kit: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "SMALL_PROMPTS", PromptStage(epochs=1, batch=4, schedule=StageSchedule()))
    arguments = ["--kit", str(kit), "--run", str(tmp_path), "--model", str(tiny_model)]
    arguments += ["--steps", "3", "--resamples", "10", "--seeds", "0", "1"]
    ablation.main([*arguments, "--rows", "full", "oracle-at-test"])
    ablation.main([*arguments, "--seeds", "0"])
    content = json.loads((tmp_path / "table.json").read_text())
    assert [row["row"] for row in content["rows"]] == list(VARIANTS)
    assert content["steps"] == 3
    for row in content["rows"]:
        assert row["ap50"].keys() == {"novel", "base", "all"}
        assert len(row["resampled"]["novel"]) == 10
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].startswith("3 steps of 4 images a row, seeds 0, 10 images")
    assert sum(line.startswith("| ") for line in lines) == len(VARIANTS) + 2
    for name, variant in VARIANTS.items():
        trained = (tmp_path / "rows" / f"{name.replace(' ', '_')}-seed0" / "last.pt").exists()
        assert trained == (variant.weights_of is None)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(ablation, "train", refuse)
    ablation.main([*arguments, "--seeds", "0"])
    assert json.loads((tmp_path / "table.json").read_text()) == content
    # Other labels than the annotated ones are used where relabelling is part of a row, and only there.
    whole = ablation.Ablation(kit=kit, run=tmp_path, model=str(tiny_model), seeds=[0], resamples=10, limit=None)
    annotated = whole.labels(VARIANTS["no-relabelling"])
    assert annotated.tolist() == [c for record in whole.train_set.records for c in record.classes.tolist()]
    assert whole.labels(VARIANTS["full"]).tolist() != annotated.tolist()
