"""Videos written and read again: times, sound, sizes, colours; nothing is left of what failed."""

import resource
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cora.errors import CoraError
from cora.video import Frame, VideoError, VideoReader, VideoWriter
from cora.video.gif import GifFile
from tests.video.clips import STEP, make_clip, packets, scene


def copy(source: Path, target: Path, *, stop: type[BaseException] | None = None, **options: Any) -> Path:
    """Read and write again; with `stop`, raise that at the fifth image."""
    with VideoReader(source, **options) as video, VideoWriter(target, like=video) as writer:
        for frame in video:
            if stop is not None and frame.index == 4:
                raise stop
            writer.write(frame, Image.fromarray(frame.pixels))
    return target


@pytest.mark.parametrize(("suffix", "sound"), [(".mp4", "flac"), (".mov", "alac"), (".mkv", "flac")])
def test_uneven_times_and_sound_are_kept(tmp_path: Path, suffix: str, sound: str) -> None:
    times = [0, 900, 5_400, 30_060, 36_000, 90_000]
    source = make_clip(tmp_path / "a.mkv", times=times, sound=sound)
    target = copy(source, tmp_path / f"b{suffix}")
    with VideoReader(source) as before, VideoReader(target) as after:
        assert [frame.seconds for frame in after] == [frame.seconds for frame in before]
    assert packets(target, "audio") == packets(source, "audio")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_last_picture_keeps_its_length(tmp_path: Path) -> None:
    target = copy(make_clip(tmp_path / "a.mp4", times=[0, 100, 50_000]), tmp_path / "b.mp4")
    with VideoReader(target) as video:
        assert video.length == pytest.approx(50_000 / 90_000 + 0.1)


def test_start_and_every_keep_sound_in_step(tmp_path: Path) -> None:
    times = [STEP * n for n in range(40)]
    source = make_clip(tmp_path / "a.mkv", times=times, sound="flac", sound_seconds=4)
    target = copy(source, tmp_path / "b.mkv", start=1.0, seconds=1.0, every=2)
    with VideoReader(target) as video:
        frames = list(video)
        sound = [float(p.pts * p.time_base) for p in video.take_sound()]
    assert [round(frame.seconds, 2) for frame in frames] == [0, 0.2, 0.4, 0.6, 0.8]
    heard = {content: time for time, content in packets(source, "audio")}
    again = packets(target, "audio")
    assert {round(float(heard[content] - time), 2) for time, content in again} == {1.0}
    assert 0.9 < sound[-1] < 1.0


