"""An index follows its folder, whatever happened to either in between."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from cora.errors import CoraError, ImageError
from cora.retrieval import RetrievalError
from cora.retrieval import update as update_module
from cora.retrieval.regions import Regions
from cora.retrieval.store import RegionStore
from cora.retrieval.update import UpdateReport, content_hash, list_pictures, only_writer, update
from tests.retrieval.conftest import Finder, regions, write_picture

pytestmark = pytest.mark.integration


def state(store: RegionStore) -> dict[str, list[tuple[float, ...]]]:
    """File -> its boxes: all that an index knows, in an order of its own."""
    contents: dict[str, list[tuple[float, ...]]] = {}
    for row in store._regions.to_arrow().to_pylist():
        contents.setdefault(row["content"], []).append(tuple(row["box_xyxy_px"]))
    return {file: sorted(contents.get(one.content, [])) for file, one in sorted(store.pictures().items())}


def fresh(tmp_path: Path, store: RegionStore, folder: Path) -> dict[str, list[tuple[float, ...]]]:
    """The state of an index of the folder as it is now, made in one go."""
    other = RegionStore.create(tmp_path / "fresh", store.manifest)
    update(other, folder, Finder())
    return state(other)


def test_all_levels_are_indexed_and_a_second_run_does_nothing(store: RegionStore, folder: Path, finder: Finder) -> None:
    (folder / "notes.txt").write_text("no image")
    assert update(store, folder, finder) == UpdateReport(added=3)
    assert list(store.pictures()) == ["a.png", "b.png", "deeper/c.png"]
    assert store.count() == 9
    assert update(store, folder, finder) == UpdateReport(unchanged=3)
    assert finder.calls == 3


def test_new_changed_moved_and_removed(tmp_path: Path, store: RegionStore, folder: Path, finder: Finder) -> None:
    update(store, folder, finder)
    write_picture(folder / "new.png", 10)
    write_picture(folder / "a.png", 11)
    (folder / "b.png").rename(folder / "moved.png")
    (folder / "deeper" / "c.png").unlink()
    report = update(store, folder, finder)
    assert report == UpdateReport(added=2, changed=1, removed=2, twice=1)
    assert finder.calls == 3 + 2  # the moved one is known by its content
    assert state(store) == fresh(tmp_path, store, folder)


def test_the_same_picture_twice_is_embedded_once(store: RegionStore, folder: Path, finder: Finder) -> None:
    shutil.copy(folder / "a.png", folder / "z.png")
    assert update(store, folder, finder) == UpdateReport(added=4, twice=1)
    assert (finder.calls, store.count()) == (3, 9)
    (folder / "a.png").unlink()
    update(store, folder, finder)
    assert (finder.calls, store.count()) == (3, 9)
    assert "z.png" in state(store)


def test_touched_files_are_hashed_not_embedded(store: RegionStore, folder: Path, finder: Finder) -> None:
    update(store, folder, finder)
    os.utime(folder / "a.png", ns=(1, 1))
    assert update(store, folder, finder) == UpdateReport(unchanged=3)
    assert store.pictures()["a.png"].mtime_ns == 1
    assert finder.calls == 3


def test_rehash_finds_a_change_that_kept_size_and_time(store: RegionStore, folder: Path, finder: Finder) -> None:
    update(store, folder, finder)
    path = folder / "a.bmp"
    write_picture(path, 20)
    update(store, folder, finder)
    before = path.stat()
    write_picture(path, 21)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert update(store, folder, finder).changed == 0
    assert update(store, folder, finder, rehash=True).changed == 1


def test_unreadable_pictures_are_counted_and_tried_again(store: RegionStore, folder: Path, finder: Finder) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    report = update(store, folder, finder)
    assert (report.added, len(report.problems)) == (3, 1)
    assert "broken.png" in report.problems[0]
    assert len(update(store, folder, finder).problems) == 1
    write_picture(folder / "broken.png", 30)
    assert update(store, folder, finder) == UpdateReport(added=1, unchanged=3)


def test_a_picture_that_became_unreadable_leaves_the_index(store: RegionStore, folder: Path, finder: Finder) -> None:
    update(store, folder, finder)
    (folder / "a.png").write_bytes(b"no picture")
    report = update(store, folder, finder)
    assert (report.removed, len(report.problems), store.count()) == (1, 1, 6)


def test_a_name_that_is_no_text_is_told(store: RegionStore, folder: Path, finder: Finder) -> None:
    try:
        shutil.copy(folder / "a.png", os.fsencode(folder) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes no such names")
    report = update(store, folder, finder)
    assert len(report.problems) == 1
    assert "expected a file name in UTF-8" in report.problems[0]


def test_an_empty_folder_is_an_error_and_keeps_the_index(store: RegionStore, folder: Path, finder: Finder) -> None:
    update(store, folder, finder)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(ImageError, match="got none in or below"):
        update(store, folder, finder)
    assert store.count() == 9


def test_a_folder_that_is_none_is_told(folder: Path) -> None:
    with pytest.raises(ImageError, match="got a file"):
        list_pictures(folder / "a.png")
    with pytest.raises(ImageError, match="got nothing"):
        list_pictures(folder / "none")


def test_pictures_without_regions_are_remembered(store: RegionStore, folder: Path) -> None:
    calls = []

    def nothing(picture: Image.Image) -> Regions:
        calls.append(picture)
        return regions(0, 0)

    update(store, folder, nothing)
    update(store, folder, nothing)
    assert (len(calls), store.count(), len(store.pictures())) == (3, 0, 3)


def test_ctrl_c_keeps_what_is_done(tmp_path: Path, store: RegionStore, folder: Path, finder: Finder) -> None:
    def stop_before_third(files: Sequence[str]) -> Iterator[str]:
        yield from files[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update(store, folder, finder, progress=stop_before_third)
    assert store.count() == 6
    assert update(store, folder, finder) == UpdateReport(added=1, unchanged=2)
    assert finder.calls == 3
    assert state(store) == fresh(tmp_path, store, folder)


@pytest.mark.parametrize("broken", ["_regions", "_pictures"])
def test_a_write_that_breaks_off_is_made_good(
    tmp_path: Path, store: RegionStore, folder: Path, finder: Finder, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """The process ends in the middle of a flush: before the regions are written, or after them."""
    table = getattr(store, broken)

    class Ending:
        def __getattr__(self, name: str) -> object:
            if name in ("add", "merge_insert"):
                raise KeyboardInterrupt
            return getattr(table, name)

    setattr(store, broken, Ending())
    with pytest.raises(KeyboardInterrupt):
        update(store, folder, finder)
    again = RegionStore.open(store.place)
    assert len(again.pictures()) == 0
    assert again.count() == (0 if broken == "_regions" else 9)
    update(again, folder, finder)
    assert again.count() == 9
    assert state(again) == fresh(tmp_path, store, folder)


def test_only_one_writes(store: RegionStore) -> None:
    with only_writer(store.place), pytest.raises(RetrievalError, match="in use"), only_writer(store.place):
        pass
    with only_writer(store.place):
        pass


def test_a_place_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "db"
    with pytest.raises(CoraError, match=r"got a file where .*db needs a folder"), only_writer(place):
        pass


_SLOW_RUN = """
    import sys, time
    from pathlib import Path
    from cora.retrieval import update as module
    from cora.retrieval.store import RegionStore
    from tests.retrieval.conftest import Finder

    module._FLUSH_FILES = 1

    def told(files):
        for file in files:
            print(file, flush=True)
            yield file

    place, folder = map(Path, sys.argv[1:])
    with module.only_writer(place):
        module.update(RegionStore.open(place), folder, Finder(), progress=told)
