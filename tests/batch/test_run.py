"""Every image exactly once: killed, resumed, by several processes, by Ray; and what must be refused."""

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cora.batch import Box, ExportSettings, Record, Thresholds
from cora.batch.job import open_job
from cora.batch.records import record_of
from cora.batch.run import Watch
from cora.errors import CoraError, DataError, MissingExtraError
from cora.structures import Detections
from tests.batch.fake import NAMES, FakeModel, files, label, open_fake, open_slow, picture, settings, write_pictures

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.integration
def test_a_killed_run_ends_like_an_unharmed_one(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 14, bad=(4,))
    command = [sys.executable, "-m", "tests.batch.killed_batch", str(tmp_path / "in"), str(tmp_path / "killed")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    unharmed = files(tmp_path / "unharmed")
    assert files(tmp_path / "killed") == unharmed
    written = ("data.yaml", "review/boxes.csv", "unreadable.csv", "labels/001.txt", "images/deep/er/000.png")
    assert unharmed.keys() >= set(written)


def test_going_on_does_only_what_is_missing(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 14)
    first = label(tmp_path / "in", tmp_path / "out")
    assert (first.pictures, first.earlier) == (14, 0)
    before = files(tmp_path / "out")
    (tmp_path / "out" / "batch" / "0000001.jsonl").unlink()
    model = FakeModel()
    again = label(tmp_path / "in", tmp_path / "out", model=model)
    assert (again.pictures, again.earlier, model.seen) == (14, 10, 4)
    assert again.boxes == first.boxes
    assert files(tmp_path / "out") == before


@pytest.mark.integration
def test_several_processes_give_the_same_and_tell_their_progress(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 14, bad=(2,))
    told: list[int] = []
    watch = Watch(begin=lambda count, earlier: told.append(-count), detecting=told.append)
    report = label(tmp_path / "in", tmp_path / "two", processes=2, watch=watch)
    assert told[0] == -14
    assert sum(told[1:]) == 14
    assert report.unreadable == 1
    label(tmp_path / "in", tmp_path / "one")
    assert files(tmp_path / "two") == files(tmp_path / "one")


@pytest.mark.integration
def test_workers_end_with_a_killed_parent_and_the_next_run_goes_on(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 40)
    (tmp_path / "pids").mkdir()
    slow = partial(open_slow, tmp_path / "pids", 0.2)
    parent = multiprocessing.get_context("fork").Process(
        target=label, args=(tmp_path / "in", tmp_path / "out"), kwargs={"open_model": slow, "processes": 2}
    )
    parent.start()
    # On a busy machine one worker has written its first results before the other has begun.
    wait_for(lambda: len(list((tmp_path / "pids").iterdir())) == 2)
    wait_for(lambda: any((tmp_path / "out" / "batch").glob("0*.jsonl")))
    os.kill(parent.pid or 0, signal.SIGKILL)
    parent.join()
    workers = [int(path.stem) for path in (tmp_path / "pids").iterdir()]
    assert len(workers) == 2
    wait_for(lambda: not any(alive(pid) for pid in workers))
    assert not (tmp_path / "out" / "annotations.json").exists()
    report = label(tmp_path / "in", tmp_path / "out")
    assert report.earlier >= 4
    label(tmp_path / "in", tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_deleted_list_of_inputs_is_written_again(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 6)
    label(tmp_path / "in", tmp_path / "out")
    before = files(tmp_path / "out")
    (tmp_path / "out/batch/inputs.jsonl").unlink()
    assert label(tmp_path / "in", tmp_path / "out").earlier == 6
    assert files(tmp_path / "out") == before
    assert (tmp_path / "out/batch/inputs.jsonl").exists()


def wait_for(condition: object, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        # A process that ended and that nobody waited for is still listed.
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_ray_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray lets its workers wait for all others; on a busy machine the test would wait for ever.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    write_pictures(tmp_path / "in", 14, bad=(2,))
    report = label(tmp_path / "in", tmp_path / "ray", engine="ray", processes=1)
    assert (report.pictures, report.unreadable) == (14, 1)
    label(tmp_path / "in", tmp_path / "one")
    assert files(tmp_path / "ray") == files(tmp_path / "one")


@pytest.mark.parametrize(
    ("package", "options", "extra"),
    [
        ("pyarrow", {"export": ExportSettings(format="parquet")}, "cora-ovd[batch]"),
        ("ray", {"engine": "ray"}, "cora-ovd[ray]"),
    ],
)
def test_missing_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, options: dict[str, object], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    write_pictures(tmp_path / "in", 2)
    with pytest.raises(MissingExtraError, match=extra.replace("[", r"\[")):
        label(tmp_path / "in", tmp_path / "out", **options)


def test_batches_hold_pictures_of_one_size_and_change_nothing(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 14, bad=(5,))
    model = FakeModel()
    label(tmp_path / "in", tmp_path / "three", settings=settings(batch_size=3), model=model)
    label(tmp_path / "in", tmp_path / "one")
    assert sum(model.batches) == 13
    assert max(model.batches) in (2, 3)
    assert {k: v for k, v in files(tmp_path / "three").items() if k != "batch/manifest.json"} == {
        k: v for k, v in files(tmp_path / "one").items() if k != "batch/manifest.json"
    }


def test_unreadable_pictures_are_listed_and_counted(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 9, bad=(1, 3))
    (tmp_path / "in" / "new\nline.png").touch()
    report = label(tmp_path / "in", tmp_path / "out")
    assert report.unreadable == 3
    with (tmp_path / "out" / "unreadable.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {"001.png", "deep/er/003.png", "new\nline.png"}
    assert all("expected" in row["reason"] for row in rows)
    # No address of memory, no folder of this machine: two runs and two machines say the same.
    assert str(tmp_path) not in (tmp_path / "out" / "unreadable.csv").read_text()
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert len(content["images"]) == 7


def test_inputs_may_be_moved(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 9)
    label(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "batch" / "0000000.jsonl").unlink()
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    assert label(tmp_path / "elsewhere", tmp_path / "out").earlier == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("cat", "dog")}, r"other classes \(cat, dog, it has cat, dog, traffic light\)"),
        ({"distractors": ("tree",)}, "other distractors"),
        ({"made_with": {"model": "other"}}, r"another model \(other, it has None\)"),
        ({"batch_size": 2}, "another batch_size"),
        ({"keep": 0.05}, "expected scores of 0.1 or more, which is what this batch keeps, got 0.05"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_pictures(tmp_path / "in", 5)
    label(tmp_path / "in", tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(DataError, match=message):
        label(tmp_path / "in", tmp_path / "out", settings=settings(**changes))
    assert files(tmp_path / "out") == before


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 5)
    label(tmp_path / "in", tmp_path / "out")
    picture(99, (90, 90)).save(tmp_path / "in" / "001.png")
    with pytest.raises(DataError, match="got other names or sizes"):
        label(tmp_path / "in", tmp_path / "out")
    write_pictures(tmp_path / "in", 6)
    with pytest.raises(DataError, match="got 6 images instead of 5"):
        label(tmp_path / "in", tmp_path / "out")


def test_thresholds_may_change_without_new_detection(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 14)
    low = label(tmp_path / "in", tmp_path / "out", export=ExportSettings(thresholds=Thresholds(usual=0.1)))
    model = FakeModel()
    strict = ExportSettings(format="voc", thresholds=Thresholds(usual=0.2, by_class={"dog": 0.9}))
    high = label(tmp_path / "in", tmp_path / "out", export=strict, model=model)
    assert model.seen == 0
    assert high.boxes["dog"] < low.boxes["dog"]
    assert 0 < high.boxes["cat"] <= low.boxes["cat"]


def test_a_threshold_below_what_is_kept_is_refused_before_any_work(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 5)
    with pytest.raises(DataError, match=r"expected to keep scores of 0.05 or more, .*, got 0.1"):
        label(tmp_path / "in", tmp_path / "out", export=ExportSettings(thresholds=Thresholds(usual=0.05)))
    assert not (tmp_path / "out").exists()


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    with pytest.raises(DataError, match=r"or that of an earlier batch, got 'thesis.txt'"):
        label(tmp_path / "in", tmp_path / "out")
    (tmp_path / "other" / "batch").mkdir(parents=True)
    (tmp_path / "other" / "batch" / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="is no manifest of a batch"):
        label(tmp_path / "in", tmp_path / "other")
    (tmp_path / "other" / "batch" / "manifest.json").write_text('{"version": 9}')
    with pytest.raises(DataError, match="expected version 1, got 9"):
        label(tmp_path / "in", tmp_path / "other")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="got a file"):
        label(tmp_path / "in", tmp_path / "file")


def test_no_pictures_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="expected images"):
        label(tmp_path / "in", tmp_path / "out")
    with pytest.raises(DataError, match="got nothing at"):
        label(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 2)
    with (
        open_job(tmp_path / "out", [str(tmp_path / "in")], settings()),
        pytest.raises(CoraError, match="another process is doing"),
    ):
        label(tmp_path / "in", tmp_path / "out")


def test_damaged_part_is_named(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 6)
    label(tmp_path / "in", tmp_path / "out")
    part = tmp_path / "out" / "batch" / "0000001.jsonl"
    for content, message in (("", "expected the results of 2 images, got others"), ("{", "cannot be read")):
        part.write_text(content)
        with pytest.raises(DataError, match=f"0000001.jsonl.*{message}.*delete it"):
            label(tmp_path / "in", tmp_path / "out")


@pytest.mark.integration
def test_a_dead_worker_is_told(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 9)
    with pytest.raises(CoraError, match=r"one that ended by itself.*what is done is kept"):
        label(tmp_path / "in", tmp_path / "out", open_model=die, processes=2)


def die(worker: int) -> FakeModel:
    os._exit(1)


@pytest.mark.integration
def test_an_error_in_a_worker_arrives(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 9)
    for open_model in (fail, Unknown()):
        with pytest.raises(DataError, match="no such model"):
            label(tmp_path / "in", tmp_path / "out", open_model=open_model, processes=2)


def fail(worker: int) -> FakeModel:
    raise DataError("no such model")


class Unknown:
    """Opens a model, but cannot be unpickled in another process."""

    def __call__(self, worker: int) -> FakeModel:
        return FakeModel()

    def __reduce__(self) -> tuple[object, ...]:
        return fail, (0,)


boxes = st.builds(
    Box,
    st.integers(0, 2),
    *[st.floats(0, 1000, allow_nan=False).map(lambda value: round(value, 2))] * 5,
    st.integers(-1, 2),
    st.floats(0.01, 1),
)


@given(st.integers(1), st.tuples(st.integers(1), st.integers(1)), st.lists(boxes), st.text())
def test_records_come_back(number: int, size: tuple[int, int], found: list[Box], error: str) -> None:
    found = [box if box.other >= 0 else box._replace(other_score=0.0) for box in found]
    for record in (
        Record(number=number, size=size, boxes=tuple(found)),
        Record(number=number, error=error or "none"),
    ):
        line = record.to_line()
        assert line.isascii()
        assert line.count("\n") == 1
        assert Record.from_line(line) == record


def test_the_second_class_of_an_object() -> None:
    import torch

    detections = Detections(
        boxes_xyxy_px=torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 10, 8], [5, 5, 5, 9.0]]),
        scores=torch.tensor([0.6, 0.5, 0.4, 0.3, 0.2]),
        labels=torch.tensor([0, 1, 1, 2, 0]),
        class_names=NAMES,
        image_size=(100, 100),
    )
    record = record_of(7, detections)
    assert [(box.label, box.other, round(box.other_score, 3)) for box in record.boxes] == [
        (0, 1, 0.5),
        (1, 2, 0.3),
        (1, -1, 0.0),
        (2, -1, 0.0),
    ]
    assert record.boxes[0].margin == pytest.approx(0.1)
    assert open_fake(0).seen == 0
