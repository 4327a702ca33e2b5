"""The error of videos."""

from cora.errors import CoraError


class VideoError(CoraError):
    """A video cannot be read or written: missing, not a video, without images, sound that does not fit."""
