"""One call of `Predictor.predict`: images in, in passes of one size, detections out in the order of the images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image

from cora.errors import ImageError
from cora.images import ImageSource, Preprocessor
from cora.predictor.encoded import detections_of
from cora.predictor.images import Read, Unreadable, chunks, path_of, read_all
from cora.predictor.memory import after_pass
from cora.predictor.model import Model
from cora.predictor.settings import PredictSettings
from cora.predictor.tiling import Tiles, predict_tiled, suppress_between_classes
from cora.regions import Vocabulary
from cora.structures import Detections

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """What a call looks for, and how.

    Attributes:
        model: the network, or what else runs one.
        preprocessor: how images become batches.
        vocabulary: the classes, encoded.
        settings: with the score threshold and the suppression between classes filled in.
    """

    model: Model
    preprocessor: Preprocessor
    vocabulary: Vocabulary
    settings: PredictSettings

    def one(self, source: ImageSource) -> Detections:
        """The result of one image, with the image.

        Raises:
            ImageError: it cannot be read.
        """
        (read,) = read_all([source])
        if isinstance(read.image, ImageError):
            raise read.image
        (found,) = self.answer([read])
        return replace(found, image=read.image)

    def stream(self, sources: Iterable[ImageSource]) -> Iterator[Detections]:
        """The results of images in their order, each computed when it is asked for; `Unreadable` for bad ones."""
        # Read one by one: a generator may close its file, or fill its buffer anew, before it gives the next image.
        for part in chunks((read_all([source])[0] for source in sources), self.settings.batch_size):
            for found in self.answer(part):
                if isinstance(found, Unreadable):
                    _LOG.warning("%s", found.error)
                yield found

    def answer(self, part: Sequence[Read]) -> list[Detections]:
        """Results of images in their order, without the images; `Unreadable` for those that could not be read."""
        images = [read.image for read in part if not isinstance(read.image, ImageError)]
        if self.settings.tiles is None:
            answers = iter(self._detect(images))
        else:
            answers = (self._detect_tiled(image, self.settings.tiles) for image in images)
        return [
            Unreadable.of(read.image, read.source, self.vocabulary.names)
            if isinstance(read.image, ImageError)
            else replace(next(answers), path=path_of(read.source))
            for read in part
        ]

    def _detect_tiled(self, image: Image.Image, tiles: Tiles) -> Detections:
        config, settings = self.model.config.postprocess, self.settings
        most = settings.max_detections or config.max_detections

        def predict(parts: Sequence[Image.Image]) -> list[Detections]:
            groups = chunks(parts, settings.batch_size)
            return [found for group in groups for found in self._detect(group)]

        if not settings.class_agnostic:
            return predict_tiled(predict, image, tiles=tiles, max_detections=most)
        iou = config.nms_iou if settings.nms_iou is None else settings.nms_iou
        return suppress_between_classes(predict_tiled(predict, image, tiles=tiles), iou, most)

    def _detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        """Detections of images, those of one size together: padding changes what a tower sees near the border."""
        groups: dict[tuple[int, int], list[int]] = {}
        for place, image in enumerate(images):
            groups.setdefault(self.preprocessor.padded_size(image.height, image.width), []).append(place)
        found: dict[int, Detections] = {}
        for places in groups.values():
            answers = self._pass([images[place] for place in places])
            found |= dict(zip(places, answers, strict=True))
        return [found[place] for place in range(len(images))]

    def _pass(self, images: Sequence[Image.Image]) -> list[Detections]:
        with torch.inference_mode():
            batch = self.preprocessor(images)
            kept = self.model.detect(batch, self.vocabulary, self.settings)
        sizes = batch.original_sizes
        del batch
        after_pass()
        return [detections_of(one, self.vocabulary.names, size) for one, size in zip(kept, sizes, strict=True)]
