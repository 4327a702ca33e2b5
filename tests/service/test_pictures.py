"""Bytes of strangers: an image, or an error that says what is wrong."""

import base64
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cora.errors import ImageError
from cora.service.pictures import from_base64, open_picture, shrink
from cora.service.refusal import RefusedError

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def image_file(kind: str, size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, format=kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_usual_formats(kind: str) -> None:
    picture = open_picture(image_file(kind), max_pixels=10_000)
    assert picture.mode == "RGB"
    assert picture.size == (40, 30)


def test_other_formats_are_no_images_here() -> None:
    for kind in ("ICO", "PCX", "PPM", "TGA"):
        with pytest.raises(ImageError, match="got something that is none"):
            open_picture(image_file(kind), max_pixels=10_000)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_damaged_files_are_errors_of_the_sender(kind: str, data: st.DataObject) -> None:
    content = bytearray(image_file(kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    message = ""
    try:
        picture = open_picture(bytes(content[: data.draw(st.integers(0, len(content)))]), max_pixels=10_000)
    except (ImageError, RefusedError) as error:
        message = str(error)
    assert "\n" not in message
    assert message.startswith("expected") or picture.mode == "RGB"


def test_limit_of_pixels_is_exact() -> None:
    content = image_file("PNG")
    assert open_picture(content, max_pixels=1200).size == (40, 30)
    with pytest.raises(RefusedError, match="got 40 x 30") as error:
        open_picture(content, max_pixels=1199)
    assert error.value.status == 413


def test_size_is_that_of_the_picture_as_sent() -> None:
    picture = shrink(Image.new("RGB", (400, 300)), lambda image: image.resize((40, 30)))
    assert picture.size_hw == (300, 400)
    assert picture.image.size == (40, 30)


@given(st.binary(max_size=200))
def test_base64_comes_back(content: bytes) -> None:
    text = base64.b64encode(content).decode()
    assert from_base64(text) == content
    assert from_base64("data:image/png;base64," + text) == content
    assert from_base64(base64.urlsafe_b64encode(content).decode()) == content
    assert from_base64(base64.encodebytes(content).decode()) == content
    assert from_base64(base64.encodebytes(content).decode().replace("\n", "\r\n")) == content


@pytest.mark.parametrize("text", ["?", "abc", "ü", "a b=", "http://localhost/x.png"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match="paths and addresses are not read"):
        from_base64(text)
