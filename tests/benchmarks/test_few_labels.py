"""The benchmark of few labels: its drawing of boxes, and its cells on toy images."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.few_labels import WAYS, draw_few, main
from tests.toy_nano import toy_nano, write_boxed_photos

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=20), st.integers(1, 6), st.integers(0, 3))
def test_every_class_has_enough_boxes_or_all_and_no_image_is_for_nothing(
    classes: list[list[int]], boxes: int, seed: int
) -> None:
    chosen = draw_few(classes, boxes, seed)
    assert chosen == sorted(set(chosen)) == draw_few(classes, boxes, seed)
    total = Counter(label for one in classes for label in one)
    found = Counter(label for place in chosen for label in classes[place])
    assert all(found[label] >= min(boxes, count) for label, count in total.items())
    # The image drawn last gave what was missing, whichever it was.
    assert not chosen or any(
        any(found[label] - one.count(label) < min(boxes, total[label]) for label in one)
        for one in (classes[place] for place in chosen)
    )


def test_images_with_fewer_boxes_beyond_come_first_and_chance_decides_between_equals() -> None:
    crowded, single = [[0] * 9, [0] * 9], [[0]] * 20
    drawn = {tuple(draw_few([*crowded, *single], 3, seed)) for seed in range(10)}
    assert all(len(places) == 3 and min(places) >= 2 for places in drawn)
    assert len(drawn) > 5
    assert draw_few([[0, 0], [0, 1], [1]], 1, 0) in ([1], [0, 2])
    assert draw_few([[0] * 5], 1, 0) == [0]


@pytest.mark.integration
def test_cells_are_run_once_and_written_as_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    model, output = tmp_path / "model.safetensors", tmp_path / "few"
    toy_nano(tmp_path / "cache").save(model)
    photos = write_boxed_photos(tmp_path / "photos")
    command = ["--images", str(photos / "images"), "--annotations", str(photos / "boxes.json"), "--model", str(model)]
    command += ["--output", str(output), "--hold-out", "0.34", "--boxes", "1", "2", "--steps", "1", "1"]
    main([*command, "--boxes", "1"])
    results = json.loads((output / "results.json").read_text())
    assert set(results["cells"]) == {"names", *(f"{way} 1 0" for way in WAYS if way != "names")}
    assert len(results["about"]["held out"]) == 2
    for cell in results["cells"].values():
        assert 0 <= cell["ap50"] <= 1
        assert len(cell["resampled"]) == 200
        assert (cell["images"], cell["boxes"]) == (1, {"red square": 1, "blue square": 1})
    assert list((output / "runs").iterdir()) == []
    lines = (output / "table.md").read_text().splitlines()
    assert lines[0] == "| AP50, % | 1 a class (2 boxes, 1 images) | s |"
    assert [line.split(" | ")[0] for line in lines[2 : 2 + len(WAYS)]] == [f"| {way}" for way in WAYS]
    capsys.readouterr()
    monkeypatch.setattr("benchmarks.few_labels.WAYS", {way: None for way in WAYS})  # none is called again
    main([*command, "--boxes", "1"])
    assert capsys.readouterr().out.splitlines() == lines
    with pytest.raises(SystemExit, match="has cells of another steps; name another --output"):
        main([*command, "--steps", "2", "1"])
