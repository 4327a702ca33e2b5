"""Small videos made on the spot."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

TICKS = Fraction(1, 90_000)
STEP = 9_000
"""Ticks between images, unless a clip says otherwise: 10 images a second."""


def scene(number: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """A white square that moves to the right by two pixels an image; blue in the left top corner, red below."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[-6:] = (200, 30, 30)
    picture[:8, :8] = (0, 0, 255)
    left = 10 + 2 * number
    picture[14:34, left : left + 20] = 255
    return picture


def make_clip(
    path: Path,
    *,
    times: Sequence[int] | None = None,
    pictures: Sequence[NDArray[np.uint8]] | None = None,
    sound: str | None = None,
    sound_seconds: float = 1.0,
    rotation: int = 0,
    colours: int | None = None,
    aspect: Fraction | None = None,
    keys: int | None = None,
) -> Path:
    """Ten images in a second, or at the given ticks of 1/90000 s; sound is that of a named codec, a tone.

    Of `front.mp4` the table of images comes first, `fragments.mp4` has several; `keys` is the number of images from one
    that is decoded by itself to the next.
    """
    times = [STEP * number for number in range(10)] if times is None else times
    pictures = [scene(number) for number in range(len(times))] if pictures is None else pictures
    flags = {"front.mp4": "faststart", "fragments.mp4": "frag_keyframe+empty_moov"}.get(path.name)
    codec = {".gif": "gif", ".avi": "mpeg4", ".wmv": "wmv2"}.get(path.suffix, "h264")
    options = {"bf": "0"} if codec == "h264" else {}
    with av.open(str(path), "w", options={"movflags": flags} if flags else {}) as container:
        height, width = pictures[0].shape[:2] if len(pictures) else (48, 64)
        ticks = TICKS if codec == "h264" else Fraction(1, 10)
        stream = container.add_stream(codec, rate=10, width=width, height=height, time_base=ticks, options=options)
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv444p" if width % 2 or height % 2 else "yuv420p"
        if keys is not None:
            stream.codec_context.gop_size = keys
        if rotation:
            stream.set_display_rotation(rotation)
        if colours is not None:
            stream.codec_context.colorspace = stream.codec_context.color_primaries = colours
            stream.codec_context.color_trc = colours
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        tone = None if sound is None else container.add_stream(sound, rate=16_000, layout="mono")
        for time, picture in zip(times, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt, dst_colorspace="ITU709" if colours == 1 else None)
            frame.pts, frame.time_base = int(time * TICKS / ticks), ticks
            container.mux(stream.encode(frame))
        if tone is not None:
            _add_tone(container, tone, sound_seconds)
        container.mux(stream.encode(None))
    return path


def make_sound(path: Path, codec: str = "flac") -> Path:
    """A file with sound only."""
    with av.open(str(path), "w") as container:
        _add_tone(container, container.add_stream(codec, rate=16_000, layout="mono"), 1.0)
    return path


def _add_tone(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    length = stream.codec_context.frame_size or 1024
    for number in range(round(seconds * 16_000) // length):
        wave = np.sin((number * length + np.arange(length)) / 20) * 20_000
        frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, number * length, Fraction(1, 16_000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """Times in seconds and contents of the packets of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.pts is not None]
