"""`--class-weights` of the commands that look for names: the boxes of `predict`, and bad input in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cora
from cora.apps.cli import main
from cora.data.class_weights import any_weights, weights_of_names
from cora.errors import DataError

NAMES = ("red square", "green square", "blue square")


def boxes_of(file: Path) -> list[list[float]]:
    """Corner, sides and score of every box."""
    content: dict[str, Any] = json.loads(file.read_text())
    return sorted([*box["bbox"], box["score"]] for box in content["annotations"])


def test_detect_and_batch_find_what_predict_finds(tiny_model: Path, boxed_photos: Path, tmp_path: Path) -> None:
    photo = boxed_photos / "images" / "0.png"
    weights = {"green square": 1e5}
    (tmp_path / "weights.json").write_text(json.dumps(weights))
    names = ["--classes", ", ".join(NAMES), "--model", str(tiny_model), "--device", "cpu", "--score", "0"]
    found = {}
    for given in ("", "green_square=1e5", str(tmp_path / "weights.json")):
        output = tmp_path / "boxes.json"
        weighted = ["--class-weights", given] if given else []
        drawn = ["--output", str(tmp_path / "drawn"), "--json", str(output)]
        assert main(["detect", str(photo), *names, *weighted, *drawn]) == 0
        found[given] = boxes_of(output)
    plain, by_name, by_file = found.values()
    detections = cora.load(tiny_model).predict(photo, NAMES, score=0.0, class_weights=weights)
    assert by_name == by_file
    expected = [[*(round(v, 2) for v in one["bbox"]), round(one["score"], 5)] for one in detections.to_coco(1)]
    assert by_name == sorted(expected)
    assert by_name != plain
    for given, known in (("", plain), ("green square=1e5", by_name)):
        folder = tmp_path / f"batch{len(given)}"
        weighted = ["--class-weights", given] if given else []
        command = ["batch", str(photo), *names, *weighted, "--output", "coco", "--to", str(folder)]
        assert main(command) == 0
        labels = boxes_of(folder / "annotations.json")
        best, most = (sorted((one[4] for one in several), reverse=True)[:10] for several in (labels, known))
        assert best == pytest.approx(most, abs=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("yellow square=8", "expected NAME=WEIGHT for one of red square, green square, blue square, or a file"),
        ("red square=0", "expected a weight above 0, got '0'"),
        ("red square=2,Red_Square=3", "expected one weight a class, got two of 'red square'"),
        ("none.json", "cannot read none.json"),
    ],
)
def test_bad_weights_are_one_line(
    tiny_model: Path,
    boxed_photos: Path,
    tmp_path: Path,
    given: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "drawn"
    photo = str(boxed_photos / "images" / "0.png")
    command = ["detect", photo, "--classes", ", ".join(NAMES), "--model", str(tiny_model), "--output", str(output)]
    assert main([*command, "--class-weights", given]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not output.exists()


def test_weights_of_names_that_come_later(tmp_path: Path) -> None:
    (tmp_path / "weights.json").write_text('{"bus": 8, "red_cup": 0.5}')
    assert any_weights(str(tmp_path / "weights.json")) == {"bus": 8.0, "red_cup": 0.5}
    assert any_weights("bus=8, cat=2") == {"bus": 8.0, "cat": 2.0}
    assert any_weights(None) == {}
    with pytest.raises(DataError, match="expected a weight above 0"):
        any_weights("bus=-1")
    for second in ("Bus", "bus"):
        (tmp_path / "twice.json").write_text(f'{{"bus": 8, "{second}": 0.5}}')
        with pytest.raises(DataError, match="expected one weight a class, got two of 'bus' in"):
            any_weights(str(tmp_path / "twice.json"))
    with pytest.raises(DataError, match="cannot read"):
        any_weights(str(tmp_path / "none.json"))


def test_weights_by_name() -> None:
    assert weights_of_names(None, NAMES) == {}
    assert weights_of_names("Red_Square = 2, blue square=0.5", NAMES) == {"red square": 2.0, "blue square": 0.5}


@pytest.mark.parametrize("read", [any_weights, lambda given: weights_of_names(given, NAMES)])
def test_a_path_may_contain_an_equals_sign(tmp_path: Path, read: Callable[[str], dict[str, float]]) -> None:
    file = tmp_path / "lr=0.1" / "weights.json"
    file.parent.mkdir()
    file.write_text('{"red_square": 8}', encoding="utf-8-sig")
    assert {name.replace("_", " "): weight for name, weight in read(str(file)).items()} == {"red square": 8.0}


def test_more_weights_than_a_file_name_has_letters() -> None:
    names = [f"class {number}" for number in range(60)]
    given = ",".join(f"{name}=2" for name in names)
    assert weights_of_names(given, names) == any_weights(given) == dict.fromkeys(names, 2.0)
