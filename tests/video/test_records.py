"""CSV and JSON of tracks, and the window."""

import csv
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from cora.errors import CoraError
from cora.video import Frame, TrackedFrame, TrackedObject, VideoError
from cora.video.records import CSV_COLUMNS, CsvRecords, JsonRecords, text_file
from cora.video.summary import TrackSummaries
from cora.video.window import LiveWindow

PIXELS = np.zeros((4, 4, 3), np.uint8)
CAT = TrackedObject(track=2, name='big "cat", red', score=0.51234567, box_xyxy_px=(1, 2, 3.456, 10), frame_name="dog")


def test_both_tables(tmp_path: Path) -> None:
    summaries = TrackSummaries()
    with text_file(tmp_path / "t.csv") as table, text_file(tmp_path / "new" / "t.json") as objects:
        records = [CsvRecords(table), JsonRecords(objects, {"video": {"source": "a.mp4"}})]
        for number, found in enumerate([(), (CAT,), (CAT,)]):
            frame = Frame(index=number, seconds=number / 3, pts=number, duration=1, pixels=PIXELS)
            summaries.add(found, frame.seconds)
            for record in records:
                record.add(frame, TrackedFrame(found, reused=number == 2))
        for record in records:
            record.finish(summaries.tracks, complete=True)
        assert not (tmp_path / "t.csv").exists()
    rows = list(csv.reader((tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert rows[1] == ["1", "0.333333", "2", 'big "cat", red', "0.51235", "1", "2", "3.46", "10", "dog"]
    assert len(rows) == 3
    content = json.loads((tmp_path / "new" / "t.json").read_text())
    assert content["video"] == {"source": "a.mp4"}
    assert [frame["reused"] for frame in content["frames"]] == [False, False, True]
    assert content["frames"][0]["objects"] == []
    assert content["frames"][1]["objects"][0]["bbox"] == [1, 2, 2.46, 8]
    assert content["tracks"][0]["frames_by_class"] == {'big "cat", red': 2}
    assert content["complete"] is True


def test_no_frames_are_valid_json(tmp_path: Path) -> None:
    with text_file(tmp_path / "t.json") as file:
        JsonRecords(file, {}).finish((), complete=False)
    assert json.loads((tmp_path / "t.json").read_text()) == {"frames": [], "tracks": [], "complete": False}


def test_error_leaves_no_table(tmp_path: Path) -> None:

    def fail() -> None:
        with text_file(tmp_path / "t.csv") as file:
            CsvRecords(file)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(CoraError, match="expected to write"), text_file(tmp_path / "file" / "t.csv"):
        pass


def test_window_without_display(monkeypatch: pytest.MonkeyPatch) -> None:
    tkinter = pytest.importorskip("tkinter")

    def refuse() -> None:
        raise tkinter.TclError("no display name and no $DISPLAY environment variable")

    monkeypatch.setattr(tkinter, "Tk", refuse)
    with pytest.raises(VideoError, match=r"expected a display, got none .*; write a file instead"):
        LiveWindow("cora")


def test_window_without_tkinter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(VideoError, match="expected Python with tkinter, got one without"):
        LiveWindow("cora")


def test_window_shrinks_pictures_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int]] = []
    bound: dict[str, Any] = {}

    class Tk:
        def title(self, text: str) -> None: ...

        def bind(self, key: str, call: Any) -> None:
            bound[key] = call

        protocol = bind

        def winfo_screenwidth(self) -> int:
            return 100

        def winfo_screenheight(self) -> int:
            return 1000

        def update(self) -> None: ...

        def destroy(self) -> None:
            bound["destroyed"] = True

    class Label:
        def __init__(self, root: Tk, borderwidth: int) -> None: ...

        def pack(self) -> None: ...

        def configure(self, image: Any) -> None:
            shown.append(image)

    fake = types.SimpleNamespace(Tk=Tk, Label=Label, TclError=RuntimeError)
    monkeypatch.setitem(sys.modules, "tkinter", fake)
    image_tk = types.ModuleType("PIL.ImageTk")  # the real one imports tkinter's C part
    image_tk.PhotoImage = lambda picture, master: picture.size  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "PIL.ImageTk", image_tk)
    monkeypatch.setattr(PIL, "ImageTk", image_tk, raising=False)
    with LiveWindow("cora") as window:
        assert window.show(Image.new("RGB", (50, 40)))
        assert window.show(Image.new("RGB", (180, 40)))
        assert shown == [(50, 40), (90, 20)]
        bound["q"](None)
        assert not window.show(Image.new("RGB", (50, 40)))
    assert bound["destroyed"]
