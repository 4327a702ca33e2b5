"""Writes videos: frames with the times of the source, and its sound, copied packet by packet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from PIL import Image

from cora.errors import CoraError
from cora.files import whole_file
from cora.video.errors import VideoError
from cora.video.gif import GifFile
from cora.video.reader import Frame, VideoReader

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# Without B-frames, frames are stored in the order in which they are shown: uneven times stay exact in MP4.
_H264 = ("h264", {"preset": "veryfast", "crf": "23", "bf": "0"})
_VP9 = ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "32", "b": "0"})

#: Ending -> container, codec and its options.
_FORMATS = {
    ".mp4": ("mp4", *_H264),
    ".m4v": ("mp4", *_H264),
    ".mov": ("mov", *_H264),
    ".mkv": ("matroska", *_H264),
    ".webm": ("webm", *_VP9),
}

VIDEO_SUFFIXES = (*_FORMATS, ".gif")
"""Endings of files that can be written; AVI is missing, since it has no variable frame rate."""

#: Code of a colour matrix in H.273 -> PyAV's name; colours of other matrices are written as unspecified.
_MATRICES = {1: "ITU709", 5: "ITU601", 6: "ITU601", 7: "SMPTE240M", 9: "BT2020"}


class _Target(Protocol):
    def write(self, frame: Frame, picture: Image.Image) -> None: ...

    def copy_sound(self, packets: Iterable[Packet[AudioStream]]) -> None: ...

    def finish(self) -> None: ...


def check_video_path(path: Path) -> None:
    """Check that a video can be written under a file name, by its ending.

    Raises:
        VideoError: the ending is not one of `VIDEO_SUFFIXES`.
    """
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise VideoError(f"expected the name of a video that ends in {', '.join(VIDEO_SUFFIXES)}, got {path}")


def can_hold(path: Path, sound: AudioStream) -> bool:
    """Whether this kind of file can hold the sound as it is; True for a GIF, which drops it."""
    import av

    if path.suffix.lower() == ".gif":
        return True
    try:
        with av.open(BytesIO(), "w", format=_FORMATS[path.suffix.lower()][0]) as container:
            container.add_stream_from_template(sound)
            container.start_encoding()
    except (ValueError, av.error.FFmpegError):
        return False
    return True


class VideoWriter:
    """Writes images at the times of the frames they were made from; the file appears when all is written.

    The time base is that of the source, so a variable frame rate is kept. Sound is copied, not encoded again. Images of
    odd width or height get one more column or row, a copy of the last one, since the codecs need even sizes. A GIF has
    no sound, and its times are rounded to hundredths of a second.

    Args:
        path: file to write; its ending determines the format.
        like: the source, whose time base, rate, colours and sound are used.
        sound: whether to copy the sound.

    Raises:
        VideoError: the format is unknown, or cannot hold the sound.
        CoraError: the file cannot be written.

    Examples:
        >>> from cora.video import VideoReader
        >>> with VideoReader("street.mp4") as video, VideoWriter("grey.mp4", like=video) as writer:
        ...     for frame in video:
        ...         writer.write(frame, Image.fromarray(frame.pixels).convert("L").convert("RGB"))
        >>> Path("grey.mp4").is_file()
        True
    """

    def __init__(self, path: str | Path, *, like: VideoReader, sound: bool = True) -> None:
        self.path, self._source = Path(path), like
        check_video_path(self.path)
        self._sound = like.sound if sound else None
        if self._sound is not None and not can_hold(self.path, self._sound):
            raise VideoError(
                f"expected a kind of file that can hold the sound ({self._sound.codec_context.name}), "
                f"got {self.path}; choose a name that ends in .mkv, or leave the sound out"
            )
        self._stack = ExitStack()
        self._target: _Target | None = None
        self._size_wh = (0, 0)  # of the first image
        self._temporary = self._stack.enter_context(whole_file(self.path, keep_interrupted=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._target is not None and (kind is None or issubclass(kind, KeyboardInterrupt)):
                with self._write_errors():
                    self._target.copy_sound(self._source.take_sound())
                    self._target.finish()
        except BaseException as failure:
            kind, error, trace = type(failure), failure, failure.__traceback__
            raise
        finally:
            if isinstance(self._target, _VideoFile):
                self._target.close()
            self._stack.__exit__(kind, error, trace)

    def write(self, frame: Frame, picture: Image.Image) -> None:
        """Append an RGB image at the time of a frame; it is resized to the size of the first image if it differs.

        Raises:
            CoraError: the file cannot be written (full disk).
        """
        with self._write_errors():
            if self._target is None:
                self._size_wh = picture.size
                self._target = self._open(picture.size)
            self._target.write(frame, picture if picture.size == self._size_wh else picture.resize(self._size_wh))
            self._target.copy_sound(self._source.take_sound())

    def _open(self, size_wh: tuple[int, int]) -> _Target:
        if self.path.suffix.lower() == ".gif":
            return GifFile(self._temporary, self._source.time_base)
        return _VideoFile(self._temporary, size_wh, self._source, self._sound)

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Turn errors of the disk and of FFmpeg into a `CoraError`."""
        import av

        try:
            yield
        except (OSError, av.error.FFmpegError) as error:
            raise CoraError(
                f"expected to write {self.path}, got {error.strerror or error}; free or choose another place"
            ) from None


