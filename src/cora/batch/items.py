"""One image of a batch: what it is called, where its bytes lie, how it is read."""

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

#: Images in shards come from elsewhere; only what every tool writes there is decoded.
_FORMATS_IN_SHARDS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image that a batch has to do.

    Attributes:
        number: 1, 2, ... in the order of the inputs; the image id of everything that is written.
        name: path below the batch's root, with slashes; of an image in a shard `SHARD.tar/MEMBER`.
        stem: name of label files, without an ending; no two images have the same, also with "/" written as "__".
        size: bytes; None where nothing was found.
        shard: path of the shard below the root, "" for a file.
        start: first byte in the shard.
        problem: why it cannot be read, where that is known already; else "".
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
        """The stem without folders."""
        return flat(self.stem)

    @property
    def target(self) -> str:
        """Path that a copy of the image gets: the stem with the image's own ending."""
        return self.stem + PurePosixPath(self.name).suffix

    def to_line(self) -> str:
        """One line of JSON, without the number, which is that of the line."""
        content = {key: value for key, value in vars(self).items() if key != "number" and value not in ("", 0)}
        return json.dumps(content, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str | bytes, number: int) -> Item:
        """What `to_line` wrote."""
        return cls(**({"size": 0} | json.loads(line)), number=number)

    def read(self, root: Path) -> Image.Image:
        """The image, upright RGB.

        Args:
            root: of the batch.

        Raises:
            ImageError: it cannot be read.
        """
        if self.problem:
            raise ImageError(self.problem)
        try:
            return self._decode(self.content(root)) if self.shard else read_image(root / self.name)
        except ImageError as error:
            # Names as in the results, and true also where the inputs are moved.
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
                # Pillow warns below the limit of `read_image` and only fails at twice its own.
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
    """A stem without folders, for formats that keep all labels in one."""
    return stem.replace("/", "__")


def name_problem(name: str) -> str:
    """Why an image of this name cannot be labelled; "" if it can."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        return f"expected a file name in UTF-8 without control characters, got {name!a}; rename it"
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name:
        return f"expected a name inside its folder, got {name!r}; rename it"
    return ""
