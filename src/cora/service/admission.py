"""Limits how many images may wait, and with them memory and waiting time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cora.service.refusal import RefusedError


class Admission:
    """Counts the images that are accepted and not answered yet.

    One event loop uses it, so it needs no lock. Only `note` is called from another thread: it is the only writer of its
    value, and nothing breaks if the loop reads an old one.

    Args:
        capacity: largest number of waiting images.

    Attributes:
        taken: current number of waiting images.
    """

    def __init__(self, *, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self._seconds_per_picture = 1.0

    @contextmanager
    def request(self) -> Iterator[Place]:
        """Hold a place for one image while a request lasts; `Place.grow` takes more.

        Raises:
            RefusedError: 429, all places are taken.
        """
        place = Place(self)
        place.grow(1)
        try:
            yield place
        finally:
            self.taken -= place.size

    def note(self, pictures: int, seconds: float) -> None:
        """Update the mean time of an image with that of a finished batch."""
        self._seconds_per_picture += 0.2 * (seconds / pictures - self._seconds_per_picture)

    @property
    def retry_after_s(self) -> int:
        """Seconds, 1..60, until about half of the waiting images are done."""
        return max(1, min(60, round(self.taken * self._seconds_per_picture / 2)))


class Place:
    """The places that one request has taken."""

    def __init__(self, admission: Admission) -> None:
        self.size = 0
        self._admission = admission

    def grow(self, size: int) -> None:
        """Take further places, up to `size` in all.

        Raises:
            RefusedError: 429, not enough places are free.
        """
        admission, more = self._admission, max(0, size - self.size)
        if admission.taken + more > admission.capacity:
            raise RefusedError(
                429,
                f"expected at most {admission.capacity} images waiting at a time, got {admission.taken} before "
                f"this request of {size}; try again later",
                retry_after_s=admission.retry_after_s,
            )
        admission.taken += more
        self.size += more
