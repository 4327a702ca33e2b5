"""Input images of `predict`: tell one image from several, and read them in order, ahead of the model."""

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
    """Result of an image that cannot be read: no boxes, and the error.

    Attributes:
        error: why it cannot be read.

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
        """The result of the image `source`, which cannot be read."""
        return replace(cls.empty(class_names), path=path_of(source), error=error)


class UnreadableImagesError(ImageError):
    """Some images of a list cannot be read; the error keeps the detections of the others.

    Attributes:
        found: results in the order of the list; `Unreadable` for each image that cannot be read.
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
        return type(self), (self.found,)  # by default, unpickling would pass the message to `__init__`


@dataclass(frozen=True)
class Read:
    """An image as it was given, and as it was read or the error from reading it."""

    source: ImageSource
    image: Image.Image | ImageError


def is_one(images: ImageSource | Iterable[ImageSource]) -> TypeGuard[ImageSource]:
    """Whether the argument of `predict` is one image, not several."""
    # A mapping counts as one, so that reading it fails: as an iterable, its keys would be taken for images.
    kinds = (str, PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, torch.Tensor, Mapping)
    return isinstance(images, kinds) or hasattr(images, "read") or not isinstance(images, Iterable)


def chunks(sources: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of `size` items, the last one shorter; items are taken from `sources` lazily, list by list.

    If `sources` raises an error, the items before it are yielded first, then the error is raised.
    """
    iterator, failure = iter(sources), None
    while failure is None:
        part: list[Any] = []
        try:
            # Item by item: `list(islice(...))` would lose the items before an error.
            for item in islice(iterator, size):
                part.append(item)
        except Exception as error:
            failure = error
        if part:
            yield part
        elif failure is None:
            return
    raise failure


def read_all(sources: Sequence[ImageSource]) -> list[Read]:
    """Read images; one that cannot be read does not stop the others."""
    return [Read(source, read_or_error(source)) for source in sources]


def read_ahead(sources: Sequence[ImageSource], size: int) -> Iterator[list[Read]]:
    """Yield lists of `size` images; a thread reads the next list meanwhile, since decoding releases the GIL."""
    parts = chunks(sources, size)  # lazily: of a sequence that creates its images on access, two lists are in memory
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
    """Path of an image, or its URL without secrets; None if it came from memory."""
    if isinstance(source, str) and is_url(source):
        return shown(source)
    return str(source) if isinstance(source, str | PathLike) else None


def read_or_error(source: ImageSource) -> Image.Image | ImageError:
    """The image, or the error from reading it."""
    try:
        return read_image(source, allow_url=True)  # the service does not call this with a client's URL
    except ImageError as error:
        return error
