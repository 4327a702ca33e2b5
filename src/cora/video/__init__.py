"""Video: frames in, tracks out.

Example:
    >>> import cora
    >>> from cora.video import ObjectTracker, VideoReader, VideoWriter, draw_objects
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
