"""Opens video files, cameras and streams, and nothing else that these may refer to."""

from __future__ import annotations

import platform
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from cora.errors import needs_extra
from cora.files import HEAD_BYTES, content_of, not_fetched
from cora.video.errors import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer

#: Protocols of streams. A playlist may refer to further addresses of these protocols, never to a local file.
STREAM_PROTOCOLS = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "tcp", "udp")
_ALLOWED_IN_STREAMS = (*STREAM_PROTOCOLS, "crypto", "hls", "httpproxy", "srtp", "tls", "udplite")

#: Seconds for which a camera or stream may be silent, when it is opened and between two frames.
PATIENCE = 10.0

_CAMERA_FORMATS = {"Linux": "video4linux2", "Darwin": "avfoundation", "Windows": "dshow"}


@dataclass(frozen=True)
class VideoSource:
    """A source by its kind.

    Attributes:
        kind: "file", "camera" or "stream".
        target: path of the file, name of the camera's device, or address of the stream.
    """

    kind: Literal["file", "camera", "stream"]
    target: str

    @property
    def stem(self) -> str:
        """The stem for names of result files."""
        return Path(self.target).stem if self.kind == "file" else self.kind


def parse_source(source: str | Path) -> VideoSource:
    """The source that a text names: a number or `camera:NAME` is a camera, `PROTOCOL://...` a stream, all else a file.

    Raises:
        VideoError: an unknown protocol, or a number of a camera on Windows, where cameras have names.
    """
    text = str(source)
    if isinstance(source, str):
        if text.isdecimal() or text.startswith("camera:"):
            return VideoSource("camera", _device(text.removeprefix("camera:")))
        protocol = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
        if protocol:
            if protocol[1].lower() not in STREAM_PROTOCOLS:
                known = ", ".join(STREAM_PROTOCOLS)
                raise VideoError(f"expected a stream by {known}, got {protocol[1]}: {text}; name a file by its path")
            return VideoSource("stream", text)
    try:
        is_device = stat.S_ISCHR(Path(text).stat().st_mode) and text.startswith("/dev/video")
    except OSError:
        is_device = False
    return VideoSource("camera" if is_device else "file", text)


def _device(name: str) -> str:
    system = platform.system()
    if name.isdecimal() and system == "Linux":
        return f"/dev/video{name}"
    if system == "Windows":
        if name.isdecimal():
            raise VideoError(f"expected a camera by its name on Windows, got {name}; use camera:NAME")
        return f"video={name}"
    return name


@contextmanager
def open_container(source: VideoSource) -> Iterator[InputContainer]:
    """Open a source for reading; the context closes it.

    FFmpeg gets a file already open and may use no protocol, so it cannot open what the file refers to (a playlist's
    entries, say).

    Raises:
        VideoError: the source cannot be opened.
        MissingExtraError: the extra `video` is not installed.
    """
    with needs_extra("video", extra="video"):
        import av
    with ExitStack() as stack:
        if source.kind == "file":
            yield _open_file(source.target, stack)
        else:
            try:
                container = _open_live(source)
            except (av.error.FFmpegError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                advice = "connect it, or name another" if source.kind == "camera" else "check the address"
                raise VideoError(f"expected a {source.kind} at {source.target}, got {reason}; {advice}") from None
            yield stack.enter_context(container)


def _open_live(source: VideoSource) -> InputContainer:
    import av

    if source.kind == "camera":
        return av.open(source.target, format=camera_format(), timeout=PATIENCE)
    options = {"protocol_whitelist": ",".join(_ALLOWED_IN_STREAMS)}
    return av.open(source.target, options=options, timeout=PATIENCE)


def camera_format() -> str:
    """FFmpeg's name for the camera interface of this system."""
    return _CAMERA_FORMATS.get(platform.system(), "video4linux2")


def _open_file(path: str, stack: ExitStack) -> InputContainer:
    import av

    file = stack.enter_context(_file(path))
    try:
        container = stack.enter_context(av.open(file, "r", options={"protocol_whitelist": "none"}))
    except (OSError, av.error.FFmpegError):  # damaged files may make FFmpeg seek to before their start
        raise VideoError(f"expected a video (MP4, MKV, WebM, MOV, GIF, ...), {_instead(file)}: {path}") from None
    if container.format.name.endswith("_pipe") or container.format.name == "image2":
        raise VideoError(f"expected a video, got an image: {path}; use 'cora detect' for images")
    return container


def _instead(file: BinaryIO) -> str:
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if other := not_fetched(head):
        return other
    name, _ = content_of(head) or ("something that is none", "")
    return "got a damaged or truncated one" if name == "a video" else f"got {name}, or is damaged"


def _file(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise VideoError(f"expected a video file, got no file at {path}; check the path") from None
    except IsADirectoryError:
        raise VideoError(f"expected a video file, got a folder: {path}; name a file in it") from None
    except OSError as error:
        raise VideoError(f"expected a readable file, got {error.strerror or error}: {path}") from None
