"""Classes given by exemplars instead of names, or by both: an exemplar is an image, or a box in one.

An exemplar is embedded as a detected box is: by the frozen tower, exact pooling and the region prompt. This embedding
cannot be used as that of a class. Any two images are closer to each other than an image is to its own name (the
modality gap), so a class of exemplars would win every box. Subtracting the mean of images is not enough, since their
spread is larger, too.

Therefore the embedding is mapped to the space of names: it is replaced by the mean of the embeddings of everyday names,
weighted by the probabilities that the model gives them for the exemplar. docs/exemplars.md has measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cora.boxes import xyxy_to_cxcywh
from cora.detector import Detector
from cora.errors import ImageError, VocabularyError
from cora.images import ImageSource, Preprocessor, read_image
from cora.names import name_key
from cora.regions.class_names import clean_names
from cora.regions.everyday import EVERYDAY_NAMES
from cora.regions.vocabulary import Vocabulary, VocabularyEncoder

Box = Sequence[float]
"""Left, top, right, bottom in pixels of the upright image."""

Exemplar = ImageSource | tuple[ImageSource, Box]
"""An image that shows the thing and little else, or an image and the box around the thing in it."""

Exemplars = Mapping[str, Sequence[Exemplar]]
"""Classes by example images: class name -> images, each alone or with the box around the thing.

Examples:
    >>> exemplars = {"my cup": [("coffee.jpg", (130, 30, 520, 330))]}
    >>> cora.load("nano").predict("coffee.jpg", exemplars=exemplars, score=0.2).names[0]
    'my cup'
