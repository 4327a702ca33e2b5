"""Every kind of source gives the same pixels; what cannot be read says so in one line."""

import base64
import io
import lzma
import os
import zipfile
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cora.errors import ImageError
from cora.images import read_image

PIXELS = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(source: object) -> np.ndarray:
    return np.asarray(read_image(source))  # type: ignore[arg-type]


def refusal(source: object) -> str:
    with pytest.raises(ImageError) as error:
        read_image(source)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, io.BytesIO])
def test_bytes_and_files_of_bytes(kind: type) -> None:
    np.testing.assert_array_equal(pixels(kind(png())), PIXELS)


def test_an_open_file_is_read_from_its_start_and_stays_open(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    with (tmp_path / "a.png").open("rb") as file:
        file.read(9)
        for _ in range(2):
            np.testing.assert_array_equal(pixels(file), PIXELS)
        assert not file.closed


def test_a_pipe_is_read() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "wb") as writer:
        thread = Thread(target=lambda: (writer.write(png()), writer.close()))
        thread.start()
        np.testing.assert_array_equal(pixels(reader), PIXELS)
        thread.join()


class OfAPath(os.PathLike):  # type: ignore[type-arg]
    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_objects_that_stand_for_a_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    np.testing.assert_array_equal(pixels(OfAPath(tmp_path / "a.png")), PIXELS)


@settings(deadline=None)
@given(
    height=st.integers(1, 9).filter(lambda side: side not in (1, 3, 4)),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 3, 4]),
)
def test_tensors_with_channels_first_or_last(height: int, width: int, channels: int) -> None:
    values = torch.randint(0, 256, (height, width, channels), dtype=torch.uint8)
    last, first = pixels(values), pixels(values.permute(2, 0, 1))
    np.testing.assert_array_equal(last, first)
    np.testing.assert_array_equal(last, pixels(values.numpy()))


def test_channels_come_first_where_both_could_be_meant() -> None:
    values = torch.randint(0, 256, (3, 6, 4), dtype=torch.uint8)
    np.testing.assert_array_equal(pixels(values), values.permute(1, 2, 0).numpy())


def test_grey_tensor_and_one_of_inference_mode() -> None:
    grey = torch.randint(0, 256, (6, 7), dtype=torch.uint8)
    np.testing.assert_array_equal(pixels(grey)[:, :, 1], grey.numpy())
    with torch.inference_mode():
        np.testing.assert_array_equal(pixels(grey + 0)[:, :, 1], grey.numpy())


@pytest.mark.parametrize(
    ("tensor", "got"),
    [
        (torch.zeros(3, 4, 4), "expected a uint8 tensor, got float32; scale"),
        (torch.zeros(1, 3, 9, 9, dtype=torch.uint8), r"got shape \[1, 3, 9, 9\]; pass images one by one"),
        (torch.zeros(5, 6, 7, dtype=torch.uint8), r"got shape \[5, 6, 7\]"),
        (torch.zeros(3, 0, 7, dtype=torch.uint8), r"got shape \[3, 0, 7\]"),
        (torch.zeros(4, 4, dtype=torch.bool), "expected a uint8 tensor, got bool"),
    ],
)
def test_wrong_tensors(tensor: torch.Tensor, got: str) -> None:
    with pytest.raises(ImageError, match=got):
        read_image(tensor)


def test_wrong_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    with (tmp_path / "a.png").open(encoding="latin-1") as text:
        assert refusal(text) == "expected a file opened for bytes, got one opened for text; open it with mode 'rb'"
    file = (tmp_path / "a.png").open("rb")
    file.close()
    assert refusal(file) == "expected an open file, got a closed one; open it again"
    assert "got an empty file: the given file" in refusal(io.BytesIO())
    assert "got an empty file: the given bytes" in refusal(b"")
    assert "something that is no image: the given bytes" in refusal(b"text" * 9)
    assert "damaged or truncated one: the given bytes" in refusal(png()[:60])


class Failing:
    """A file of another library, which fails in its own way."""

    def __init__(self, head: bytes, error: Exception, *, seeks: bool = True) -> None:
        self.file, self.error, self.seeks = io.BytesIO(head), error, seeks

    def seek(self, *place: int) -> int:
        if not self.seeks:
            raise self.error
        return self.file.seek(*place)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, count: int = -1) -> bytes:
        content = self.file.read(count)
        if not content or count < 0:
            raise self.error
        return content


@pytest.mark.parametrize("error", [zipfile.BadZipFile("Bad CRC"), lzma.LZMAError("Bad CRC"), RuntimeError("Bad CRC")])
@pytest.mark.parametrize("head", [b"", png()[:60]])
@pytest.mark.parametrize("seeks", [True, False])
def test_files_fail_in_their_own_ways(error: Exception, head: bytes, seeks: bool) -> None:
    assert "a damaged or truncated one: the given file (Bad CRC)" in refusal(Failing(head, error, seeks=seeks))
    if head and seeks:
        assert "the given image (Bad CRC)" in refusal(Image.open(Failing(head, error)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("file:///tmp/a.jpg", "got one with file:"),
        ("s3://bucket/a.jpg", "got one with s3:"),
        ("ftp://example.org/a.jpg", "got one with ftp:"),
        ("data:image/png;base64," + base64.b64encode(png()).decode(), "got one with data:"),
        (base64.b64encode(PIXELS.tobytes() * 60).decode(), "text that is too long"),
        ("a\0b.jpg", "null"),
        ("", "got an empty text"),
        (" \n", "got an empty text"),
    ],
)
def test_texts_that_are_no_path(text: str, got: str) -> None:
    message = refusal(text)
    assert got in message
    assert len(message) < 400


@pytest.mark.parametrize("source", [None, 3, 2.5, [], ["a.jpg"], {"image": 1}, object()])
def test_what_is_no_source(source: object) -> None:
    assert "expected a path, URL, bytes, an open file" in refusal(source)
    assert f"got {type(source).__name__}" in refusal(source)
