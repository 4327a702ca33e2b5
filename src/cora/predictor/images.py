"""Images on their way in: what is one and what are several, read in order, the next ones beside the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from os import PathLike
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image

from cora.errors import ImageError
from cora.images import ImageSource, is_url, read_image
from cora.images.web import shown
from cora.structures import Detections


@dataclass(frozen=True, eq=False, repr=False)
class Unreadable(Detections):
    """Stands for an image that cannot be read among the results of others: no boxes, and why.

    Attributes:
        error: what is wrong with it.

    Examples:
        >>> names = cora.load("nano").vocabulary(["cup"])
        >>> for found in cora.load("nano").predict(iter(["lost.jpg", "coffee.jpg"]), names, score=0.5):
        ...     print(found.error if isinstance(found, Unreadable) else found.names)
        expected an image file, got no file at lost.jpg; check the path
        ['cup']
    """

    error: ImageError | None = None

    @classmethod
    def of(cls, error: ImageError, source: ImageSource, class_names: tuple[str, ...]) -> Unreadable:
        """The place of an image in the results."""
        return replace(cls.empty(class_names), path=path_of(source), error=error)


class UnreadableImagesError(ImageError):
    """Some images of a list cannot be read; the others were answered, and nothing of that is lost.

    Attributes:
        found: results in the order of the list; `Unreadable` where an image cannot be read.
    """

    def __init__(self, found: Sequence[Detections]) -> None:
        self.found = list(found)
        errors = [one.error for one in found if isinstance(one, Unreadable)]
        super().__init__(
            str(errors[0])
            if len(found) == 1
            else f"{len(errors)} of {len(found)} images cannot be read, the results of the others are in `found` of "
            f"this error; the first: {errors[0]}"
        )

    def __reduce__(self) -> tuple[type[UnreadableImagesError], tuple[list[Detections]]]:
        return type(self), (self.found,)  # by default it would be made of its message


@dataclass(frozen=True)
class Read:
    """An image as it was given and as it was read; or why it cannot be."""

    source: ImageSource
    image: Image.Image | ImageError


def is_one(images: ImageSource | Iterable[ImageSource]) -> TypeGuard[ImageSource]:
    """Whether what `predict` was given is one image."""
    # A mapping is none, which reading it says: its keys alone would be taken for images.
    kinds = (str, PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, torch.Tensor, Mapping)
    return isinstance(images, kinds) or hasattr(images, "read") or not isinstance(images, Iterable)


def chunks(sources: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Parts of `size`, the last one shorter; nothing is taken before its part is asked for.

    Sources that fail give first, as a shorter part, what they gave until then.
    """
    iterator, failure = iter(sources), None
    while failure is None:
        part: list[Any] = []
        try:
            for one in islice(iterator, size):
                part.append(one)
        except Exception as error:
            failure = error
        if part:
            yield part
        elif failure is None:
            return
    raise failure


def read_all(sources: Sequence[ImageSource]) -> list[Read]:
    """Read images; what cannot be read does not lose the others."""
    return [Read(source, read_or_error(source)) for source in sources]


def read_ahead(sources: Sequence[ImageSource], size: int) -> Iterator[list[Read]]:
    """Images by `size`, the next ones read in a thread beside the model: decoding releases Python's lock."""
    parts = chunks(sources, size)  # of a sequence that makes its images when they are asked for, two parts at a time
    if len(sources) <= size:
        yield from map(read_all, parts)
        return
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = reader.submit(read_all, next(parts))
        for part in parts:
            read, ahead = ahead.result(), reader.submit(read_all, part)
            yield read
        yield ahead.result()


def path_of(source: ImageSource) -> str | None:
    """Where an image came from, if from a file or an address, without what is secret in it."""
    if isinstance(source, str) and is_url(source):
        return shown(source)
    return str(source) if isinstance(source, str | PathLike) else None


def read_or_error(source: ImageSource) -> Image.Image | ImageError:
    """An image, or why it cannot be read."""
    try:
        return read_image(source, allow_url=True)  # not from the service, whose clients hand over images
    except ImageError as error:
        return error
