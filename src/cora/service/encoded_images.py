"""The last images, as the network sees them before it knows any name: other names for one of them are quick."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from PIL import Image

from cora.images import read_image
from cora.predictor import EncodedImage, Predictor, TorchModel

#: Bytes that are kept at most.
_ROOM = 64 << 20


class EncodedImages:
    """The most recently used encoded images of a detector; used by the thread that owns the detector only.

    Args:
        detector: encodes them; of an exported file nothing is kept, since it is one graph of images and names.
        room: bytes that the kept ones take at most, with their pixels.
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
        """What `predict` is given for an image: its encoding, of the last time or of now, or the image itself.

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
