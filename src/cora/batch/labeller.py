"""Detection of one part of a batch: items in, one line an image out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack

from PIL import Image

from cora.batch.items import Item
from cora.batch.records import Record, record_of
from cora.batch.settings import DetectSettings
from cora.errors import DataError, ImageError
from cora.structures import Detections

#: Groups of one size that wait to be filled hold at most this many times a batch.
_WAITING_BATCHES = 4


class PredictOptions(TypedDict):
    """Options of `Model.predict`, those of `cora.Predictor.predict`."""

    score: float
    nms_iou: float | None
    max_detections: int | None
    batch_size: int


class Model(Protocol):
    """What a batch needs of a detector; `cora.Predictor` is one."""

    def vocabulary(self, classes: Sequence[str], *, distractors: Sequence[str] | None = None) -> Any:
        """Names, encoded once."""

    def predict(self, images: list[Image.Image], classes: Any, **options: Unpack[PredictOptions]) -> list[Detections]:
        """Detections of each image."""


#: Loads the model; given the worker's number, so that several may take a device each. Must be picklable.
OpenModel = Callable[[int], Model]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a worker needs to begin; it is sent to other processes and machines.

    open_model: loads the model; settings: of detection; root: folder that the names of items are relative to.
    """

    open_model: OpenModel
    settings: DetectSettings
    root: Path


class Labeller:
    """A loaded model with its encoded vocabulary.

    Args:
        work: what to do.
        worker: number of this worker.
        model: the model, if it is loaded already.

    Raises:
        DataError: the model reports a class by another name than the settings.
    """

    def __init__(self, work: Work, *, worker: int = 0, model: Model | None = None) -> None:
        self._work = work
        self._model = work.open_model(worker) if model is None else model
        settings = work.settings
        self._vocabulary = self._model.vocabulary(settings.classes, distractors=settings.distractors)
        for asked, name in zip(settings.classes, self._vocabulary.names, strict=True):
            if asked.strip() != name:  # results would have two names for it
                raise DataError(
                    f"classes: expected the names that the model reports, got {asked!r} for {name!r}; "
                    "let the model's own `vocabulary` know the prompts of a class"
                )

    def __call__(self, items: Sequence[Item], on_picture: Callable[[], object] = lambda: None) -> str:
        """The lines of these images, in their order.

        Args:
            items: the images.
            on_picture: called after each.
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
        """Images of one size, since padding to another size changes what a model sees near the border."""
        most = self._work.settings.batch_size
        waiting: dict[tuple[int, int], list[tuple[int, Image.Image]]] = {}
        for item, picture in self._pictures(items):
            if isinstance(picture, ImageError):
                records[item.number] = Record(number=item.number, error=" ".join(str(picture).split()))
                on_picture()
                continue
            group = waiting.setdefault(picture.size, [])
            group.append((item.number, picture))
            if len(group) == most:
                yield waiting.pop(picture.size)
            elif sum(map(len, waiting.values())) > _WAITING_BATCHES * most:
                yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
        yield from waiting.values()

    def _pictures(self, items: Sequence[Item]) -> Iterator[tuple[Item, Image.Image | ImageError]]:
        """Images in order, the next ones read in a thread while the model runs: decoding releases Python's lock."""

        def read(item: Item) -> Image.Image | ImageError:
            try:
                return item.read(self._work.root)
            except ImageError as error:
                return error

        ahead = self._work.settings.batch_size
        with ThreadPoolExecutor(max_workers=1) as reader:
            waiting = [reader.submit(read, item) for item in items[:ahead]]
            for place, item in enumerate(items):
                waiting += [reader.submit(read, next_item) for next_item in items[place + ahead : place + ahead + 1]]
                yield item, waiting.pop(0).result()
