"""Files are written whole, or one line says why not."""

from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from cora.errors import CoraError
from cora.files import check_place, lock, write_whole

Usage = namedtuple("Usage", "total used free")
TORCH = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
SAFETENSORS = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
OWN = OSError(28, "No space left on device", "/usr/lib/python3/site-packages/other/software.py")


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
