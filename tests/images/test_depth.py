"""Images of other depths than 8 bits are right or refused, and never nearly black."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cora.errors import ImageError
from cora.images import read_image

RAMP = np.linspace(0, 1, 32).reshape(4, 8)


def png_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG file of grey, RGB or RGBA of 16 bits; Pillow writes grey only."""
    height, width = values.shape[:2]
    kind = {1: 0, 3: 2, 4: 6}[values.size // (height * width)]

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def in_memory(mode: str, top: float) -> Image.Image:
    if mode == "F":
        return Image.fromarray((RAMP * top).astype(np.float32))
    kind = {"I": np.int32, "I;16": np.uint16, "I;16B": np.dtype(">u2")}[mode]
    image = Image.fromarray(np.rint(RAMP * top).astype(kind))
    assert image.mode == mode
    return image


def levels(image: object) -> np.ndarray:
    return np.asarray(read_image(image)).astype(int)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "top"),
    [
        ("I;16", 65535), ("I;16", 40000), ("I;16", 255), ("I;16B", 65535), ("I;16B", 255), ("I", 65535), ("I", 255),
        ("F", 1.0), ("F", 0.8), ("F", 255.0), ("F", 200.0),
    ],
)  # fmt: skip
def test_plain_ranges_are_scaled_right(mode: str, top: float) -> None:
    whole = 1.0 if mode == "F" and top <= 1 else 255.0 if top <= 255 else 65535.0
    assert np.abs(levels(in_memory(mode, top)) - (RAMP * top * 255 / whole)[:, :, None]).max() <= 1


@pytest.mark.parametrize(
    ("mode", "top"),
    [
        ("I;16", 1023), ("I;16", 4095), ("I;16", 16383), ("I;16", 1), ("I;16B", 4095), ("I", 4095), ("I", 70000),
        ("I", 16777215), ("I", 2), ("F", 4095.0), ("F", 65535.0), ("F", 1.015625), ("F", 9.5), ("F", 0.0625),
    ],
)  # fmt: skip
def test_other_ranges_are_refused(mode: str, top: float) -> None:
    with pytest.raises(
        ImageError, match=rf"expected grey values in 0\.\..* or .*, got 0\.\.{top:.9g}: .*; scale"
    ) as error:
        read_image(in_memory(mode, top))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_values_that_no_image_has(value: float) -> None:
    pixels = RAMP.astype(np.float32)
    pixels[1, 1] = value
    with pytest.raises(ImageError, match="expected grey values"):
        read_image(Image.fromarray(pixels))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_black_stays_black(mode: str) -> None:
    assert levels(in_memory(mode, 0)).max() == 0


@settings(deadline=None, max_examples=200)
@given(
    values=st.lists(st.integers(-3, 1 << 20), min_size=1, max_size=6)
    | st.lists(st.integers(0, 65535), min_size=1, max_size=6),
    kind=st.sampled_from(["I", "I;16", "F"]),
)
def test_right_or_refused(values: list[int], kind: str) -> None:
    numbers = np.array([values])
    if kind == "I;16":
        numbers = numbers.clip(0, 65535)
    image = Image.fromarray(numbers.astype({"I": np.int32, "I;16": np.uint16, "F": np.float32}[kind]))
    try:
        read = levels(image)[:, :, 0]
    except ImageError:
        return
    assert read.max() > 60 or not numbers.any()
    # Nothing is stretched: the levels are the values times one of three factors.
    assert any(np.abs(read - numbers * factor).max() <= 0.51 for factor in (255.0, 1.0, 255 / 65535))


def test_tiff_that_declares_12_bits_is_right(tmp_path: Path) -> None:
    values = np.array([0, 500, 2048, 4095], dtype=np.uint16)
    packed = b""
    for first, second in values.reshape(-1, 2).tolist():
        packed += bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 0, 277: 1, 278: 1, 279: len(packed)}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed
    expected = np.rint(values * (255 / 4095)).astype(int)
    assert levels(content)[0, :, 0].tolist() == expected.tolist()
    dark = content[: -len(packed)] + bytes([0, 16, 2, 0, 48, 4])  # the file says what is white, so dark is dark
    assert levels(dark)[0, :, 0].max() == 0


def test_tiff_in_which_white_is_zero(tmp_path: Path) -> None:
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={262: 0})
    content = bytearray((tmp_path / "a.tif").read_bytes())
    place = content.find(struct.pack("<H", 262))
    content[place + 8] = 0
    assert levels(bytes(content))[0, :, 0].tolist() == [255, 127, 0]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_of_16_bits_with_12_used(channels: int) -> None:
    ramp = RAMP[:, :, None] * np.ones(channels)
    ramp[..., 3:] = 1
    full = levels(png_of_16_bits(np.rint(ramp * 65535)))
    assert np.abs(full - (RAMP * 255)[:, :, None]).max() <= 1
    with pytest.raises(ImageError, match=r"more than a quarter.*got .*4095: the given bytes; scale") as error:
        read_image(png_of_16_bits(np.rint(ramp * 4095) + (ramp == 1) * (np.arange(channels) == 3) * 61440))
    assert "\n" not in str(error.value)


