"""Every kind of image becomes the same upright RGB, and batches are padded and normalised exactly."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cora.errors import ImageError
from cora.images import CLIP_MEAN, CLIP_STD, PreprocessConfig, Preprocessor, read_image, read_size

ORIENTATION = 0x0112


def gradient(width: int = 24, height: int = 16) -> Image.Image:
    """An image no two corners of which are alike."""
    y, x = np.mgrid[0:height, 0:width]
    values = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 60)], axis=-1)
    return Image.fromarray(values.astype(np.uint8))


def saved(folder: Path, image: Image.Image, suffix: str = ".png", **options: object) -> Path:
    path = folder / f"picture{suffix}"
    image.save(path, **options)
    return path


def test_rgb_file_is_read_as_it_is(tmp_path: Path) -> None:
    picture = gradient()
    read = read_image(saved(tmp_path, picture))
    assert read.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(read), np.asarray(picture))


def test_path_text_and_path_object_read_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path, gradient())
    assert read_image(path).tobytes() == read_image(str(path)).tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_exif_orientation_is_honoured(
    tmp_path: Path, suffix: str, orientation: int, undo: Image.Transpose | None
) -> None:
    upright = gradient(64, 48)
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    lossy = {"quality": 95} if suffix in (".jpg", ".webp") else {}
    read = read_image(saved(tmp_path, stored, suffix, exif=exif, **lossy))
    assert read.size == upright.size
    assert np.abs(np.asarray(read, dtype=int) - np.asarray(upright, dtype=int)).mean() < 6


def test_reading_twice_turns_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    once = read_image(saved(tmp_path, gradient(), ".jpg", exif=exif))
    assert once.size == (16, 24)
    assert read_image(once).size == (16, 24)


def test_broken_exif_does_not_hinder(tmp_path: Path) -> None:
    path = saved(tmp_path, gradient(), ".jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert read_image(path).size == (24, 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_picture_without_decoding(
    tmp_path: Path, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.new("RGB", (50, 40))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif)
    expected = read_image(tmp_path / "a.jpg")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    assert read_size(tmp_path / "a.jpg") == (expected.height, expected.width)


def test_size_of_what_is_no_image_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="got no file at"):
        read_size(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ImageError, match="something that is no image"):
        read_size(tmp_path / "text.png")
    path = saved(tmp_path, Image.new("1", (2000, 1000)))
    with pytest.raises(ImageError, match="expected at most 1 megapixels, got 2000 x 1000"):
        read_size(path, max_pixels=1_000_000)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_other_modes_in_memory(mode: str) -> None:
    read = read_image(gradient().convert(mode))
    assert (read.mode, read.size) == ("RGB", (24, 16))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", ".png"), ("1", ".png"), ("P", ".gif"), ("LA", ".png"), ("CMYK", ".jpg"), ("CMYK", ".tif")],
)
def test_other_modes_in_files(tmp_path: Path, mode: str, suffix: str) -> None:
    grey = Image.new("L", (24, 16), 255).convert(mode if mode != "CMYK" else "RGB").convert(mode)
    read = read_image(saved(tmp_path, grey, suffix))
    assert read.mode == "RGB"
    assert np.asarray(read).min() >= 250


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    picture.putpixel((1, 2), (0, 0, 0, 0))
    picture.putpixel((2, 2), (0, 0, 0, 128))
    read = read_image(saved(tmp_path, picture))
    assert read.getpixel((0, 0)) == (255, 0, 0)
    assert read.getpixel((1, 2)) == (255, 255, 255)
    assert read.getpixel((2, 2)) == (127, 127, 127)


def test_transparent_palette_entry_lies_on_white(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([0, 0, 200, 0, 200, 0])
    picture.putpixel((3, 3), 1)
    read = read_image(saved(tmp_path, picture, transparency=0))
    assert read.getpixel((0, 0)) == (255, 255, 255)
    assert read.getpixel((3, 3)) == (0, 200, 0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    read = read_image(saved(tmp_path, Image.fromarray(values), suffix))
    assert np.asarray(read)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_float_grey_counts_from_0_to_1(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    read = read_image(saved(tmp_path, Image.fromarray(values), ".tif"))
    assert np.asarray(read)[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(ImageError, match=r"expected grey values in 0\.\.1 or 0\.\.255 .*, got 0\.\.300"):
        read_image(Image.fromarray(values * 300))
    with pytest.raises(ImageError, match="expected grey values"):
        read_image(Image.fromarray(values * np.nan))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_arrays(shape: tuple[int, ...]) -> None:
    read = read_image(np.full(shape, 255, dtype=np.uint8))
    assert (read.mode, read.size, read.getpixel((0, 0))) == ("RGB", (7, 5), (255, 255, 255))


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((4, 4, 3), dtype=np.float32), "got float32"),
        (np.zeros((3, 5, 6), dtype=np.uint8), r"got shape \[3, 5, 6\]; channels come last"),
        (np.zeros((0, 4, 3), dtype=np.uint8), r"got shape \[0, 4, 3\]"),
        (np.zeros(4, dtype=np.uint8), r"got shape \[4\]"),
    ],
)
def test_wrong_arrays(array: np.ndarray, got: str) -> None:
    with pytest.raises(ImageError, match=got):
        read_image(array)


def test_wrong_type() -> None:
    with pytest.raises(ImageError, match=r"expected a path, URL, bytes, .*or a uint8 array or tensor, got dict"):
        read_image({})  # type: ignore[arg-type]


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"expected an image file, got no file at .*none\.jpg; check"):
        read_image(tmp_path / "none.jpg")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="got a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "got an empty file"),
        (b"hello, I am text" * 9, "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no image"),
    ],
)
def test_not_an_image(tmp_path: Path, content: bytes, got: str) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=got):
        read_image(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp", ".gif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), suffix)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ImageError, match=r"damaged or truncated|no image") as error:
        read_image(path)
    assert "\n" not in str(error.value)


def test_too_large_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, Image.new("1", (2000, 1000)))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="expected at most 1 megapixels, got 2000 x 1000"):
        read_image(path, max_pixels=1_000_000)


def test_header_of_a_bomb(tmp_path: Path) -> None:
    # A PNG that claims 60000 x 60000 pixels: Pillow itself refuses to open it.
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    path = tmp_path / "bomb.png"
    path.write_bytes(bytes(data))
    with pytest.raises(ImageError, match="expected at most 100 megapixels"):
        read_image(path)


def test_what_is_decoded_already_is_not_limited() -> None:
    assert read_image(np.zeros((40, 50), dtype=np.uint8), max_pixels=10).size == (50, 40)
    assert read_image(Image.new("RGB", (50, 40)), max_pixels=10).size == (50, 40)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1066)),
        ((640, 480), (1066, 800)),
        ((500, 500), (800, 800)),
        ((300, 900), (444, 1333)),
        ((900, 300), (1333, 444)),
        ((1, 5000), (32, 1333)),
    ],
)
def test_published_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert Preprocessor().resized_size(*size) == expected


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    short=st.integers(32, 900),
    extra=st.integers(0, 900),
)
def test_resized_sizes_keep_limits_and_shape(height: int, width: int, short: int, extra: int) -> None:
    preprocessor = Preprocessor(short_side=short, long_side=short + extra)
    new = preprocessor.resized_size(height, width)
    assert min(new) <= short
    assert max(new) <= short + extra
    assert min(new) == short or max(new) == short + extra
    assert min(new) >= 32
    assert preprocessor.resized_size(width, height) == new[::-1]
    if min(new) > 32:  # thinner images are widened on purpose
        assert abs(new[0] * width - new[1] * height) <= max(height, width)


def test_batch_is_normalised_and_padded() -> None:
    preprocessor = Preprocessor(short_side=32, long_side=64)
    batch = preprocessor([Image.new("RGB", (100, 50), (255, 0, 51)), Image.new("RGB", (40, 40))])
    assert batch.pixels.shape == (2, 3, 32, 64)
    assert batch.sizes == ((32, 64), (32, 32))
    assert batch.original_sizes == ((50, 100), (40, 40))
    expected = (torch.tensor([1.0, 0.0, 0.2]) - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    torch.testing.assert_close(batch.pixels[0, :, 7, 50], expected)
    assert not batch.mask[0].any()
    assert batch.mask[1, :, 32:].all()
    assert not batch.mask[1, :, :32].any()
    assert (batch.pixels[1, :, :, 32:] == 0).all()


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    preprocessor = Preprocessor(short_side=32, long_side=64)
    alone = preprocessor([gradient()])
    together = preprocessor([gradient(), gradient(90, 40)])
    height, width = alone.sizes[0]
    torch.testing.assert_close(together.pixels[0, :, :height, :width], alone.pixels[0])


def test_padding_to_a_multiple() -> None:
    batch = Preprocessor(short_side=33, long_side=70, multiple=32)([gradient()])
    assert batch.sizes == ((33, 49),)
    assert batch.pixels.shape[-2:] == (64, 64)


def test_collate_keeps_sizes_and_originals() -> None:
    batch = Preprocessor().collate([gradient()], [(160, 240)])
    assert (batch.sizes, batch.original_sizes) == (((16, 24),), ((160, 240),))
    with pytest.raises(ValueError, match="at least one image"):
        Preprocessor().collate([])
    with pytest.raises(ValueError, match="expected RGB images, got mode L"):
        Preprocessor()([gradient().convert("L")])


def test_config_survives_and_is_checked() -> None:
    config = PreprocessConfig(short_side=320, long_side=640, multiple=32)
    assert config.usual_short_side == 320
    assert PreprocessConfig(short_side=640, long_side=640).usual_short_side == 480  # 640 x 480
    assert Preprocessor.from_config(config).config == config
    assert PreprocessConfig(mean=list(CLIP_MEAN)) == PreprocessConfig()  # type: ignore[arg-type]  # from JSON
    with pytest.raises(ValueError, match="expected 1 <= short_side <= long_side, got 800 and 400"):
        PreprocessConfig(short_side=800, long_side=400)
    with pytest.raises(ValueError, match="positive deviations"):
        PreprocessConfig(std=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="multiple of at least 1"):
        PreprocessConfig(multiple=0)


@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    short=st.integers(1, 8),
    extra=st.integers(0, 8),
)
def test_whole_sides_are_multiples_near_the_plain_ones(height: int, width: int, short: int, extra: int) -> None:
    limits = {"short_side": 32 * short, "long_side": 32 * (short + extra)}
    plain = Preprocessor(**limits).resized_size(height, width)
    whole = Preprocessor(**limits, multiple=32, whole=True).resized_size(height, width)
    assert all(side % 32 == 0 and side >= 32 for side in whole)
    assert max(whole) <= 32 * (short + extra)
    assert all(abs(one - other) <= 16 or other == 32 for one, other in zip(plain, whole, strict=True))
    assert Preprocessor(**limits, multiple=32, whole=True).resized_size(width, height) == whole[::-1]


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=3))
def test_whole_pictures_are_padded_to_each_other_only(sizes: list[tuple[int, int]]) -> None:
    make = Preprocessor(short_side=64, long_side=96, multiple=32, whole=True)
    batch = make([Image.new("RGB", size) for size in sizes])
    assert batch.original_sizes == tuple((height, width) for width, height in sizes)
    assert batch.pixels.shape[-2:] == tuple(max(size[axis] for size in batch.sizes) for axis in (0, 1))
    if len(sizes) == 1:
        assert not batch.mask.any()
    for (height, width), mask in zip(batch.sizes, batch.mask, strict=True):
        assert int((~mask).sum()) == height * width
        cells = mask[::32, ::32]  # no cell is half padding
        assert torch.equal(cells.repeat_interleave(32, 0).repeat_interleave(32, 1), mask)


@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from([(1, False), (32, False), (32, True)]))
def test_padded_size_is_that_of_the_batch(height: int, width: int, kind: tuple[int, bool]) -> None:
    made = Preprocessor(short_side=64, long_side=96, multiple=kind[0], whole=kind[1])
    batch = made([Image.new("RGB", (width, height))])
    assert made.padded_size(height, width) == tuple(batch.pixels.shape[-2:])
