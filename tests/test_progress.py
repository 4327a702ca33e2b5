"""Lines of progress in a log: at the start, every minute, at the end."""

import pytest

from cora.progress import ProgressLines, span


class Clock:
    """Time that goes on when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_line_at_the_start_every_minute_and_at_the_end() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = ProgressLines("training localizer", 400, write=lines.append, clock=clock)
    for step in range(400):
        clock.now += 1.5
        progress.update(step + 1, loss=1 / (step + 1))
    progress.end()
    progress.end()
    assert lines[0] == "cora: training localizer: 4 of 400, 1.5 s each, 10 min left, loss 0.25\n"
    assert lines[1] == "cora: training localizer: 44 of 400, 1.5 s each, 9 min left, loss 0.02273\n"
    assert len(lines) == 1 + 9 + 1
    assert lines[-1] == "cora: training localizer: 400 of 400 in 10 min, 1.5 s each, loss 0.0025\n"


def test_what_was_done_before_is_no_speed_of_now() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = ProgressLines("detecting", 1000, done=900, write=lines.append, clock=clock)
    clock.now += 60
    progress.update(960)
    progress.end()
    assert lines == [
        "cora: detecting: 960 of 1000, 1.0 a second, 40 s left\n",
        "cora: detecting: 960 of 1000 in 60 s, 1.0 a second, stopped\n",
    ]


def test_nothing_done_and_unknown_length() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = ProgressLines("reading", None, write=lines.append, clock=clock)
    clock.now += 61
    progress.update(0)
    progress.end()
    assert lines == ["cora: reading: 0\n", "cora: reading: 0 in 61 s\n"]


def test_short_work_says_nothing() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = ProgressLines("detecting", 2, write=lines.append, clock=clock)
    for number in range(2):
        clock.now += 1
        progress.update(number + 1)
    progress.end()
    assert not lines


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (119, "119 s"), (150, "2 min"), (7000, "117 min"), (9000, "2.5 h")]
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert span(seconds) == words
