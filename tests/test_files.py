"""Results are whole or not there, whatever happens while they are written."""

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cora.errors import CoraError
from cora.files import whole_file, write_safetensors, write_text, write_whole


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
