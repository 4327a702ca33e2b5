"""Detects the objects of one part of a batch: takes its items, gives one line for each image."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack

from PIL import Image

from cora.batch.items import Item
from cora.batch.records import Record, record_of
from cora.batch.settings import DetectSettings
from cora.errors import DataError, ImageError
from cora.structures import Detections

#: Batches' worth of images that may wait, in all, for others of their size.
_WAITING_BATCHES = 4


class PredictOptions(TypedDict):
    """Options of `Model.predict`; see `cora.Predictor.predict`."""

    score: float
    nms_iou: float | None
    max_detections: int | None
    batch_size: int


class Model(Protocol):
    """The part of a detector that a batch needs; `cora.Predictor` has it."""

    def vocabulary(self, classes: Sequence[str], *, distractors: Sequence[str] | None = None) -> Any:
        """Encode class names, once for all images."""

    def predict(self, images: list[Image.Image], classes: Any, **options: Unpack[PredictOptions]) -> list[Detections]:
        """Detections of each image."""


#: Loads the model in the worker of this number, from 0, so that each can take a device of its own. Must be picklable.
OpenModel = Callable[[int], Model]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker needs to begin; it is sent to other processes and machines.

    Attributes:
        open_model: loads the model.
        settings: settings of detection.
        root: folder that the names of items are relative to.
    """

    open_model: OpenModel
    settings: DetectSettings
    root: Path


class Labeller:
    """Detects objects in images with a loaded model and an encoded vocabulary.

    Args:
        work: model, settings and root.
        worker: number of this worker, from 0.
        model: the model, if it is loaded already.

    Raises:
        DataError: the model reports a class under another name than the settings have.
    """

    def __init__(self, work: Work, *, worker: int = 0, model: Model | None = None) -> None:
        self._work = work
        self._model = work.open_model(worker) if model is None else model
        settings = work.settings
        self._vocabulary = self._model.vocabulary(settings.classes, distractors=settings.distractors)
        for asked, name in zip(settings.classes, self._vocabulary.names, strict=True):
            if asked.strip() != name:  # or the results would have two names for one class
                raise DataError(
                    f"classes: expected the names that the model reports, got {asked!r} for {name!r}; "
                    "let the model's own `vocabulary` know the prompts of a class"
                )

    def __call__(self, items: Sequence[Item], on_picture: Callable[[], object] = lambda: None) -> str:
        """Detect the objects of images.

        Args:
            items: the images.
            on_picture: called after each image.

        Returns:
            One line (`Record.to_line`) for each image, in their order.
        """
        records: dict[int, Record] = {}
        for group in self._groups(items, records, on_picture):
            pictures = [picture for _, picture in group]
            for (number, _), found in zip(group, self._predict(pictures), strict=True):
                records[number] = record_of(number, found)
                on_picture()
        return "".join(records[item.number].to_line() for item in items)

    def _predict(self, pictures: list[Image.Image]) -> list[Detections]:
        settings = self._work.settings
        return self._model.predict(
            pictures,
            self._vocabulary,
            score=settings.keep,
            nms_iou=settings.nms_iou,
            max_detections=settings.max_detections,
            batch_size=settings.batch_size,
        )

    def _groups(
        self, items: Sequence[Item], records: dict[int, Record], on_picture: Callable[[], object]
    ) -> Iterator[list[tuple[int, Image.Image]]]:
        """Batches of (number, image) of one size each: padding to a larger size changes the results near the border.

        Images that cannot be read go into `records` instead.
        """
        batch_size = self._work.settings.batch_size
        waiting: dict[tuple[int, int], list[tuple[int, Image.Image]]] = {}
        for item, picture in self._pictures(items):
            if isinstance(picture, ImageError):
                records[item.number] = Record(number=item.number, error=" ".join(str(picture).split()))
                on_picture()
                continue
            group = waiting.setdefault(picture.size, [])
            group.append((item.number, picture))
            if len(group) == batch_size:
                yield waiting.pop(picture.size)
            elif sum(map(len, waiting.values())) > _WAITING_BATCHES * batch_size:
                yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
        yield from waiting.values()

    def _pictures(self, items: Sequence[Item]) -> Iterator[tuple[Item, Image.Image | ImageError]]:
        """Images in order; a thread reads ahead while the model runs, since decoding releases Python's lock."""

        def read(item: Item) -> Image.Image | ImageError:
            try:
                return item.read(self._work.root)
            except ImageError as error:
                return error

        left = iter(items)
        with ThreadPoolExecutor(max_workers=1) as reader:
            waiting = deque((item, reader.submit(read, item)) for item in islice(left, self._work.settings.batch_size))
            while waiting:
                item, picture = waiting.popleft()
                waiting.extend((following, reader.submit(read, following)) for following in islice(left, 1))
                yield item, picture.result()