def test_netpbm_of_12_bits_declares_its_range() -> None:
    values = np.rint(RAMP * 4095).astype(">u2")
    assert np.abs(levels(b"P5 8 4 4095\n" + values.tobytes()) - (RAMP * 255)[:, :, None]).max() <= 1
    colours = np.repeat(values[:, :, None], 3, axis=2)
    assert np.abs(levels(b"P6 8 4 4095\n" + colours.tobytes()) - (RAMP * 255)[:, :, None]).max() <= 1


@pytest.mark.parametrize("kind", ["uint16", "int32", "int64", "float32", "float64", "bool"])
def test_arrays_of_other_types_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match=f"expected a uint8 array, got {kind}; scale"):
        read_image(np.zeros((4, 4, 3), dtype=kind))


def test_a_file_of_12_bits_is_named(tmp_path: Path) -> None:
    in_memory("I;16", 4095).save(tmp_path / "camera.png")
    with pytest.raises(ImageError, match=r"got 0\.\.4095: .*camera\.png; scale them to 0\.\.255 and save with 8 bits"):
        read_image(tmp_path / "camera.png")


def test_colours_given_as_an_opened_file_are_checked_too() -> None:
    with Image.open(io.BytesIO(png_of_16_bits(np.full((4, 4, 3), 4095)))) as image:
        assert image.mode == "RGB"
        with pytest.raises(ImageError, match="a quarter of 16 bits"):
            read_image(image)


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("colours", [1, 3])
def test_hot_pixels_do_not_make_a_dark_image_right(bits: int, colours: int) -> None:
    values = np.linspace(0, 2**bits - 1, 64 * 64 * colours).reshape(64, 64, colours)
    values[5, 7] = 65535
    with pytest.raises(ImageError, match=r"got .*65535, nearly all at most \d+: the given bytes; scale"):
        read_image(png_of_16_bits(values))
    values[:8] = 65535  # an eighth of the pixels is no accident
    assert levels(png_of_16_bits(values)).max() == 255


def test_colours_of_8_bits_in_16_are_refused_not_black() -> None:
    with pytest.raises(ImageError, match=r"expected colours that use more than a quarter of 16 bits, got at most 255:"):
        read_image(png_of_16_bits(np.repeat(RAMP[:, :, None] * 255, 3, axis=2)))


def test_integers_with_a_sign_have_half_of_the_range(tmp_path: Path) -> None:
    values = np.rint(RAMP * 32767).astype("<i2")
    Image.fromarray(values.view(np.uint16)).save(tmp_path / "a.tif", tiffinfo={339: 2})
    assert np.abs(levels(tmp_path / "a.tif") - (RAMP * 255)[:, :, None]).max() <= 1
    Image.fromarray((values // 8).view(np.uint16)).save(tmp_path / "a.tif", tiffinfo={339: 2})
    with pytest.raises(ImageError, match=r"in 0\.\.255 or 0\.\.32767 .*, got 0\.\.4095"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("clear", [0, 40000])
def test_grey_that_is_transparent_is_white(clear: int) -> None:
    values = np.rint(RAMP * 65535).astype(int)
    values[1:3, 2:5] = clear
    content = png_of_16_bits(values)
    note = b"tRNS" + struct.pack(">H", clear)
    chunk = struct.pack(">I", 2) + note + struct.pack(">I", zlib.crc32(note))
    place = content.index(b"IDAT") - 4
    read = levels(content[:place] + chunk + content[place:])
    expected = np.where(values == clear, 255, values * 255 / 65535)
    assert np.abs(read - expected[:, :, None]).max() <= 1


@pytest.mark.parametrize("kind", ["U5", "object", "S3"])
def test_arrays_of_paths_are_no_image(kind: str) -> None:
    with pytest.raises(ImageError, match=r"expected a uint8 array of one image, got one of .*; give .* as list"):
        read_image(np.array(["a.jpg", "b.jpg"], dtype=kind))


def test_an_array_of_the_bytes_of_a_file() -> None:
    content = np.frombuffer(png_of_16_bits(np.rint(RAMP * 65535)), np.uint8)
    with pytest.raises(ImageError, match=r"got shape \[\d+\]; give the bytes of a file as bytes \(.tobytes\(\)\)"):
        read_image(content)
    assert levels(content.tobytes()).max() == 255


def test_tensors_without_pixels() -> None:
    for tensor in (torch.zeros(3, 4, 4, dtype=torch.uint8, device="meta"), torch.ones(4, 4).byte().to_sparse()):
        with pytest.raises(ImageError, match="expected a dense uint8 tensor, got one"):
            read_image(tensor)


def test_images_whose_file_was_closed(tmp_path: Path) -> None:
    Image.fromarray((RAMP * 255).astype(np.uint8)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pass
    with pytest.raises(ImageError, match=r"got a closed one: the given image; call its load\(\) before"):
        read_image(image)
    with Image.open(tmp_path / "a.png") as image:
        image.load()
    assert levels(image).max() == 255


def test_a_path_with_a_zero() -> None:
    with pytest.raises(ImageError, match=r"expected a path, got text with a null byte: 'a.x00b'; check the path"):
        read_image("a\0b")