@pytest.mark.parametrize("size", [(65, 47), (64, 47), (65, 48)])
def test_odd_sizes_get_one_more_column_or_row(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    source = make_clip(tmp_path / "a.mp4", times=[0, STEP], pictures=[scene(0, width, height)] * 2)
    with VideoReader(copy(source, tmp_path / "b.mp4")) as video:
        pixels = next(iter(video)).pixels
    assert pixels.shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(pixels[:height, :width].astype(int) - scene(0, width, height)).mean() < 6


@pytest.mark.parametrize("matrix", [None, 1, 6])
def test_colours_are_kept(tmp_path: Path, matrix: int | None) -> None:
    source = make_clip(tmp_path / "a.mp4", colours=matrix)
    with VideoReader(source) as before, VideoReader(copy(source, tmp_path / "b.mp4")) as after:
        assert after.look == before.look
        assert after.look[0] == (2 if matrix is None else matrix)
        assert np.abs(next(iter(after)).pixels.astype(int) - next(iter(before)).pixels).mean() < 3


def test_shape_of_pixels_is_kept_and_turned(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", aspect=Fraction(4, 3), rotation=90)
    with VideoReader(copy(source, tmp_path / "b.mp4")) as video:
        assert video.size == (64, 48)
        assert video.look[3] == Fraction(3, 4)


def test_webm(tmp_path: Path) -> None:
    target = copy(make_clip(tmp_path / "a.mkv", sound="libopus"), tmp_path / "b.webm")
    with VideoReader(target) as video:
        assert len(list(video)) == 10
        assert video.sound is not None


def test_gif(tmp_path: Path) -> None:
    pictures = [scene(0), scene(1), scene(2)]
    pictures[2][30:40, 20:50] = (240, 220, 10)  # a colour that the first image has not
    source = make_clip(tmp_path / "a.mp4", times=[0, STEP, 4 * STEP], pictures=pictures, sound="aac")
    with Image.open(copy(source, tmp_path / "b.gif")) as gif:
        lengths = []
        for number in range(gif.n_frames):
            gif.seek(number)
            lengths.append(gif.info["duration"])
        last = np.asarray(gif.convert("RGB")).astype(int)
    assert lengths == [100, 300, 100]
    assert np.abs(last - pictures[2]).mean() < 8
    assert np.abs(last[35, 35] - (240, 220, 10)).max() < 40


@pytest.mark.parametrize("name", ["b.mp4", "b.gif"])
def test_images_of_another_size_get_that_of_the_first(tmp_path: Path, name: str) -> None:
    with VideoReader(make_clip(tmp_path / "a.mp4")) as video, VideoWriter(tmp_path / name, like=video) as writer:
        for number, frame in enumerate(video):
            image = Image.fromarray(frame.pixels)
            writer.write(frame, image.resize((32, 24)) if number % 2 else image)
    with VideoReader(tmp_path / name) as video:
        assert {frame.pixels.shape for frame in video} == {(48, 64, 3)}


def test_noise_does_not_change_a_gif_and_what_moves_does(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-2, 3, (48, 64, 3))
    still = np.full((48, 64, 3), 120)
    moved = still + noise
    moved[:10, :10] = 250
    file = GifFile(tmp_path / "a.gif", Fraction(1, 10))
    for number, pixels in enumerate((still - noise, still + noise, moved)):
        picture = pixels.astype(np.uint8)
        file.write(Frame(number, number / 10, number, 1, picture), Image.fromarray(picture))
    file.finish()
    with Image.open(tmp_path / "a.gif") as gif:
        first, last = gif.convert("RGB"), gif
        last.seek(gif.n_frames - 1)
        changed = (np.asarray(first) != np.asarray(last.convert("RGB"))).any(axis=2)
    assert changed[:10, :10].all()
    assert changed.sum() == 100


def test_sound_that_does_not_fit(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", sound="aac")
    with VideoReader(source) as video:
        with pytest.raises(
            VideoError, match=r"can hold the sound \(aac\), got .*b.webm; choose a name that ends in .mkv"
        ):
            VideoWriter(tmp_path / "b.webm", like=video)
        with VideoWriter(tmp_path / "b.webm", like=video, sound=False) as writer:
            for frame in video:
                writer.write(frame, Image.fromarray(frame.pixels))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.webm"]


def test_unknown_kind(tmp_path: Path) -> None:
    with VideoReader(make_clip(tmp_path / "a.mp4")) as video:
        for name in ("b.avi", "b"):
            with pytest.raises(VideoError, match=r"ends in \.mp4, .*\.gif, got"):
                VideoWriter(tmp_path / name, like=video)


def test_error_leaves_nothing_and_ctrl_c_what_was_done(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", sound="aac")
    for error, kept in ((RuntimeError, ["a.mp4"]), (KeyboardInterrupt, ["a.mp4", "b.mp4"])):
        with pytest.raises(error):
            copy(source, tmp_path / "b.mp4", stop=error)
        assert sorted(path.name for path in tmp_path.iterdir()) == kept
    with VideoReader(tmp_path / "b.mp4") as video:
        assert len(list(video)) == 4
        assert video.take_sound()


def test_nothing_written_is_no_file(tmp_path: Path) -> None:
    with VideoReader(make_clip(tmp_path / "a.mp4")) as video, VideoWriter(tmp_path / "b.mp4", like=video):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are Unix's")
def test_full_disk(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (10, 128, 160, 3), dtype=np.uint8)
    source = make_clip(tmp_path / "a.mp4", pictures=list(noise))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(CoraError, match=r"expected to write .*b\.mp4, got"):
            copy(source, tmp_path / "b.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_place_that_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with VideoReader(make_clip(tmp_path / "a.mp4")) as video, pytest.raises(CoraError, match="expected to write"):
        VideoWriter(tmp_path / "file" / "b.mp4", like=video)
