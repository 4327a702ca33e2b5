"""One call of `Predictor.predict`: reads images, batches those of one size, returns detections in their order."""

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
    """What all images of a call share.

    Attributes:
        model: the network, or an exported one.
        preprocessor: turns images into batches.
        vocabulary: the encoded classes.
        settings: options of the call; `score` and `class_agnostic` are set.
    """

    model: Model
    preprocessor: Preprocessor
    vocabulary: Vocabulary
    settings: PredictSettings

    def one(self, source: ImageSource) -> Detections:
        """Detections of one image; they keep the image.

        Raises:
            ImageError: it cannot be read.
        """
        (read,) = read_all([source])
        if isinstance(read.image, ImageError):
            raise read.image
        (found,) = self.detect([read])
        return replace(found, image=read.image)

    def stream(self, sources: Iterable[ImageSource]) -> Iterator[Detections]:
        """Yield detections of images in their order, computed lazily; `Unreadable` for those that cannot be read."""
        # Read one by one: a generator may close its file or reuse its buffer before it yields the next image.
        for part in chunks((read_all([source])[0] for source in sources), self.settings.batch_size):
            for found in self.detect(part):
                if isinstance(found, Unreadable):
                    _LOG.warning("%s", found.error)
                yield found

    def detect(self, part: Sequence[Read]) -> list[Detections]:
        """Detections of images in their order, without the images; `Unreadable` for those that could not be read."""
        images = [read.image for read in part if not isinstance(read.image, ImageError)]
        if self.settings.tiles is None:
            results = iter(self._detect(images))
        else:
            results = (self._detect_tiled(image, self.settings.tiles) for image in images)
        return [
            Unreadable.of(read.image, read.source, self.vocabulary.names)
            if isinstance(read.image, ImageError)
            else replace(next(results), path=path_of(read.source))
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
        """Detections of images. Only images of one size share a batch: padding would change features at the border."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(self.preprocessor.padded_size(image.height, image.width), []).append(index)
        found: dict[int, Detections] = {}
        for indices in groups.values():
            results = self._detect_batch([images[index] for index in indices])
            found |= dict(zip(indices, results, strict=True))
        return [found[index] for index in range(len(images))]

    def _detect_batch(self, images: Sequence[Image.Image]) -> list[Detections]:
        with torch.inference_mode():
            batch = self.preprocessor(images)
            kept = self.model.detect(batch, self.vocabulary, self.settings)
        sizes = batch.original_sizes
        del batch  # so that `after_pass` can return its memory
        after_pass()
        return [detections_of(one, self.vocabulary.names, size) for one, size in zip(kept, sizes, strict=True)]
