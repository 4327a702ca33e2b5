"""Video: read frames, track objects through them, write the result.

Examples:
    >>> tracker = ObjectTracker(cora.load("nano"), ["cup"])
    >>> with VideoReader("street.mp4", seconds=0.1) as video:
    ...     counts = [len(tracker.update(frame.pixels, frame.seconds).objects) for frame in video]
    >>> counts  # nobody left a cup in this street
    [0]
"""

from cora.video.errors import VideoError
from cora.video.reader import Frame, VideoReader
from cora.video.tracker import ObjectTracker, TrackedFrame, TrackedObject, draw_objects
from cora.video.writer import VideoWriter

__all__ = [
    "Frame",
    "ObjectTracker",
    "TrackedFrame",
    "TrackedObject",
    "VideoError",
    "VideoReader",
    "VideoWriter",
    "draw_objects",
]
