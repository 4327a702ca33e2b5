"""Frames: their times, sides and sizes; bad files; sound; what is skipped."""

from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from cora.video import VideoError, VideoReader
from cora.video import reader as reader_module
from tests.video.clips import STEP, make_clip, make_sound, packets, scene


def test_frames_with_times(tmp_path: Path) -> None:
    with VideoReader(make_clip(tmp_path / "a.mp4")) as video:
        assert (video.size, video.rate, video.time_base, video.live) == ((48, 64), 10, Fraction(1, 90_000), False)
        assert video.length == pytest.approx(1.0)
        frames = list(video)
    assert [frame.index for frame in frames] == list(range(10))
    assert [frame.pts for frame in frames] == [STEP * n for n in range(10)]
    assert frames[3].seconds == pytest.approx(0.3)
    assert np.abs(frames[3].pixels.astype(int) - scene(3)).mean() < 4
    assert video.problems == ()


def test_variable_rate_is_kept(tmp_path: Path) -> None:
    times = [0, 900, 5_000, 30_000, 30_010, 90_000]
    with VideoReader(make_clip(tmp_path / "a.mp4", times=times)) as video:
        assert [frame.pts for frame in video] == times


def test_times_count_from_the_start_of_the_video(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.ts", times=[700_000 + STEP * n for n in range(4)])
    with VideoReader(path) as video:
        frames = list(video)
    assert frames[0].pts == 0
    assert [round(frame.seconds, 3) for frame in frames] == [0, 0.1, 0.2, 0.3]


def test_images_without_times_follow_each_other_from_zero(tmp_path: Path) -> None:
    path = tmp_path / "a.h264"  # a stream without a container, and so without times
    with av.open(str(make_clip(tmp_path / "a.mp4"))) as clip, av.open(str(path), "w", format="h264") as bare:
        copied = bare.add_stream_from_template(clip.streams.video[0])
        for packet in clip.demux(video=0):
            if packet.dts is not None:
                packet.stream = copied
                bare.mux(packet)
    with VideoReader(path) as video:
        step = 1 / float(video.rate)
        assert [frame.seconds for frame in video] == pytest.approx([number * step for number in range(10)])


def test_part_and_every(tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / "a.mp4", times=[STEP * n for n in range(40)], pictures=[scene(0)] * 40, sound="aac", sound_seconds=4
    )
    with VideoReader(path, start=1.0, seconds=2.0, every=5) as video:
        assert video.length == pytest.approx(2.0)
        frames = list(video)
        sound = video.take_sound()
    assert [round(frame.seconds, 3) for frame in frames] == [1.0, 1.5, 2.0, 2.5]
    assert [frame.pts for frame in frames] == [0, 5 * STEP, 10 * STEP, 15 * STEP]
    assert [frame.index for frame in frames] == [0, 5, 10, 15]
    assert frames[0].duration == 5 * STEP
    times = [float(packet.pts * packet.time_base) for packet in sound]
    assert 0 <= times[0] < 0.1
    assert 1.9 < times[-1] < 2.0


def test_all_sound_is_read(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", sound="aac")
    with VideoReader(path) as video:
        for _ in video:
            pass
        taken = video.take_sound()
        assert video.take_sound() == []
    assert [(p.pts * p.time_base, bytes(p)) for p in taken] == packets(path, "audio")


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, turn: int) -> None:
    with VideoReader(make_clip(tmp_path / "a.mp4", rotation=turn)) as video:
        first = next(iter(video)).pixels
        assert video.size == first.shape[:2]
    upright = np.rot90(scene(0), turn // 90)
    assert first.shape == upright.shape
    assert np.abs(first.astype(int) - upright).mean() < 4


def test_odd_size_is_read_as_it_is(tmp_path: Path) -> None:
    pictures = [scene(0, 65, 47)] * 2
    with VideoReader(make_clip(tmp_path / "a.mp4", times=[0, STEP], pictures=pictures)) as video:
        assert video.size == (47, 65)


def test_size_that_changes_is_scaled_to_the_first(tmp_path: Path) -> None:
    joined = b"".join(
        make_clip(
            tmp_path / f"{side}.ts", times=[start, start + STEP], pictures=[scene(0, side, side)] * 2
        ).read_bytes()
        for start, side in ((0, 64), (20_000, 96))
    )
    (tmp_path / "a.ts").write_bytes(joined)
    with VideoReader(tmp_path / "a.ts") as video:
        frames = list(video)
    assert len(frames) == 4
    assert {frame.pixels.shape for frame in frames} == {(64, 64, 3)}


def test_gif_is_a_video(tmp_path: Path) -> None:
    first, *others = [Image.fromarray(scene(n)) for n in range(3)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=[100, 300, 50])
    with VideoReader(tmp_path / "a.gif") as video:
        assert [round(frame.seconds, 2) for frame in video] == [0, 0.1, 0.4]


def test_damaged_middle_is_counted(tmp_path: Path) -> None:
    path = make_clip(
        tmp_path / "a.ts", times=[STEP * n for n in range(60)], pictures=[scene(n % 10) for n in range(60)]
    )
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content) // 3, 2 * len(content) // 3, 300):
        content[place] ^= 0xFF
    path.write_bytes(content)
    with VideoReader(path) as video:
        assert len(list(video)) > 20
        assert len(video.problems) == 1
    assert "damaged images or packets" in video.problems[0]


def test_file_that_breaks_off(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (50, 48, 64, 3), dtype=np.uint8)
    path = make_clip(tmp_path / "a.mp4", times=[STEP * n for n in range(50)], pictures=list(noise))
    with (
        av.open(str(path)) as container,
        av.open(str(tmp_path / "front.mp4"), "w", options={"movflags": "faststart"}) as out,
    ):
        copy = out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    content = (tmp_path / "front.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    with VideoReader(tmp_path / "cut.mp4") as video:
        count = len(list(video))
    assert 10 < count < 40
    assert any("it breaks off after" in problem for problem in video.problems)


@pytest.mark.parametrize("kept", [0.5, 0.98, 1.0])
@pytest.mark.parametrize(
    ("name", "packet"),
    [
        *(("a.ts", 188), ("a.ts", 192), ("a.mkv", 1), ("a.avi", 1), ("a.flv", 1), ("a.wmv", 1), ("a.gif", 1)),
        *(("front.mp4", 1), ("fragments.mp4", 1)),
    ],
)
def test_a_video_that_is_cut_is_not_taken_for_complete(tmp_path: Path, name: str, packet: int, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), dtype=np.uint8)
    plain = make_clip(tmp_path / name, times=[STEP * n for n in range(30)], pictures=list(noise)).read_bytes()
    if packet > 1:
        stamp = bytes(packet - 188)
        plain = b"".join(stamp + plain[place : place + 188] for place in range(0, len(plain), 188))
    cut = len(plain) if kept == 1 else int(kept * len(plain)) // packet * packet + 100
    (tmp_path / name).write_bytes(plain[:cut])
    with VideoReader(tmp_path / name) as video:
        assert len(list(video)) > 5
        assert any("it breaks off after" in problem for problem in video.problems) == (kept < 1)
    (tmp_path / name).write_bytes(plain + b"what another program added" * 3)
    with VideoReader(tmp_path / name) as video:
        assert len(list(video)) == 30
        assert not video.problems


@pytest.mark.parametrize("name", ["a.mp4", "front.mp4", "fragments.mp4", "a.flv"])
def test_a_video_that_is_cut_before_its_images_is_called_damaged(tmp_path: Path, name: str) -> None:
    content = make_clip(tmp_path / name).read_bytes()
    end = -100 if name == "a.mp4" else 300  # in its table of images, which is behind them
    (tmp_path / name).write_bytes(content[:end])
    with pytest.raises(VideoError, match="damaged or truncated"):
        VideoReader(tmp_path / name)


def test_missing_packets_are_counted(tmp_path: Path) -> None:
    content = make_clip(
        tmp_path / "a.ts", times=[STEP * n for n in range(60)], pictures=[scene(n % 10) for n in range(60)]
    ).read_bytes()
    middle = len(content) // 2 // 188 * 188
    (tmp_path / "a.ts").write_bytes(content[:middle] + content[middle + 20 * 188 :])
    with VideoReader(tmp_path / "a.ts") as video:
        assert len(list(video)) < 60
        assert any("damaged images or packets" in problem for problem in video.problems)


@pytest.mark.parametrize("name", ["a.ts", "a.mp4", "a.mkv", "a.avi", "a.flv"])
def test_a_start_loses_no_image_whatever_the_format(tmp_path: Path, name: str) -> None:
    """Images from which decoding can begin are two seconds apart."""
    times = [STEP * number for number in range(60)]
    pictures = [scene(number % 10) for number in range(60)]
    path = make_clip(tmp_path / name, times=times, pictures=pictures, keys=20)
    for start in (0.3, 1.9, 2.0, 3.7, 5.9):
        with VideoReader(path, start=start) as video:
            assert [round(frame.seconds, 1) for frame in video] == [n / 10 for n in range(round(start * 10), 60)]
    with pytest.raises(VideoError, match=r"expected a start within the video of 6\.0 s, got 30 s"):
        VideoReader(path, start=30)


def test_pictures_of_damaged_headers_only(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mkv")
    content = bytearray(path.read_bytes())
    start = content.find(b"\x1f\x43\xb6\x75")  # the first cluster: what follows is no longer one
    content[start + 20 :] = bytes(len(content) - start - 20)
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"no image can be decoded|with images, got none"):
        VideoReader(path)


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("I am no video. " * 50)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(make_clip(tmp_path / "a.mp4").read_bytes()[:600])
    make_sound(tmp_path / "sound.flac")
    make_clip(tmp_path / "none.mkv", times=[], pictures=[], sound="flac")
    for name, message in {
        "missing.mp4": "got no file at",
        "text.mp4": "got something that is none, or is damaged",
        "empty.mp4": "got an empty file",
        "cut.mp4": "got a damaged or truncated one",
        "sound.flac": "got a file with sound only",
        "none.mkv": "expected a video with images, got none in it",
        ".": "got a folder",
    }.items():
        with pytest.raises(VideoError, match=message):
            VideoReader(tmp_path / name)


def test_cover_of_music_is_no_video(tmp_path: Path) -> None:
    picture = BytesIO()
    Image.fromarray(scene(0)).save(picture, format="PNG")
    sound = av.open(str(make_sound(tmp_path / "a.flac")))
    with sound, av.open(str(tmp_path / "music.m4a"), "w", format="mp4") as out:
        tone = out.add_stream_from_template(sound.streams.audio[0])
        cover = out.add_mux_stream("png", width=64, height=48)
        cover.disposition = Disposition.attached_pic
        packet = av.Packet(picture.getvalue())
        packet.stream, packet.pts, packet.dts = cover, 0, 0
        out.mux(packet)
        for heard in sound.demux(audio=0):
            if heard.dts is not None:
                heard.stream = tone
                out.mux(heard)
    with pytest.raises(VideoError, match="got a file with sound only"):
        VideoReader(tmp_path / "music.m4a")


def test_picture_is_no_video(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        Image.fromarray(scene(0)).save(tmp_path / name)
        with pytest.raises(VideoError, match=r"got an image: .*use 'cora detect'"):
            VideoReader(tmp_path / name)


def test_start_beyond_the_end(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"expected a start within the video of 1\.0 s, got 5 s"):
        VideoReader(make_clip(tmp_path / "a.mp4"), start=5)


def test_pictures_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "MAX_PIXELS", 1_000)
    with pytest.raises(VideoError, match="megapixels, got 64 x 48"):
        VideoReader(make_clip(tmp_path / "a.mp4"))


def test_misuse(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="every: expected at least 1, got 0"):
        VideoReader(path, every=0)
    with VideoReader(path) as video:
        list(video)
        with pytest.raises(ValueError, match="iterate over a video once"):
            list(video)
