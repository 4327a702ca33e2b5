"""The benchmark of the grid that regions are pooled to, on toy images."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks.roi_size import COLUMNS, GROUPS, main
from cora.apps.cli import main as cora
from tests.toy_nano import nano_config, toy_nano, write_boxed_photos

pytestmark = pytest.mark.integration


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """A folder laid out as the kit: train and val are the same six images, one class is novel."""
    folder = write_boxed_photos(tmp_path / "kit")
    for part, boxes in (("train", "train_base.json"), ("val", "val.json")):
        shutil.copytree(folder / "images", folder / part)
        shutil.copy(folder / "boxes.json", folder / boxes)
    shutil.copy(folder / "split.json", folder / "class_split.json")
    return folder


def table_rows(text: str, head: str) -> list[list[str]]:
    """Cells of the rows of a table whose first line starts so."""
    lines = text.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith(head)) + 2
    end = next((place for place in range(first, len(lines)) if not lines[place]), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first:end]]


def test_every_way_is_measured_as_the_command_measures_it(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = tmp_path / "nano.safetensors", tmp_path / "roi"
    toy_nano(tmp_path / "cache", nano_config(detector=False, box_stages=(3, 4), fine_bins=2), seed=1).save(model)
    command = ["--kit", str(kit), "--output", str(output), "--model", str(model), "--sizes", "5", "--epochs", "1"]
    command += ["--resamples", "20", "--timed", "2", "--rounds", "1", "--threads", "1"]
    main([*command, "--ways", "none", "own", "fresh", "trained"])
    text = (output / "table.md").read_text()
    assert text in capsys.readouterr().out
    columns = len(GROUPS) * len(COLUMNS)
    assert "6 (base, all)" in text
    rows = {(way, size): cells for way, size, *cells in table_rows(text, "| prompt | S |")}
    # 3 is the model's own.
    assert list(rows) == [(way, size) for way in ("none", "own", "fresh", "trained") for size in ("3", "5")]
    assert all(len(cells) == columns for cells in rows.values())
    changes = table_rows(text[text.index("Minus") :], "| prompt | S |")
    assert [row[:2] for row in changes] == [list(key) for key in rows if key != ("own", "3")]
    times = table_rows(text, "| S | pooling")
    assert [row[0] for row in times] == ["3", "5"]
    assert times[0][2:] == ["1.00 (1.00 to 1.00)"] * 2
    prompts = {way: load_file(output / "runs" / f"{way}-5" / "prompts.safetensors") for way in ("fresh", "trained")}
    assert all(found["prompt.offset"].shape[0] == 25 for found in prompts.values())
    assert prompts["fresh"]["prompt.offset"].abs().mean() < prompts["trained"]["prompt.offset"].abs().mean()
    assert len(list((output / "maps" / "plain" / "version_000").iterdir())) == 6  # once for all prompts

    numbers = tmp_path / "regions.json"
    for way, path in (("own", model), ("fresh", output / "runs" / "fresh-5" / "prompts.safetensors")):
        measure = ["region-accuracy", "--images", str(kit / "val"), "--annotations", str(kit / "val.json")]
        measure += ["--split", str(kit / "class_split.json"), "--model", str(path), "--resamples", "20"]
        assert cora([*measure, "--json", str(numbers), "--device", "cpu"]) == 0
        accuracy = json.loads(numbers.read_text())["accuracy"]["prompt"]
        cells = rows[way, "3" if way == "own" else "5"]
        for cell, (group, size) in zip(cells, ((g, s) for g in GROUPS for s in COLUMNS), strict=True):
            found = accuracy[group][size]["top1"]
            expected = "-"
            if found["value"] is not None:
                expected = f"{100 * found['value']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
            assert cell == expected

    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")}
    main([*command, "--ways", "own", "--timed", "0"])
    assert "pooling and naming" not in (output / "table.md").read_text()
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")} == before  # nothing is measured again
    with pytest.raises(SystemExit, match="has results of other epochs; name another --output"):
        main([*command, "--epochs", "2"])
