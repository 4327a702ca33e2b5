"""Reads videos: upright RGB frames with their times, and the packets of their sound."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self, cast

import numpy as np
from numpy.typing import NDArray

from cora.images import MAX_PIXELS
from cora.video.cut import is_cut
from cora.video.errors import VideoError
from cora.video.newest import Newest
from cora.video.orientation import Orientation
from cora.video.source import PATIENCE, open_container, parse_source

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.buffer import Buffer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

#: Seconds by which sound may lie behind the images in a file.
_SOUND_LAG = 2

#: Packets of sound that are kept of a live source where nobody takes them: minutes, in some megabytes.
_LIVE_SOUND_PACKETS = 10_000

#: A file that ends before its declared end, by more than this share of it and more than a second, counts as cut off.
_CUT_OFF_SHARE = 0.05


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        index: number of the frame, 0 for the first one at or after `start`; frames that `every` skips count.
        seconds: time since the beginning of the video.
        pts: time since `start`, in ticks of the video's time base.
        duration: ticks until the next frame that `every` does not skip, as far as the file declares them.
        pixels: [H, W, 3] uint8, RGB, upright.
    """

    index: int
    seconds: float
    pts: int
    duration: int
    pixels: NDArray[np.uint8]


class VideoReader:
    """Reads a file, camera or stream; iterate over it once.

    Frames are turned upright as the video's metadata says. Where their size changes within a video, they are scaled to
    that of the first one. Cameras and live streams give the newest frame; those that came while the caller was busy are
    dropped.

    Args:
        source: path; number of a camera, or `camera:NAME`; or an address such as `rtsp://...`.
        start: seconds into a file at which to start.
        seconds: seconds to read; None reads to the end.
        every: 5 gives every fifth frame and skips the others.

    Raises:
        VideoError: there is no such source, it is not a video, or it has no frames from `start` on.
        MissingExtraError: the extra `video` is not installed.

    Examples:
        >>> with VideoReader("street.mp4", every=5) as video:
        ...     for frame in video:
        ...         print(frame.seconds, frame.pixels.shape)
        0.0 (64, 96, 3)
        0.5 (64, 96, 3)
    """

    def __init__(self, source: str | Path, *, start: float = 0.0, seconds: float | None = None, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every: expected at least 1, got {every}")
        self.source = parse_source(source)
        self._stack = ExitStack()
        try:
            self._open(_exact(start), None if seconds is None else _exact(seconds), every)
        except BaseException:
            self._stack.close()
            raise

    def _open(self, start: Fraction, seconds: Fraction | None, every: int) -> None:
        name = self.source.target
        self._container = self._stack.enter_context(open_container(self.source))
        self._stream = self._image_stream(name)
        self.live = self.source.kind == "camera" or (
            self.source.kind == "stream" and (self._container.duration is None or self._container.format.name == "rtsp")
        )
        if self.live and start > 0:
            raise VideoError(f"expected to start now with a camera or live stream, got a start at {float(start):g} s")
        self.sound: AudioStream | None = self._container.streams.best("audio")  # type: ignore[assignment]
        self.time_base: Fraction = self._stream.time_base or Fraction(1, 90_000)
        self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        starts = [s.start_time * s.time_base for s in self._read_streams() if s.start_time is not None and s.time_base]
        # Sound may start a little before zero, which does not move the images.
        self._origin: Fraction | None = max(Fraction(0), min(starts)) if starts else None
        self._start, self._end = start, None if seconds is None else start + seconds
        self._every = every
        self._packets: Iterator[Packet[Stream]] = self._container.demux(*self._read_streams())
        self._sound: deque[Packet[AudioStream]] = deque(maxlen=_LIVE_SOUND_PACKETS if self.live else None)
        self._damaged = 0
        self._problem = ""
        self._reached = 0.0
        self._orientation: Orientation | None = None
        self._newest: Newest[Frame] | None = None
        if start > 0:
            self._seek(start)
        self._frames = self._read()
        first = next(self._frames, None)
        if first is None:
            self._fail_without_frames(name, start)
        self._first: Frame | None = first
        self.size: tuple[int, int] = (first.pixels.shape[0], first.pixels.shape[1])

    def _image_stream(self, name: str) -> VideoStream:
        """The first stream of moving images; the cover of a music file does not count."""
        from av.stream import Disposition

        found = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not found and self._is_cut():
            raise _undecodable(name)
        if not found:
            has = "sound only" if self._container.streams.audio else "no images in it"
            raise VideoError(f"expected a video, got a file with {has}: {name}")
        stream = found[0]
        if stream.codec_context is None:
            raise VideoError(f"expected a video with a known codec, got one that cannot be decoded: {name}")
        if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
            size = f"{stream.codec_context.width} x {stream.codec_context.height}"
            raise VideoError(f"expected images of at most {MAX_PIXELS // 10**6} megapixels, got {size}: {name}")
        stream.thread_type = "AUTO"
        return stream

    def _read_streams(self) -> list[VideoStream | AudioStream]:
        return [self._stream] if self.sound is None else [self._stream, self.sound]

    def _seek(self, start: Fraction) -> None:
        """Seek to a frame at or before `start` from which decoding can begin, to the last one where possible."""
        import av

        origin, earlier = self._origin or Fraction(0), Fraction(0)
        with suppress(OSError, av.error.FFmpegError):  # a format that cannot seek is decoded from its beginning
            while True:
                ticks = int((start - earlier + origin) / self.time_base)
                self._container.seek(ticks, stream=self._stream)
                # Transport streams have no index: they seek to anywhere, and decoding begins at the next key frame.
                if earlier >= start or self._key_frame_comes(by=start + origin):
                    break
                earlier = 2 * earlier or Fraction(1)
            self._container.seek(ticks, stream=self._stream)

    def _key_frame_comes(self, *, by: Fraction) -> bool:
        """Whether the next packet from which decoding can begin is at or before this time in seconds."""
        packets = self._container.demux(self._stream)
        key = next((packet.pts for packet in packets if packet.is_keyframe and packet.pts is not None), None)
        return key is not None and key * self.time_base <= by

    def _fail_without_frames(self, name: str, start: Fraction) -> NoReturn:
        # Where the start is beyond the end, some formats cannot seek: nothing is reached then.
        length = self._reached or float(self._declared() or 0)
        if 0 < length <= start:
            raise VideoError(f"expected a start within the video of {length:.1f} s, got {float(start):g} s: {name}")
        if self._damaged or self._problem:
            raise _undecodable(name)
        if start > 0:
            raise VideoError(f"expected images from {float(start):g} s on, got none: {name}; start at its beginning")
        raise VideoError(f"expected a video with images, got none in it: {name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the source."""
        # A thread that still waits for a silent source closes it by itself later; until then nobody else may.
        if self._newest is None or self._newest.stop(PATIENCE):
            self._stack.close()

    def __iter__(self) -> Iterator[Frame]:
        if self._first is None:
            raise ValueError("expected to iterate over a video once; open it again")
        frames, self._first = chain([self._first], self._frames), None
        if not self.live:
            yield from frames
            return
        self._newest = Newest(frames, close=self._stack.close)
        yield from self._newest

    def _read(self) -> Iterator[Frame]:
        """Frames from `start` to the end, upright, with their index and time."""
        last, number = -1, 0
        for picture in self._decode():
            pts = self._pts(picture, last)
            seconds = self._start + pts * self.time_base
            length = picture.duration or int(1 / (self.rate * self.time_base))
            self._reached = float(seconds + length * self.time_base)
            if pts < 0:
                continue
            if self._end is not None and seconds >= self._end:
                self._read_last_sound()
                return
            last = pts
            self._damaged += picture.is_corrupt
            if number % self._every == 0:
                pixels = self._upright(picture)
                yield Frame(number, float(seconds), pts, length * self._every, pixels)
            number += 1
        self._note_early_end()

    def _pts(self, picture: VideoFrame, last: int) -> int:
        """Ticks since `start`, always growing; an image without a time comes one usual step after the last one."""
        if picture.pts is None:
            return 0 if last < 0 else last + max(1, int(1 / (self.rate * self.time_base)))
        shown = picture.pts * self.time_base
        if self._origin is None or (last < 0 and self._start == 0 and shown < self._origin):
            self._origin = shown  # the declared start of a file may be wrong
        pts = picture.pts - round((self._origin + self._start) / self.time_base)
        return pts if pts < 0 and last < 0 else max(pts, last + 1)

    def _decode(self) -> Iterator[VideoFrame]:
        """Decoded images in order; keeps the packets of sound, and counts packets that cannot be decoded."""
        import av

        while True:
            try:
                packet = next(self._packets)
            except StopIteration:
                return
            except (OSError, av.error.FFmpegError) as error:
                self._problem = f"it breaks off: {error.strerror or error}"
                with suppress(av.error.FFmpegError):
                    yield from self._stream.decode(None)
                return
            if packet.stream.type == "audio":
                self._keep_sound(cast("Packet[AudioStream]", packet))
                continue
            self._damaged += packet.is_corrupt  # bytes are missing, and perhaps whole images with them
            try:
                pictures = self._stream.decode(cast("Packet[VideoStream]", packet))
            except av.error.FFmpegError:
                self._damaged += 1
                continue
            yield from pictures

    def _upright(self, picture: VideoFrame) -> NDArray[np.uint8]:
        if self._orientation is None:
            self._raw_size = (picture.width, picture.height)
            matrix = cast("Buffer | None", picture.side_data.get("DISPLAYMATRIX"))
            self._orientation = Orientation() if matrix is None else Orientation.from_matrix(bytes(matrix))
        width, height = self._raw_size
        pixels = picture.reformat(width=width, height=height, format="rgb24").to_ndarray()
        return self._orientation.apply(cast("NDArray[np.uint8]", pixels))

    def _keep_sound(self, packet: Packet[AudioStream]) -> None:
        if packet.pts is None or packet.dts is None or not packet.size or packet.time_base is None:
            return  # the empty packet that marks the end of the stream
        base = packet.time_base
        shift = round(((self._origin or 0) + self._start) / base)
        before = self._start > 0 and packet.pts < shift
        if before or (self._end is not None and (packet.pts - shift) * base >= self._end - self._start):
            return
        self._sound.append(packet)

    def _read_last_sound(self) -> None:
        """Read on after the last image: the sound up to its end may come later in the file."""
        assert self._end is not None
        if self.live or self.sound is None:
            return
        for packet in self._packets:
            if packet.dts is None or packet.time_base is None:
                return
            beyond = packet.dts * packet.time_base - (self._origin or 0) - self._end
            if beyond > (_SOUND_LAG if packet.stream.type == "video" else 0):
                return
            if packet.stream.type == "audio":
                self._keep_sound(cast("Packet[AudioStream]", packet))

    def _note_early_end(self) -> None:
        # Only files with a table of their images know their length; others estimate it.
        declared = float((self._stream.duration or 0) * self.time_base) if self._stream.frames else 0.0
        if not self._problem and self._reached < declared - max(1.0, _CUT_OFF_SHARE * declared):
            self._problem = f"it breaks off after {self._reached:.1f} of {declared:.1f} s"
        if not self._problem and self._is_cut():
            self._problem = f"it breaks off after {self._reached:.1f} s: the file was cut short"

    def _is_cut(self) -> bool:
        return self.source.kind == "file" and is_cut(Path(self.source.target))

    def take_sound(self) -> list[Packet[AudioStream]]:
        """Packets of sound that were read since the last call; their times count from `start`."""
        taken = []
        # One by one: of a live source another thread appends meanwhile.
        while self._sound:
            packet = self._sound.popleft()
            assert packet.pts is not None
            assert packet.dts is not None
            assert packet.time_base is not None
            shift = round(((self._origin or 0) + self._start) / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            taken.append(packet)
        return taken

    @property
    def look(self) -> tuple[int, int, int, Fraction | None]:
        """Matrix, primaries and transfer of the colours (codes of H.273), and the aspect ratio of a pixel."""
        context = self._stream.codec_context
        aspect = self._stream.sample_aspect_ratio
        if aspect and self._orientation is not None and self._orientation.swap:
            aspect = 1 / aspect
        return int(context.colorspace), int(context.color_primaries), int(context.color_trc), aspect or None

    @property
    def length(self) -> float | None:
        """Seconds that will be read, as far as the source declares its length."""
        if self.live:
            return None if self._end is None else float(self._end)
        ends = [end for end in (self._declared(), self._end) if end is not None]
        return max(0.0, float(min(ends) - self._start)) if ends else None

    def _declared(self) -> Fraction | None:
        """Length of the whole video in seconds, as far as the source declares it."""
        if self._stream.duration:
            return self._stream.duration * self.time_base
        whole = self._container.duration
        return None if whole is None else Fraction(whole, 1_000_000)

    @property
    def problems(self) -> tuple[str, ...]:
        """What was wrong with the part that has been read so far, as texts for the user."""
        damaged = f"{self._damaged} damaged images or packets" if self._damaged else ""
        return tuple(filter(None, (damaged, self._problem)))


def _undecodable(name: str) -> VideoError:
    return VideoError(f"expected a video, got one so damaged or truncated that no image can be decoded: {name}")


def _exact(seconds: float) -> Fraction:
    """The decimal number that was meant: 0.2 is a fifth, not the nearest binary fraction."""
    return Fraction(seconds).limit_denominator(1_000_000)