"""

#: Weight of the exemplars, 0..1, in a class that has a name and exemplars (chosen by benchmarks/exemplars.py).
IMAGE_SHARE = 0.25
_ROUNDING_PX = 1.0  # how far, by rounding, a box may reach over the border of its image


# Not in inference mode: embeddings may be used in training later, which inference tensors cannot be.
@torch.inference_mode(False)
@torch.no_grad()
def exemplar_embeddings(
    detector: Detector,
    exemplars: Exemplars,
    *,
    encoder: VocabularyEncoder | None = None,
    preprocessor: Preprocessor | None = None,
) -> dict[str, Tensor]:
    """Unit embeddings [D], in the space of names, of the classes given by exemplars.

    Args:
        detector: embeds the exemplars.
        exemplars: class name -> exemplars.
        encoder: embeds the everyday names; None for the detector's own.
        preprocessor: turns images into batches; None for the detector's own.

    Raises:
        VocabularyError: unusable names, a class without an image.
        ImageError: an image cannot be read, a box that is not in its image.
    """
    if not exemplars:
        return {}
    everyday = (encoder or detector.vocabulary_encoder).encode(EVERYDAY_NAMES).embeddings.to(detector.device)
    scale = detector.config.tower.logit_scale
    embeddings = embed_exemplars(detector, exemplars, preprocessor=preprocessor)
    return {name: to_name_space(embedding, everyday, scale=scale) for name, embedding in embeddings.items()}


@torch.inference_mode(False)
@torch.no_grad()
def embed_exemplars(
    detector: Detector, exemplars: Exemplars, *, preprocessor: Preprocessor | None = None
) -> dict[str, Tensor]:
    """Unit embeddings [D] of the classes given by exemplars, in the space of images.

    The embedding of a class is the normalised mean of the unit embeddings of its exemplars.

    Raises:
        VocabularyError: blank names or the same twice, a class without an image.
        ImageError: an image cannot be read, a box that is not in its image.
    """
    names = clean_names(tuple(exemplars))
    embeddings = {}
    for name, images in zip(names, exemplars.values(), strict=True):
        if isinstance(images, str | bytes | bytearray) or not isinstance(images, Sequence):
            raise VocabularyError(
                f"exemplars of {name!r}: expected a list of images, got {type(images).__name__}; put it in a list"
            )
        if not images:
            raise VocabularyError(f"exemplars of {name!r}: expected at least one image, got an empty list")
        if _is_boxed(images):
            raise VocabularyError(
                f"exemplars of {name!r}: expected a list of images, got an image with its box; put it in a list: "
                "[(image, (left, top, right, bottom))]"
            )
        found = torch.stack([_embed(detector, one, preprocessor) for one in images])
        embeddings[name] = F.normalize(found.mean(dim=0), dim=-1)
    return embeddings


def to_name_space(embedding: Tensor, names: Tensor, *, scale: float) -> Tensor:
    """Map an image's embedding e to the space of names: normalize(sum_k p_k t_k), p = softmax_k(scale * t_k . e).

    Args:
        embedding: unit embedding [D] of an image.
        names: unit embeddings t [K, D] of names.
        scale: factor on the cosines, the tower's logit scale.

    Returns:
        Unit embedding [D].
    """
    names = names.to(embedding)
    return F.normalize((scale * names @ embedding).softmax(dim=0) @ names, dim=0)


def embed_region(
    detector: Detector,
    image: ImageSource,
    box_xyxy_px: Box | None = None,
    *,
    preprocessor: Preprocessor | None = None,
) -> Tensor:
    """Unit embedding [D], float32, of a region of an image, or of the whole image.

    Args:
        detector: its tower, exact pooling and region prompt are used.
        image: path, URL, bytes, open file, Pillow image, uint8 array or tensor.
        box_xyxy_px: left, top, right, bottom in pixels of the upright image; None for all of it.
        preprocessor: turns the image into a batch; None for the detector's own.

    Raises:
        ImageError: the image cannot be read, or the box is not in it.

    Examples:
        >>> embed_region(cora.load("nano").detector, "coffee.jpg", (130, 30, 520, 330)).shape
        torch.Size([512])
    """
    return _embed(detector, image if box_xyxy_px is None else (image, box_xyxy_px), preprocessor)


@torch.inference_mode(False)
@torch.no_grad()
def _embed(detector: Detector, exemplar: Exemplar, preprocessor: Preprocessor | None) -> Tensor:
    if isinstance(exemplar, tuple) and len(exemplar) != 2:
        raise ImageError(f"exemplar: expected an image or (image, box), got {len(exemplar)} values")
    source, box = exemplar if isinstance(exemplar, tuple) else (exemplar, None)
    image = read_image(source, allow_url=True)
    corners = torch.tensor([0.0, 0.0, image.width, image.height]) if box is None else _checked(box, image, source)
    scale = corners.new_tensor([image.width, image.height] * 2)
    boxes_cxcywh = xyxy_to_cxcywh(corners / scale).view(1, 1, 4).to(detector.device)
    c3, _ = detector.encode((preprocessor or detector.preprocessor)([image]).to(detector.device))
    return detector.embed_exact(c3, boxes_cxcywh)[0, 0].float()


def _is_boxed(images: Sequence[object]) -> bool:
    """Whether the exemplars of a class are one (image, box) instead of a list."""
    if not isinstance(images, tuple) or len(images) != 2:
        return False
    box = images[1]
    return isinstance(box, list | tuple) and len(box) == 4 and all(isinstance(side, int | float) for side in box)


def _checked(box_xyxy_px: Box, image: Image.Image, source: ImageSource) -> Tensor:
    """The box as a tensor [4], clipped to the image; raises ImageError if it is not in the image up to rounding."""
    what = f"an image of {image.width} x {image.height} pixels"
    try:
        values = [float(value) for value in box_xyxy_px]
    except (TypeError, ValueError):
        raise ImageError(
            f"box: expected four numbers (left, top, right, bottom) for {what}, got {box_xyxy_px!r}"
        ) from None
    if isinstance(source, str | Path):
        what += f" ({source})"
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise ImageError(f"box: expected four numbers (left, top, right, bottom) for {what}, got {values}")
    left, top, right, bottom = values
    if (
        min(left, top) < -_ROUNDING_PX
        or right > image.width + _ROUNDING_PX
        or bottom > image.height + _ROUNDING_PX
        or min(right - left, bottom - top) < 1
    ):
        shown = ", ".join(f"{value:g}" for value in values)
        raise ImageError(f"box: expected left, top, right, bottom within {what}, at least 1 apart, got {shown}")
    return torch.tensor([max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)])


def with_exemplars(
    vocabulary: Vocabulary | None, embeddings: Mapping[str, Tensor], *, share: float = IMAGE_SHARE
) -> Vocabulary:
    """Add classes given by exemplars to a vocabulary.

    A class that is in the vocabulary gets the normalised weighted mean of its text embedding and that of its exemplars.
    Others are appended, with a pre-matching weight of 1. Names are compared without regard to case.

    Args:
        vocabulary: classes given by names; None for none.
        embeddings: class name -> unit embedding [D] of its exemplars, in the space of names (`to_name_space`).
        share: weight of the exemplars in that mean, 0..1.

    Raises:
        VocabularyError: unusable names, embeddings of another width than the vocabulary's.
    """
    names = clean_names(tuple(embeddings))
    by_exemplars = torch.stack(list(embeddings.values()))
    if vocabulary is None:
        return Vocabulary(names, by_exemplars)
    by_name = vocabulary.embeddings
    if by_exemplars.shape[1] != by_name.shape[1]:
        raise VocabularyError(
            f"exemplars: expected embeddings of the names' width {by_name.shape[1]}, got {by_exemplars.shape[1]}; "
            "embed them with the same model"
        )
    by_exemplars = by_exemplars.to(by_name)
    indices = {name_key(name): index for index, name in enumerate(vocabulary.names)}
    mixed = by_name.clone()
    new = []
    for row, name in enumerate(names):
        index = indices.get(name_key(name))
        if index is None:
            new.append(row)
        else:
            mixed[index] = F.normalize((1 - share) * by_name[index] + share * by_exemplars[row], dim=0)
    weights = vocabulary.weights
    return replace(
        vocabulary,
        names=(*vocabulary.names, *(names[row] for row in new)),
        embeddings=torch.cat([mixed, by_exemplars[new]]),
        weights=None if weights is None else torch.cat([weights, weights.new_ones(len(new))]),
    )
