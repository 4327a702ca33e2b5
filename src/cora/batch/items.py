"""One image of a batch: its name, the place of its bytes, and how to read it."""

from __future__ import annotations

import io
import json
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from cora.data.shards import MAX_PHOTO_BYTES
from cora.errors import ImageError
from cora.images import read_image

#: Shards often come from other people, so only the formats that are usual in them are decoded.
_FORMATS_IN_SHARDS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image of a batch.

    Attributes:
        number: 1, 2, ... in the order of the inputs; the image id in everything that is written.
        name: path below the batch's root, with forward slashes; `SHARD.tar/MEMBER` for an image in a shard.
        stem: name of its label file without the ending; unique, also with "/" written as "__".
        size: size in bytes; None where there is no file.
        shard: path of the shard below the root; "" for a file.
        start: position of the first byte in the shard.
        problem: why the image cannot be read, where that is known beforehand; else "".
    """

    number: int
    name: str
    stem: str
    size: int | None
    shard: str = ""
    start: int = 0
    problem: str = ""

    @property
    def flat_stem(self) -> str:
        """The stem with "__" for "/"."""
        return flat(self.stem)

    @property
    def target(self) -> str:
        """Path of a copy of the image: its stem with its own ending."""
        return self.stem + PurePosixPath(self.name).suffix

    def to_line(self) -> str:
        """One line of JSON without the number, which is the number of the line."""
        content = {key: value for key, value in vars(self).items() if key != "number" and value not in ("", 0)}
        return json.dumps(content, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes, number: int) -> Item:
        """The item of a line that `to_line` wrote."""
        return cls(**({"size": 0} | json.loads(line)), number=number)

    def read(self, root: Path) -> Image.Image:
        """Read the image as upright RGB.

        Args:
            root: folder that names are relative to.

        Raises:
            ImageError: it cannot be read.
        """
        if self.problem:
            raise ImageError(self.problem)
        try:
            return self._decode(self.content(root)) if self.shard else read_image(root / self.name)
        except ImageError as error:
            # The name as in the results, which stays right where the inputs are moved.
            raise ImageError(str(error).replace(str(root / self.name), self.name)) from None

    def content(self, root: Path) -> bytes:
        """The bytes of the image.

        Raises:
            ImageError: they cannot be read.
        """
        try:
            if not self.shard:
                return (root / self.name).read_bytes()
            if (self.size or 0) > MAX_PHOTO_BYTES:
                raise ImageError(f"expected at most {MAX_PHOTO_BYTES} bytes, got {self.size}: {self.name}; shrink it")
            with (root / self.shard).open("rb") as file:
                file.seek(self.start)
                return file.read(self.size or 0)
        except OSError as error:
            raise ImageError(f"expected a readable image, got {error.strerror or error}: {self.name}") from None

    def _decode(self, content: bytes) -> Image.Image:
        try:
            with warnings.catch_warnings():
                # Pillow would warn of images that `read_image` allows.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                return read_image(Image.open(io.BytesIO(content), formats=_FORMATS_IN_SHARDS))
        except ImageError as error:
            raise ImageError(str(error).replace("the given image", self.name)) from None
        except UnidentifiedImageError:
            found = "something that is none" if content else "nothing"
            kinds = ", ".join(_FORMATS_IN_SHARDS)
            raise ImageError(f"expected an image ({kinds}), got {found}: {self.name}") from None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split())
            raise ImageError(f"expected a whole image, got a damaged one: {self.name} ({reason})") from None


def flat(stem: str) -> str:
    """A stem with "__" for "/", for formats that keep all labels in one folder."""
    return stem.replace("/", "__")


def name_problem(name: str) -> str:
    """Why an image of this name cannot be labelled, or ""."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        return f"expected a file name in UTF-8 without control characters, got {name!a}; rename it"
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name:
        return f"expected a name inside its folder, got {name!r}; rename it"
    return ""
