"""Class groups from files: of `cora groups`, and of the published cluster_classes.py."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cora.errors import TrainingError
from cora.training.group_file import read_groups, stage_groups
from cora.training.recipe import LocalizerStage

#: Ids as in LVIS without its rare classes: not all of 1..C, and not in the order of the names.
DATASET: Any = SimpleNamespace(
    class_names=("red cup", "bow_(weapon)", "zebra"), category_ids={"red cup": 4, "bow_(weapon)": 2, "zebra": 5}
)


def test_published_files_go_by_category_id(tmp_path: Path) -> None:
    torch.save({1: 9, 2: 0, 3: 9, 4: 7, 5: 0}, tmp_path / "lvis_cluster_50.pth")
    assert read_groups(tmp_path / "lvis_cluster_50.pth", DATASET) == [7, 0, 0]
    stage = LocalizerStage(groups_file=str(tmp_path / "lvis_cluster_50.pth"))
    vocabulary: Any = SimpleNamespace()
    assert stage_groups(stage, DATASET, vocabulary) == [7, 0, 0]
    assert stage_groups(LocalizerStage(), DATASET, vocabulary) is None


@pytest.mark.parametrize("wrap", [True, False])
def test_json_goes_by_name(tmp_path: Path, wrap: bool) -> None:
    groups = {"Red Cup": 1, "bow (weapon)": 2, "zebra": 1, "other": 3}
    content = {"command": ["cora", "groups"], "groups": groups} if wrap else groups
    (tmp_path / "groups.json").write_text(json.dumps(content))
    assert read_groups(tmp_path / "groups.json", DATASET) == [1, 2, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({2: 0, 4: 1}, "expected a group of each of 3 classes, got 1 without: zebra"),
        ({"a": 1}, "got 3 without"),
        ([1, 2], "got other content"),
        ({2: 0.5}, "got other content"),
        (Path("a"), "could not read it"),
    ],
)
def test_bad_files(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "groups.pth")
    with pytest.raises(TrainingError, match=message) as raised:
        read_groups(tmp_path / "groups.pth", DATASET)
    assert "weights_only" not in str(raised.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="could not read it"):
        read_groups(tmp_path / "none.json", DATASET)


def test_groups_are_made_or_read() -> None:
    with pytest.raises(TrainingError, match="a number of groups or a groups_file, got both"):
        LocalizerStage(groups=3, groups_file="a.json")