"""


def test_kill_9_in_the_middle(tmp_path: Path, store: RegionStore, folder: Path, finder: Finder) -> None:
    for seed in range(40, 80):
        write_picture(folder / f"{seed}.png", seed)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_SLOW_RUN), str(store.place), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    for _ in range(6):  # writing is under way, whichever of its steps
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    again = RegionStore.open(store.place)
    known = len(again.pictures())
    assert 0 < known < 43
    with only_writer(store.place):  # the killed one holds no lock
        report = update(again, folder, finder)
    assert (report.unchanged, report.added) == (known, 43 - known)
    assert finder.calls == 43 - known
    assert state(again) == fresh(tmp_path, store, folder)


def test_hash_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"x")
    (tmp_path / "c").write_bytes(b"y")
    first, second, third = (content_hash(tmp_path / name) for name in "abc")
    assert first == second != third
    assert len(first) == 32


def test_long_runs_are_tidied_as_they_go(
    store: RegionStore, folder: Path, finder: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tidied = []
    monkeypatch.setattr(update_module, "_FLUSH_FILES", 1)
    monkeypatch.setattr(update_module, "_TIDY_FLUSHES", 2)
    monkeypatch.setattr(RegionStore, "tidy", lambda self: tidied.append(self.count()))
    update(store, folder, finder)
    assert tidied[0] == 6
    assert tidied[-1] == 9