class _VideoFile:
    """A container with one stream of images and perhaps one of sound."""

    def __init__(self, path: Path, size_wh: tuple[int, int], source: VideoReader, sound: AudioStream | None) -> None:
        import av

        format, codec, options = _FORMATS[path.suffix.lower()]
        self._container: OutputContainer = av.open(str(path), "w", format=format)
        self._time_base = source.time_base
        stream = self._container.add_stream(codec, rate=source.rate, options=dict(options))
        self._stream: VideoStream = stream  # type: ignore[assignment]  # the codec is one of images
        context = self._stream.codec_context
        context.width, context.height = (side + side % 2 for side in size_wh)
        context.pix_fmt = "yuv420p"
        context.time_base = source.time_base
        self._stream.time_base = source.time_base
        matrix, primaries, transfer, aspect = source.look
        self._matrix = _MATRICES.get(matrix)
        if self._matrix is not None:
            context.colorspace, context.color_primaries, context.color_trc = matrix, primaries, transfer
        context.color_range = 1
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        self._durations: dict[int, int] = {}
        self._last_sound: int | None = None
        self._copied = None if sound is None else self._container.add_stream_from_template(sound)
        self._container.start_encoding()

    def write(self, frame: Frame, picture: Image.Image) -> None:
        import av

        pixels = np.asarray(picture)
        height, width = pixels.shape[:2]
        if height % 2 or width % 2:
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        image = image.reformat(format="yuv420p", dst_colorspace=self._matrix, dst_color_range="MPEG")
        image.pts, image.time_base = frame.pts, self._time_base
        self._durations[frame.pts] = frame.duration
        self._mux(self._stream.encode(image))

    def copy_sound(self, packets: Iterable[Packet[AudioStream]]) -> None:
        if self._copied is None:
            return
        for packet in packets:
            # Players skip the last packet if it has no duration.
            if not packet.duration and self._last_sound is not None and packet.dts is not None:
                packet.duration = max(0, packet.dts - self._last_sound)
            self._last_sound = packet.dts
            packet.stream = self._copied
            self._container.mux(packet)

    def finish(self) -> None:
        self._mux(self._stream.encode(None))
        self._container.close()

    def close(self) -> None:
        """Close the file, finished or not; errors are ignored, since writing to it may have failed before."""
        import av

        with suppress(OSError, av.error.FFmpegError):
            self._container.close()

    def _mux(self, packets: Iterable[Packet[VideoStream]]) -> None:
        for packet in packets:
            # Encoders assume a constant rate, which would give the last frame a wrong duration.
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, packet.duration)
            self._container.mux(packet)
