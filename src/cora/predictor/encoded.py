"""Encoded images: the part of the network that does not depend on class names runs once for many calls of `predict`."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from cora.detector import Seen
from cora.detector.postprocess import Found
from cora.errors import ImageError, ModelError, OptionError
from cora.images import ImageSource, Preprocessor
from cora.predictor.images import path_of, read_all
from cora.predictor.memory import after_pass
from cora.predictor.model import Model, TorchModel
from cora.predictor.settings import PredictSettings
from cora.regions import Vocabulary
from cora.structures import Detections
from cora.towers.folding import Precision


@dataclass(frozen=True, eq=False, repr=False)
class EncodedImage:
    """An image that `Predictor.encode_image` has run through the image tower; `predict` takes it in place of the image.

    Attributes:
        image: upright RGB image, for drawing.
        path: its path or URL; None if it came from memory.
        seen: feature maps, the localizer's memory and the anchors, on the model's device.
        made_by: (preprocessor, `TorchModel.state`), by which `predict` refuses an image of another model.
    """

    image: Image.Image
    path: str | None
    seen: Seen
    made_by: object

    @property
    def nbytes(self) -> int:
        """Memory of the tensors of `seen`, in bytes; shared storage counts once."""
        storages = [one.untyped_storage() for one in _tensors(self.seen)]
        return sum({one.data_ptr(): one.nbytes() for one in storages}.values())


def encode(model: Model, source: ImageSource, preprocessor: Preprocessor, precision: Precision) -> EncodedImage:
    """Run the part of the network that does not depend on class names.

    Raises:
        ImageError: the image cannot be read.
        ModelError: the model is an exported file.
    """
    if not isinstance(model, TorchModel):
        raise ModelError(
            "encode_image: expected a model by name or a checkpoint, got an exported file, one graph of images and "
            "names; give predict the image"
        )
    (read,) = read_all([source])
    if isinstance(read.image, ImageError):
        raise read.image
    made_by = preprocessor, model.state(precision)
    with torch.inference_mode():
        seen = model.see(preprocessor([read.image]), precision)
    after_pass()
    return EncodedImage(read.image, path_of(source), seen, made_by)


def detect(
    model: Model, encoded: EncodedImage, vocabulary: Vocabulary, preprocessor: Preprocessor, settings: PredictSettings
) -> Detections:
    """Detections of an encoded image, the same as of the image itself.

    Raises:
        OptionError: `tiles` or `score_all_boxes`, which need other feature maps.
        ModelError: another model encoded it, or this one with other weights, precision or preprocessor.
    """
    for name, wrong in (("tiles", settings.tiles is not None), ("score_all_boxes", settings.score_all_boxes)):
        if wrong:
            raise OptionError(
                f"{name}: expected none with an encoded image, got {getattr(settings, name)}; give predict the image"
            )
    precision = settings.precision or model.precision
    if not isinstance(model, TorchModel) or encoded.made_by != (preprocessor, model.state(precision)):
        raise ModelError(
            "encoded image: expected one of this predictor as it is now, got one of another model, precision or "
            "preprocessor, or of other weights; encode the image again"
        )
    size = encoded.image.height, encoded.image.width
    with torch.inference_mode():
        (found,) = model.detect_in(encoded.seen, [size], vocabulary, settings)
    return replace(detections_of(found, vocabulary.names, size), path=encoded.path, image=encoded.image)


def detections_of(found: Found, names: tuple[str, ...], size_hw: tuple[int, int]) -> Detections:
    """Convert what suppression keeps of an image of this size to `Detections` on the CPU."""
    # Cloned, since a clone made outside of inference mode is an ordinary tensor, which autograd accepts.
    boxes, scores, labels = (value.cpu().clone() for value in found)
    return Detections(boxes, scores, labels, names, size_hw)


def _tensors(value: object) -> list[Tensor]:
    """All tensors in nested data classes, tuples and lists."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value):
        return [one for field in fields(value) for one in _tensors(getattr(value, field.name))]
    return [one for part in value for one in _tensors(part)] if isinstance(value, tuple | list) else []
