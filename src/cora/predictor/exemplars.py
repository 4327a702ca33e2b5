"""Classes given by images instead of words, or by both: an exemplar is an image, or a box in one.

An exemplar goes through the frozen tower and exact pooling with the region prompt, as a detected
box does. Its embedding cannot stand beside those of names as it is: any two images are closer to each other than a
image is to its own name (the modality gap), so a class by images would claim every box. Subtracting the mean of
images does not mend that, their spread being larger, too. What does is to say the exemplar in words: the mean of the
embeddings of everyday names, each with the probability that the model gives it for the exemplar. The numbers are in
docs/exemplars.md.
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

#: Share of the images in a class by words and images (benchmarks/exemplars.py).
PICTURE_SHARE = 0.25
_ROUNDING_PX = 1.0  # how far a box may reach over the border of its image


# What is embedded here may be kept and used in training later, so it must not be born as an inference tensor.
@torch.inference_mode(False)
@torch.no_grad()
def exemplar_embeddings(
    detector: Detector,
    exemplars: Exemplars,
    *,
    encoder: VocabularyEncoder | None = None,
    preprocessor: Preprocessor | None = None,
) -> dict[str, Tensor]:
    """Unit embedding [D], among those of names, of every class that is given by images.

    Args:
        detector: embeds the images.
        exemplars: name -> images of it.
        encoder: embeds the everyday names that images are said in; the detector's own if None.
        preprocessor: how images become batches; the detector's own way if None.

    Raises:
        VocabularyError: unusable names, a class without an image.
        ImageError: an image cannot be read, a box that is not in its image.
    """
    if not exemplars:
        return {}
    words = (encoder or detector.vocabulary_encoder).encode(EVERYDAY_NAMES).embeddings.to(detector.device)
    scale = detector.config.tower.logit_scale
    pictures = embed_exemplars(detector, exemplars, preprocessor=preprocessor)
    return {name: in_words(embedding, words, scale=scale) for name, embedding in pictures.items()}


@torch.inference_mode(False)
@torch.no_grad()
def embed_exemplars(
    detector: Detector, exemplars: Exemplars, *, preprocessor: Preprocessor | None = None
) -> dict[str, Tensor]:
    """Unit embedding [D] of every class that is given by images.

    Several exemplars of a class are averaged on the unit sphere: the mean of their unit embeddings, made unit again.

    Raises:
        VocabularyError: blank names or the same twice, a class without an image.
        ImageError: an image cannot be read, a box that is not in its image.
    """
    names = clean_names(tuple(exemplars))
    embeddings = {}
    for name, pictures in zip(names, exemplars.values(), strict=True):
        if isinstance(pictures, str | bytes | bytearray) or not isinstance(pictures, Sequence):
            raise VocabularyError(
                f"exemplars of {name!r}: expected a list of images, got {type(pictures).__name__}; put it in a list"
            )
        if not pictures:
            raise VocabularyError(f"exemplars of {name!r}: expected at least one image, got an empty list")
        if _is_boxed(pictures):
            raise VocabularyError(
                f"exemplars of {name!r}: expected a list of images, got an image with its box; put it in a list: "
                "[(image, (left, top, right, bottom))]"
            )
        found = torch.stack([_embed(detector, one, preprocessor) for one in pictures])
        embeddings[name] = F.normalize(found.mean(dim=0), dim=-1)
    return embeddings


def in_words(embedding: Tensor, words: Tensor, *, scale: float) -> Tensor:
    """An image's embedding said in words: normalize(sum_w p_w w), p = softmax(scale * w . embedding).

    Args:
        embedding: unit embedding [D] of an image.
        words: unit embeddings [W, D] of names.
        scale: of the cosines, the tower's logit scale.

    Returns:
        Unit embedding [D] among those of names.
    """
    words = words.to(embedding)
    return F.normalize((scale * words @ embedding).softmax(dim=0) @ words, dim=0)


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
        preprocessor: how it becomes a batch; the detector's own way if None.

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
    picture = read_image(source, allow_url=True)
    corners = torch.tensor([0.0, 0.0, picture.width, picture.height]) if box is None else _checked(box, picture, source)
    scale = corners.new_tensor([picture.width, picture.height] * 2)
    boxes_cxcywh = xyxy_to_cxcywh(corners / scale).view(1, 1, 4).to(detector.device)
    c3, _ = detector.encode((preprocessor or detector.preprocessor)([picture]).to(detector.device))
    return detector.embed_exact(c3, boxes_cxcywh)[0, 0].float()


def _is_boxed(pictures: Sequence[object]) -> bool:
    """Whether (image, box) stands where a list of them belongs."""
    if not isinstance(pictures, tuple) or len(pictures) != 2:
        return False
    box = pictures[1]
    return isinstance(box, list | tuple) and len(box) == 4 and all(isinstance(side, int | float) for side in box)


def _checked(box_xyxy_px: Box, picture: Image.Image, source: ImageSource) -> Tensor:
    """The box [4], limited to the image, which it may pass by no more than a rounding."""
    what = f"an image of {picture.width} x {picture.height} pixels"
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
        or right > picture.width + _ROUNDING_PX
        or bottom > picture.height + _ROUNDING_PX
        or min(right - left, bottom - top) < 1
    ):
        shown = ", ".join(f"{value:g}" for value in values)
        raise ImageError(f"box: expected left, top, right, bottom within {what}, at least 1 apart, got {shown}")
    return torch.tensor([max(left, 0), max(top, 0), min(right, picture.width), min(bottom, picture.height)])


def with_exemplars(
    vocabulary: Vocabulary | None, embeddings: Mapping[str, Tensor], *, share: float = PICTURE_SHARE
) -> Vocabulary:
    """Put classes given by images into a vocabulary.

    A class that the vocabulary has by words becomes the weighted mean of both unit embeddings, made unit again; the
    others are appended, with a pre-matching weight of 1. Names are compared without regard to case.

    Args:
        vocabulary: classes by words; None for none.
        embeddings: name -> unit embedding [D] among those of names (`in_words`).
        share: 0..1, how much of a class by words and images comes from the images.

    Raises:
        VocabularyError: unusable names, embeddings of another width than the vocabulary's.
    """
    names = clean_names(tuple(embeddings))
    pictured = torch.stack(list(embeddings.values()))
    if vocabulary is None:
        return Vocabulary(names, pictured)
    words = vocabulary.embeddings
    if pictured.shape[1] != words.shape[1]:
        raise VocabularyError(
            f"exemplars: expected embeddings of the names' width {words.shape[1]}, got {pictured.shape[1]}; "
            "embed them with the same model"
        )
    pictured = pictured.to(words)
    places = {name_key(name): place for place, name in enumerate(vocabulary.names)}
    mixed = words.clone()
    new = []
    for row, name in enumerate(names):
        place = places.get(name_key(name))
        if place is None:
            new.append(row)
        else:
            mixed[place] = F.normalize((1 - share) * words[place] + share * pictured[row], dim=0)
    weights = vocabulary.weights
    return replace(
        vocabulary,
        names=(*vocabulary.names, *(names[row] for row in new)),
        embeddings=torch.cat([mixed, pictured[new]]),
        weights=None if weights is None else torch.cat([weights, weights.new_ones(len(new))]),
    )
