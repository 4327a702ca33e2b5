"""Limits on what a client may send, and on how long a request may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of the service; together they bound its memory.

    Attributes:
        max_body_bytes: largest request body in bytes.
        max_pixels: largest image in pixels, checked before it is decoded.
        max_images: largest number of images in a request.
        max_classes: largest number of names in a request, prompts and distractors included.
        max_name_length: largest number of characters in a name.
        max_waiting: largest number of images that are accepted and not answered yet; more are refused (429).
        timeout_s: seconds from the start of a request to its answer.
    """

    max_body_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_images: int = 16
    max_classes: int = 200
    max_name_length: int = 100
    max_waiting: int = 64
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_pixels", "max_images", "max_classes", "max_name_length", "max_waiting"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 < self.timeout_s < float("inf"):
            raise ValueError(f"timeout_s: expected a number above 0, got {self.timeout_s}")
        if self.max_images > self.max_waiting:
            raise ValueError(
                f"max_images: expected at most max_waiting ({self.max_waiting}), since a larger request "
                f"could never be accepted, got {self.max_images}"
            )
