"""HEIC and AVIF: read where there is a decoder, else the message says what to install."""

import io
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, ImageFile, features

from cora.errors import ImageError
from cora.images import IMAGE_SUFFIXES, formats, read_image, read_size

needs_avif = pytest.mark.skipif(not features.check("avif"), reason="needs a Pillow with AVIF")


def family_file(*brands: bytes) -> bytes:
    """The beginning of a file of the HEIF family, as an iPhone's."""
    box = brands[0] + bytes(4) + b"".join(brands[1:])
    return (8 + len(box)).to_bytes(4, "big") + b"ftyp" + box + b"\0\0\0\x08meta" + bytes(300)


HEIC = family_file(b"heic", b"mif1", b"heic")


@pytest.mark.parametrize("content", [HEIC, family_file(b"mif1", b"mif1", b"heix"), family_file(b"msf1", b"hevc")])
def test_heic_without_its_package_names_the_extra(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "IMG_1.HEIC").write_bytes(content)
    for source, what in ((tmp_path / "IMG_1.HEIC", r".*IMG_1\.HEIC"), (content, "the given bytes")):
        expected = rf"got HEIC, which needs an optional package: {what}; .*pip install 'cora-ovd\[heif\]'$"
        with pytest.raises(ImageError, match=expected) as error:
            read_image(source)
        assert "\n" not in str(error.value)
    with pytest.raises(ImageError, match=r"cora-ovd\[heif\]"):
        read_size(tmp_path / "IMG_1.HEIC")


class StandIn(ImageFile.ImageFile):
    """Stands for pillow_heif's decoder: every HEIC file is 6 x 4 and red."""

    format = "HEIF"
    loaded = False

    def _open(self) -> None:
        self._size, self._mode, self.tile = (6, 4), "RGB", []

    def load(self) -> None:  # type: ignore[override]
        if not self.loaded:
            self.im, self.loaded = Image.new("RGB", self.size, (255, 0, 0)).im, True


def test_heic_is_read_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("pillow_heif")
    package.register_heif_opener = (
        lambda: Image.register_open(  # type: ignore[attr-defined]
            "HEIF", StandIn, lambda head: head[4:12] == b"ftypheic"
        )
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    (tmp_path / "a.heic").write_bytes(HEIC)
    for source in (tmp_path / "a.heic", HEIC, io.BytesIO(HEIC)):
        read = read_image(source)
        assert (read.size, read.getpixel((2, 2))) == ((6, 4), (255, 0, 0))
    assert read_size(tmp_path / "a.heic") == (4, 6)
    with pytest.raises(ImageError, match="got an HEIC image that is damaged"):
        read_image(family_file(b"mif1", b"heix"))  # the decoder does not take it


@needs_avif
def test_avif(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), (0, 0, 255)).save(tmp_path / "a.avif")
    read = read_image(tmp_path / "a.avif")
    assert read.size == (20, 10)
    assert read.getpixel((4, 4))[2] > 240  # type: ignore[index]
    assert read_size(tmp_path / "a.avif") == (10, 20)
    with pytest.raises(ImageError, match="expected an image"):
        read_image((tmp_path / "a.avif").read_bytes()[:80])


def test_avif_that_this_pillow_cannot_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_known_formats", lambda: ("PNG", "JPEG"))
    with pytest.raises(ImageError, match="got AVIF, which this Pillow cannot decode: the given bytes; install a newer"):
        read_image(family_file(b"avif", b"avif", b"mif1", b"miaf"))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\0\0\0\x18ftypmp42isomisom", "a video: the given bytes; 'cora video' reads videos"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video"),
        (b"ftypheic", "something that is no image: the given bytes; check the file"),
    ],
)
def test_other_files_of_the_family_are_no_images(content: bytes, found: str) -> None:
    with pytest.raises(ImageError, match=f"got {found}"):
        read_image(content + bytes(100))


def test_endings_of_phones_are_found_in_folders() -> None:
    assert {".heic", ".heif", ".hif", ".avif", ".jpg"} <= IMAGE_SUFFIXES
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)
