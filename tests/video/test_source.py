"""What a source names: files, cameras, streams; what a file refers to stays closed."""

import functools
import http.server
import platform
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from cora.errors import MissingExtraError
from cora.video import VideoError, VideoReader
from cora.video import source as source_module
from cora.video.source import VideoSource, parse_source
from tests.video.clips import make_clip

needs_lavfi = pytest.mark.skipif("lavfi" not in av.formats_available, reason="this build makes no test images")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A web server over `tmp_path`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("street.mp4", VideoSource("file", "street.mp4")),
        ("./0", VideoSource("file", "./0")),
        ("rtsp://host/live", VideoSource("stream", "rtsp://host/live")),
        ("HTTP://host/a.m3u8", VideoSource("stream", "HTTP://host/a.m3u8")),
    ],
)
def test_kinds(text: str, source: VideoSource) -> None:
    assert parse_source(text) == source


def test_paths_are_files(tmp_path: Path) -> None:
    assert parse_source(Path("0")) == VideoSource("file", "0")
    assert parse_source(tmp_path / "my.clip.mp4").stem == "my.clip"
    assert parse_source("rtsp://host/live").stem == "stream"


@pytest.mark.parametrize(
    ("system", "text", "target"),
    [
        ("Linux", "1", "/dev/video1"),
        ("Linux", "camera:/dev/video7", "/dev/video7"),
        ("Darwin", "1", "1"),
        ("Windows", "camera:Desk", "video=Desk"),
    ],
)
def test_cameras(monkeypatch: pytest.MonkeyPatch, system: str, text: str, target: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    assert parse_source(text) == VideoSource("camera", target)


def test_number_of_a_camera_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    with pytest.raises(VideoError, match="got 0; use camera:NAME"):
        parse_source("0")


@pytest.mark.parametrize("text", ["file:///etc/passwd", "ftp://host/a.mp4", "concat://a|b"])
def test_other_protocols_are_refused(text: str) -> None:
    with pytest.raises(VideoError, match=r"expected a stream by http, https, .*name a file by its path"):
        parse_source(text)


def test_missing_camera() -> None:
    with pytest.raises(VideoError, match=r"expected a camera at .*; connect it, or name another"):
        VideoReader("camera:/dev/video987")


@needs_lavfi
def test_camera_gives_the_newest_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "camera_format", lambda: "lavfi")
    with VideoReader("camera:testsrc=size=64x48:rate=100", seconds=0.2) as video:
        assert video.live
        assert video.length == pytest.approx(0.2)
        times = [frame.seconds for frame in video]
    assert times == sorted(set(times))
    assert times[-1] == pytest.approx(0.19)
    with pytest.raises(VideoError, match="expected to start now with a camera"):
        VideoReader("camera:testsrc=size=64x48:rate=100", start=3)


def test_stream(tmp_path: Path, address: str) -> None:
    make_clip(tmp_path / "a.mkv", sound="flac")
    with VideoReader(f"{address}/a.mkv") as video:
        assert not video.live
        assert len(list(video)) == 10
        assert len(video.take_sound()) > 5


def test_missing_stream(address: str) -> None:
    with pytest.raises(VideoError, match=r"expected a stream at .*none.mkv, got .*; check the address"):
        VideoReader(f"{address}/none.mkv")


@pytest.mark.parametrize("form", ["{path}", "file://{path}"])
def test_playlist_of_a_stream_opens_no_file_of_this_machine(tmp_path: Path, address: str, form: str) -> None:
    secret = make_clip(tmp_path / "secret.ts")
    entry = form.format(path=secret)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{entry}\n#EXT-X-ENDLIST\n"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "list.m3u8").write_text(playlist)
    with pytest.raises(VideoError):
        VideoReader(f"{address}/sub/list.m3u8")


@pytest.mark.parametrize(
    "content",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}/other.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {other}\n",
    ],
)
def test_file_opens_no_other_file_or_address(tmp_path: Path, address: str, content: str) -> None:
    other = make_clip(tmp_path / "other.ts")
    path = tmp_path / "video.mp4"
    path.write_text(content.format(other=other.name, address=address))
    with pytest.raises(VideoError, match="got something that is none"):
        VideoReader(path)


def test_library_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"cora-ovd\[video\]"):
        VideoReader(path)
