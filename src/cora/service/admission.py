"""How much work is accepted: a bound on the images that are waiting, so that memory and waiting time have one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cora.service.refusal import RefusedError


class Admission:
    """Counts accepted images that are not answered yet; used by one event loop only, hence without a lock.

    `note` alone is called from another thread: it has one writer, and a late value harms nobody.

    Args:
        capacity: the largest count.
    """

    def __init__(self, *, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0
        self._seconds_per_picture = 1.0

    @contextmanager
    def request(self) -> Iterator[Place]:
        """A place for a request of one image; `Place.grow` makes room for more. Given back at the end.

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
        """Learn from a finished batch how long an image takes."""
        self._seconds_per_picture += 0.2 * (seconds / pictures - self._seconds_per_picture)

    @property
    def retry_after_s(self) -> int:
        """Seconds until about half of what waits is done, 1..60."""
        return max(1, min(60, round(self.taken * self._seconds_per_picture / 2)))


class Place:
    """What one request occupies."""

    def __init__(self, admission: Admission) -> None:
        self.size = 0
        self._admission = admission

    def grow(self, size: int) -> None:
        """Occupy `size` places in all.

        Raises:
            RefusedError: 429, there are not as many.
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
