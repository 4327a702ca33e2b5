"""Results are whole or not there, whatever happens while they are written; or one line says why not."""

import os
import stat
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cora.errors import CoraError
from cora.files import check_place, lock, whole_file, write_safetensors, write_text, write_whole

Usage = namedtuple("Usage", "total used free")
TORCH = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
SAFETENSORS = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
OWN = OSError(28, "No space left on device", "/usr/lib/python3/site-packages/other/software.py")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_result_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.txt"
    for content in ("old", "new"):
        write_text(path, content)
    assert path.read_text() == "new"
    assert names(path.parent) == ["result.txt"]


def test_an_error_keeps_the_older_result(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    write_text(path, "old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.txt"]


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CoraError, match=r"expected to write .*result.txt, got No space left on device; free or choose"):
        write_whole(tmp_path / "result.txt", fail)
    (tmp_path / "file").write_text("")
    with pytest.raises(CoraError, match="expected to write"):
        write_text(tmp_path / "file" / "result.txt", "content")


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
def test_a_result_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "result.txt", "content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "result.txt").stat().st_mode) == 0o640


def test_what_a_killed_writer_left_is_replaced(tmp_path: Path) -> None:
    part = tmp_path / "last.part"
    part.write_text("half of an older one, longer than what comes")
    write_whole(tmp_path / "last.pt", lambda file: file.write_text("whole"), temporary=part, durable=True)
    assert (tmp_path / "last.pt").read_text() == "whole"
    assert names(tmp_path) == ["last.pt"]


@pytest.mark.parametrize(("content", "keep", "left"), [("half", True, ["a"]), ("", True, []), ("half", False, [])])
def test_ctrl_c_keeps_what_was_written_only_if_asked(tmp_path: Path, content: str, keep: bool, left: list[str]) -> None:
    def interrupted() -> None:
        with whole_file(tmp_path / "a", keep_interrupted=keep) as part:
            part.write_text(content)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == left


def test_safetensors_with_metadata(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"a": torch.arange(3)}, {"format": "toy"})
    assert load_file(path)["a"].tolist() == [0, 1, 2]
    assert names(tmp_path) == ["weights.safetensors"]


@pytest.mark.parametrize("error", [TORCH, SAFETENSORS, OWN])
def test_a_full_disk_is_one_line_without_others_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def write(_: Path) -> None:
        raise error

    monkeypatch.setattr("cora.files.shutil.disk_usage", lambda place: Usage(9, 9, 0))
    with pytest.raises(CoraError) as caught:
        write_whole(tmp_path / "a.pt", write)
    assert str(caught.value) == (
        f"expected to write {tmp_path / 'a.pt'}, got No space left on device; free or choose another place"
    )
    assert not list(tmp_path.iterdir())


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    def write(_: Path) -> None:
        torch.zeros(2) + torch.zeros(3)

    with pytest.raises(RuntimeError, match="must match the size"):
        write_whole(tmp_path / "a.pt", write)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("file", True, "expected a folder to write to, got a file: "),
        (".", False, "expected a file to write to, got a folder: "),
        ("file/a/b.json", False, "expected a place to write to, got a file where "),
        ("new/b.json", False, ""),
        ("file", False, ""),
        ("new/folder", True, ""),
    ],
)
def test_places_are_checked_and_left_as_they_are(tmp_path: Path, name: str, folder: bool, message: str) -> None:
    (tmp_path / "file").write_text("there")
    if message:
        with pytest.raises(CoraError, match=message):
            check_place(tmp_path / name, folder=folder)
    else:
        check_place(tmp_path / name, folder=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    with lock(tmp_path / "lock") as first:
        with lock(tmp_path / "lock") as second:
            assert (first, second) == (True, False)
        # Removed by hand, it is another file, and the one who holds the old one does not see it.
        (tmp_path / "lock").unlink()
        with lock(tmp_path / "lock") as third:
            assert third
    with lock(tmp_path / "lock") as again:
        assert again


def test_a_device_or_pipe_is_no_place_for_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(CoraError, match="expected a file to write to, got a device or a pipe"):
        check_place(pipe, folder=False)
    assert pipe.is_fifo()
