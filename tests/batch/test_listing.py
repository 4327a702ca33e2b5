"""Inputs: folders, lists and shards, every image once, and what cannot be used."""

import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from cora.batch.items import Item, flat
from cora.batch.listing import list_inputs
from cora.errors import DataError, ImageError
from tests.batch.fake import picture, write_pictures, write_shard


def listed(tmp_path: Path, *sources: Path | str) -> tuple[Path, list[Item]]:
    listing = list_inputs([str(source) for source in sources], file=tmp_path / "list", exclude=tmp_path / "out")
    lines = (tmp_path / "list").read_text().splitlines()
    assert listing.count == len(lines)
    return listing.root, [Item.from_line(line, number) for number, line in enumerate(lines, start=1)]


def test_a_folder_by_name_with_all_below_it(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 7)
    for name in (".hidden.png", ".thumbnails/a.png", "notes.txt", "video.mp4"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")  # would never end
    root, items = listed(tmp_path, tmp_path / "in")
    assert root == tmp_path / "in"
    inner = [f"deep/er/{number:03d}.png" for number in (0, 3, 6)]
    assert [item.name for item in items] == ["001.png", "002.png", "004.png", "005.png", *inner]
    assert [item.number for item in items] == [1, 2, 3, 4, 5, 6, 7]
    assert all(item.size == (root / item.name).stat().st_size for item in items)


def test_a_picture_named_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "in", 4)
    (tmp_path / "list.txt").write_text("\ufeffin/002.png\n\nin/../in/001.png\r\nin/none.png\n")
    monkeypatch.chdir(tmp_path)
    root, items = listed(tmp_path, "@list.txt", "in/001.png", "in")
    assert root == tmp_path / "in"
    assert [item.name for item in items] == ["002.png", "001.png", "none.png", "deep/er/000.png", "deep/er/003.png"]
    with pytest.raises(ImageError, match="No such file or directory"):
        items[2].read(root)


def test_several_folders_have_names_below_what_they_share(tmp_path: Path) -> None:
    for folder in ("a/photos", "b/photos"):
        write_pictures(tmp_path / folder, 2)
    root, items = listed(tmp_path, tmp_path / "a" / "photos", tmp_path / "b" / "photos")
    assert root == tmp_path
    assert [item.name for item in items][::2] == ["a/photos/001.png", "b/photos/001.png"]


def test_results_are_no_inputs(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2)
    write_pictures(tmp_path / "out" / "images", 2)
    _, items = listed(tmp_path, tmp_path)
    assert [item.name for item in items] == ["001.png", "deep/er/000.png"]


def test_no_two_label_files_have_one_name(tmp_path: Path) -> None:
    names = ("a.png", "a.webp", "a.png.png", "b/c.png", "b__c.png", "b/c.bmp")
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(tmp_path / "in" / name)
    _, items = listed(tmp_path, tmp_path / "in")
    assert sorted(item.name for item in items) == sorted(names)
    assert len({flat(item.stem) for item in items}) == len(names)
    stems = {item.name: item.stem for item in items}
    assert stems["a.png"] == "a"
    assert {item.target for item in items if item.name == "a.webp"} == {"a.webp.webp"}


def test_shards_alone_and_in_folders(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "s0.tar", ["./0001.png", "sub/0002.png"])
    write_shard(tmp_path / "in" / "s1.tar", ["0001.png"], first=2)
    root, items = listed(tmp_path, tmp_path / "in" / "s0.tar", tmp_path / "in")
    assert [item.name for item in items] == ["s0.tar/0001.png", "s0.tar/sub/0002.png", "s1.tar/0001.png"]
    for number, item in enumerate(items):
        assert item.read(root).tobytes() == picture(number).tobytes()


def test_what_a_shard_may_not_hold(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "s.tar", ["../out.png", "/abs.png", "a\\b.png", "twice.png", "twice.png"])
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("empty.png"))
    root, items = listed(tmp_path, path)
    messages = []
    for item in items:
        try:
            item.read(root)
        except ImageError as error:
            messages.append(str(error))
    assert [message.split(",")[0] for message in messages] == [
        "expected a name inside its folder",
        "expected a name inside its folder",
        "expected a name inside its folder",
        "expected a name once in s.tar",
        "expected a plain file in s.tar",
        "expected an image (BMP",
    ]
    assert len(items) == 7
    assert "got nothing" in messages[-1]


@pytest.mark.parametrize("cut", [0, 700, 1800])
def test_damaged_shard_is_told_and_what_is_whole_is_used(tmp_path: Path, cut: int) -> None:
    path = write_shard(tmp_path / "in" / "s.tar", ["0.png", "1.png"])
    path.write_bytes(path.read_bytes()[:cut] + b"x" * 600)
    picture(1).save(tmp_path / "in" / "whole.png")
    root, items = listed(tmp_path, tmp_path / "in")
    bad = [item for item in items if item.problem]
    assert [item.name for item in bad] == ["s.tar"]
    assert "expected an uncompressed tar file" in bad[0].problem
    assert items[-1].read(root).size == (40, 30)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with open(os.path.join(os.fsencode(tmp_path), b"in", b"caf\xe9.png"), "wb") as file:
        picture(1).save(file, "PNG")
    root, items = listed(tmp_path, tmp_path / "in")
    with pytest.raises(ImageError, match=r"expected a file name in UTF-8.*'caf\\udce9.png'"):
        items[0].read(root)


def test_damaged_pictures_in_shards(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "s.tar", ["a.png", "b.png"])
    root, items = listed(tmp_path, path)
    content = bytearray(path.read_bytes())
    content[items[0].start : items[0].start + 8] = b"no image"
    cut = items[1].start + 45
    content[cut : cut + 9] = b"\0" * 9
    path.write_bytes(bytes(content))
    with pytest.raises(ImageError, match=r"got something that is none: s.tar/a.png$"):
        items[0].read(root)
    with pytest.raises(ImageError, match=r"damaged .*s.tar/b.png"):
        items[1].read(root)


def test_a_decompression_bomb_in_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    root, items = listed(tmp_path, write_shard(tmp_path / "s.tar", ["a.png"]))
    with pytest.raises(ImageError, match=r"s.tar/a.png"):
        items[0].read(root)


@pytest.mark.parametrize(
    ("source", "message"),
    [("none", "got nothing at none"), ("@none", "No such file"), ("@empty", "expected images"), ("in", "got none")],
)
def test_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match=message):
        listed(tmp_path, source)
