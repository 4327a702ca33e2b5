"""Keeps the encodings of recent images, so that other class names for the same image are fast."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from PIL import Image

from cora.images import read_image
from cora.predictor import EncodedImage, Predictor, TorchModel

#: Bytes that are kept at most.
_ROOM = 64 * 2**20


class EncodedImages:
    """A cache of the most recently used image encodings; only the thread that owns the detector may use it.

    Args:
        detector: encodes the images. An exported model is one graph of images and names, so nothing is kept for it.
        room: bytes that the kept encodings and their pixels may take.
    """

    def __init__(self, *, detector: Predictor, room: int = _ROOM) -> None:
        self.room = room
        self._detector = detector
        self._encodes = isinstance(getattr(detector, "model", None), TorchModel)
        self._kept: OrderedDict[bytes, EncodedImage] = OrderedDict()
        self._used = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, image: Image.Image) -> EncodedImage | Image.Image:
        """What to give to `predict` for an image: its encoding, or the image itself where nothing is kept.

        Args:
            image: RGB.

        Raises:
            ImageError: it cannot be read.
        """
        if not self._encodes:
            return image
        image = read_image(image)
        key = hashlib.blake2b(f"{image.mode} {image.size} ".encode() + image.tobytes(), digest_size=16).digest()
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = self._detector.encode_image(image)
        size = _size(made)
        if size <= self.room:
            while self._used + size > self.room:
                self._used -= _size(self._kept.popitem(last=False)[1])
            self._kept[key] = made
            self._used += size
        return made


def _size(made: EncodedImage) -> int:
    return made.nbytes + 3 * made.image.width * made.image.height
