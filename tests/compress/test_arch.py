"""The search: holds its budget, goes on where it stopped, finds the best of what it tried, and draws it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

import cora
from cora.apps.cli import main
from cora.compress.arch import (
    BEST_MODEL,
    BEST_SIZES,
    RESULTS,
    Candidate,
    best,
    choices,
    pareto_front,
    search,
    sizes_of,
)
from cora.compress.arch_plot import BOTTOM, RIGHT, SIZE, draw_search
from cora.compress.arch_sizes import Architecture
from cora.errors import ModelError
from cora.regions import FastAlignment
from tests.compress.toy_smaller import toy_detector, toy_pictures

BASE = Architecture(
    width=32, layers=(2, 2, 3, 2), enc_layers=1, dec_layers=2, ff=512, heads=4, anchors=200, short_side=384
)


@pytest.mark.parametrize("layers", [5, None, [2, 2, 3]])
def test_layers_are_four_numbers(layers: Any) -> None:
    with pytest.raises(ModelError, match="architecture layers: expected four numbers of blocks, got"):
        replace(BASE, layers=layers)


class Model:
    """Stands for a detector: what it is made of, and where it was saved."""

    def __init__(self, sizes: Architecture) -> None:
        self.sizes = sizes

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.sizes.to_dict()))


class FakeBench:
    """Time and quality that are known: both grow with every size."""

    def __init__(self) -> None:
        self.measured: list[Architecture] = []
        self.improved = 0
        self.stop_after: int | None = None
        self.whole_ms = 100.0

    def share(self, sizes: Architecture) -> float:
        whole, numbers = BASE.numbers(), sizes.numbers()
        return sum(numbers[name] / whole[name] for name in whole) / len(whole)

    def quality(self, model: Any) -> float:
        if self.stop_after is not None and len(self.measured) >= self.stop_after:
            raise KeyboardInterrupt
        self.measured.append(model.sizes)
        return self.share(model.sizes) ** 2

    def improve(self, model: Any) -> None:
        self.improved += 1

    def build(self, sizes: Architecture) -> Any:
        return Model(sizes)

    def milliseconds(self, model: Any) -> float:
        return 100 * self.share(model.sizes)


def candidate(milliseconds: float, quality: float | None) -> Candidate:
    return Candidate(BASE, milliseconds, quality)


WHOLE = candidate(100, 1.0)


def go(run: Path, bench: FakeBench, *, trials: int = 12, budget: float = 80.0) -> list[Candidate]:
    whole = Candidate(BASE, bench.whole_ms, 1.0)
    return search(whole, bench, budget_ms=budget, trials=trials, run_dir=run, config={"model": "toy"}, seed=0)


def test_choices_begin_with_the_model_itself() -> None:
    space = choices(BASE)
    assert sizes_of({name: values[0] for name, values in space.items()}, BASE) == BASE
    smallest = sizes_of({name: values[-1] for name, values in space.items()}, BASE)
    assert smallest == Architecture(
        width=16, layers=(1, 1, 1, 1), enc_layers=1, dec_layers=1, ff=128, heads=1, anchors=50, short_side=192
    )
    assert all(list(values) == sorted(set(values), reverse=True) for values in space.values())
    assert all(value % 2 == 0 for value in space["width"])
    tiny = choices(replace(BASE, width=2, ff=1, anchors=1, short_side=64))
    assert (tiny["width"], tiny["ff"], tiny["anchors"], tiny["short_side"]) == ((2,), (1,), (1,), (64,))


def test_budget_is_held_and_the_best_is_written(tmp_path: Path) -> None:
    fake = FakeBench()
    found = go(tmp_path, fake)
    assert len(found) == 12
    for one in found:
        assert (one.quality is None) == (one.milliseconds > 80)
    assert any(one.quality is None for one in found)
    assert all(100 * fake.share(sizes) <= 80 for sizes in fake.measured)
    sides = [one.sizes.short_side for one in found[:4]]
    assert [one.sizes for one in found[:4]] == [replace(BASE, short_side=side) for side in sides]
    winner = best(found, WHOLE)
    assert winner is not None
    assert winner.quality == max(one.quality for one in found if one.quality is not None)
    assert json.loads((tmp_path / BEST_SIZES).read_text()) == winner.sizes.to_dict()
    assert json.loads((tmp_path / BEST_MODEL).read_text()) == winner.sizes.to_dict()
    assert json.loads((tmp_path / RESULTS).read_text()) == [one.to_dict() for one in found]


@pytest.mark.slow
def test_it_learns_where_to_look(tmp_path: Path) -> None:
    found = go(tmp_path, FakeBench(), trials=60)
    halves = [[one.quality for one in part if one.quality is not None] for part in (found[:30], found[30:])]
    assert sum(halves[1]) / len(halves[1]) > sum(halves[0]) / len(halves[0])
    winner = best(found, WHOLE)
    assert winner is not None
    assert winner.milliseconds > 70  # quality grows with time, so the budget is used


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    fake = FakeBench()
    fake.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, fake)
    before = list(fake.measured)
    assert len(before) == 4
    fake.stop_after = None
    found = go(tmp_path, fake)
    tried = [one.sizes for one in found if one.quality is not None]
    assert tried[:4] == before
    assert len(set(fake.measured)) == len(fake.measured)  # none is measured twice
    assert go(tmp_path, fake) == found  # nothing is left to do
    assert len(go(tmp_path, fake, trials=15)) > len(found)
    with pytest.raises(ModelError, match="budget_ms was 80"):
        go(tmp_path, fake, budget=70)


def test_a_budget_that_nothing_holds(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ModelError, match="smallest architecture, got 10"):
        go(run, FakeBench(), budget=10)
    assert not (run / "search.json").exists()
    assert go(run, FakeBench(), trials=1)  # with more time the same folder serves


def test_candidates_within_the_budget_are_improved(tmp_path: Path) -> None:
    fake = FakeBench()
    go(tmp_path, fake)
    assert fake.improved == len(fake.measured) > 0


def test_pareto_front() -> None:
    points = [candidate(*pair) for pair in ((30, 0.5), (10, 0.2), (20, 0.6), (40, 0.6), (25, 0.7), (5, None))]
    front = [(one.milliseconds, one.quality) for one in pareto_front(points, WHOLE)]
    assert front == [(10, 0.2), (20, 0.6), (25, 0.7)]
    assert pareto_front([candidate(1, None)], WHOLE) == []
    assert best([candidate(1, None)], WHOLE) is None
    assert best([candidate(20, 0.5), candidate(10, 0.5)], WHOLE) == candidate(10, 0.5)
    assert pareto_front(points, candidate(20, 0.65)) == [candidate(10, 0.2), candidate(25, 0.7)]
    assert best([candidate(30, 0.9), candidate(10, 0.2)], candidate(20, 0.95)) == candidate(10, 0.2)


# Few values, so that ties occur.
MEASURED = st.tuples(st.sampled_from([10.0, 20.0, 30.0]), st.sampled_from([0.0, 0.5, 1.0]))


@given(st.lists(st.tuples(MEASURED, st.booleans()), max_size=8), MEASURED)
@example([((20.0, 0.5), True)], (10.0, 1.0))
def test_nothing_that_is_slower_and_worse_is_recommended(
    tried: list[tuple[tuple[float, float], bool]], known: tuple[float, float]
) -> None:
    whole = candidate(*known)
    found = [candidate(pair[0], pair[1] if within else None) for pair, within in tried]
    rivals = [(whole.milliseconds, known[1]), *(pair for pair, within in tried if within)]
    winner = best(found, whole)
    for one in (*pareto_front(found, whole), *([] if winner is None else [winner])):
        assert one.quality is not None
        for milliseconds, quality in rivals:  # no other is as good in both and better in one
            same = (milliseconds, quality) == (one.milliseconds, one.quality)
            assert same or milliseconds > one.milliseconds or quality < one.quality
    useful = [pair for pair, within in tried if within and (pair[0] < known[0] or pair[1] > known[1])]
    assert (winner is None) == (not useful)


def test_no_model_is_written_that_is_slower_and_worse_than_the_whole_one(tmp_path: Path) -> None:
    fake = FakeBench()
    fake.whole_ms = 1.0  # every candidate takes longer, and none is as good
    found = go(tmp_path, fake)
    assert any(one.quality is not None for one in found)
    assert not (tmp_path / BEST_MODEL).exists()
    assert not (tmp_path / BEST_SIZES).exists()


def test_the_best_is_written_again_where_another_lies(tmp_path: Path) -> None:
    found = go(tmp_path, FakeBench())
    winner = best(found, WHOLE)
    assert winner is not None
    (tmp_path / BEST_SIZES).write_text(json.dumps(BASE.to_dict()))
    (tmp_path / BEST_MODEL).write_text("another")
    assert go(tmp_path, FakeBench()) == found
    for name in (BEST_SIZES, BEST_MODEL):
        assert json.loads((tmp_path / name).read_text()) == winner.sizes.to_dict()


def test_the_picture_shows_front_and_budget() -> None:
    points = [candidate(10, 0.2), candidate(20, 0.6), candidate(25, 0.5), candidate(90, None)]
    options: dict[str, Any] = {"budget_ms": 30, "title": "toy", "quality": "agreement, %"}
    picture = draw_search(points, whole=candidate(60, 1.0), **options)
    colours = {colour for _, colour in picture.getcolors(10**6) or []}
    assert {(158, 202, 225), (8, 81, 156), (217, 95, 2), (120, 120, 120)} <= colours
    same = draw_search([candidate(10, 0.5)], whole=candidate(10, 0.5), **options)
    assert same.size == picture.size
    with pytest.raises(ValueError, match="got none"):
        draw_search([candidate(90, None)], whole=candidate(60, 1.0), **options)


@pytest.mark.parametrize("longest", [0.013, 7.0, 29.9, 40.0, 41.7, 144.0, 990.0])
def test_the_time_axis_ends_with_a_number_beyond_all(longest: float) -> None:
    points = [candidate(longest / 2, 0.2), candidate(longest / 3, 0.1)]
    whole = candidate(longest, 0.3)
    drawn = draw_search(points, whole=whole, budget_ms=longest / 1.2, title="toy", quality="agreement, %")
    end, below = SIZE[0] - RIGHT, SIZE[1] - BOTTOM + 4
    assert drawn.getpixel((end, below)) == (150, 150, 150)
    columns = np.flatnonzero((np.asarray(drawn) == (217, 95, 2)).all(axis=-1).any(axis=0))
    assert columns.max() < end


def times(*, whole: float, small: float) -> Callable[..., dict[str, float]]:
    """Stands for `median_ms`: toys take as long as the machine's noise."""
    return lambda detectors, *_, **__: {name: small if name == "small" else whole for name in detectors}


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cora.compress.arch_bench.median_ms", times(whole=2.0, small=1.0))
    model, photos, run = tmp_path / "toy.safetensors", tmp_path / "photos", tmp_path / "run"
    toy = toy_detector(tmp_path / "cache")
    toy.align_fast_pooling(FastAlignment(embed_dim=16))
    toy.save(model)
    photos.mkdir()
    for number, picture in enumerate(toy_pictures()):
        picture.save(photos / f"{number}.png")
    command = ["search-arch", "--model", str(model), "--images", str(photos), "--run", str(run), "--device", "cpu"]
    command += ["--budget", "60000", "--photos", "2", "--repeats", "1", "--classes", "red square, sky"]
    assert main([*command, "--trials", "2", "--json", str(tmp_path / "numbers.json")]) == 0
    out = capsys.readouterr().out
    assert "agreement" in out
    assert "whole model" in out
    loaded = cora.load(run / BEST_MODEL)
    assert Architecture.of(loaded.config).to_dict() == json.loads((run / BEST_SIZES).read_text())
    assert loaded.fast_alignment is not None
    assert bool(loaded.fast_alignment.shift.weight.any())  # fitted to the sizes
    assert len(loaded.predict(Image.open(photos / "0.png"), ["red square"], score=0.0)) > 0
    with Image.open(run / "pareto.png") as picture:
        assert picture.size == (900, 560)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["whole"]["milliseconds"] == 2.0
    assert {trial["milliseconds"] for trial in numbers["trials"]} == {1.0}
    assert main([*command, "--trials", "3"]) == 0
    assert len(json.loads((run / RESULTS).read_text())) == 3
    assert "3: " in capsys.readouterr().out
    for wrong, message in (
        (["--budget", "0.001"], "another configuration"),
        (["--budget", "0.001", "--run", str(tmp_path / "new")], "smallest architecture"),
        (["--images", str(tmp_path / "none")], "no file at"),
        (["--model", "model.onnx"], "exported"),
        (["--run", str(model)], "expected a folder"),
    ):
        assert main([*command, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main([*command, "--trials", "1", "--proxy-epochs", "1", "--run", str(tmp_path / "proxy")]) == 0
    assert not list((tmp_path / "proxy").glob("proxy-*"))
    monkeypatch.setattr("cora.compress.arch_bench.median_ms", times(whole=1.0, small=2.0))
    assert main([*command, "--trials", "2", "--run", str(tmp_path / "slower")]) == 2
    assert "expected a model that is faster or better than the whole one (1 ms), got none" in capsys.readouterr().err
    assert not (tmp_path / "slower" / BEST_MODEL).exists()
