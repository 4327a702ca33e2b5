"""`Predictor`, the main class of the package: images and class names in, detections out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, overload

import torch
from torch import nn

from cora.detector import Detector, DetectorConfig, check_trained
from cora.detector.former_names import former_names
from cora.errors import ModelError
from cora.images import ImageSource, Preprocessor
from cora.names import names_without
from cora.predictor import encoded
from cora.predictor.call import Call
from cora.predictor.changes import changed
from cora.predictor.encoded import EncodedImage
from cora.predictor.exemplars import Exemplars
from cora.predictor.images import Unreadable, UnreadableImagesError, is_one, read_ahead
from cora.predictor.model import Model, TorchModel
from cora.predictor.settings import PredictOptions, PredictSettings, VocabularySettings, named_options
from cora.predictor.tiling import Tiles
from cora.predictor.vocabulary import classes_to_look_for, own_distractors, usual_names
from cora.regions import Classes, Descriptions, Vocabulary, VocabularyEncoder
from cora.structures import Detections, ImageBatch
from cora.towers.folding import Precision


class Predictor(nn.Module):
    """Finds named objects in images.

    It has no weights of its own: `detector` is the network, and the network's attributes (steps, towers, ...) are also
    attributes of the predictor. Predicting never changes the network, not even its mode, and is thread-safe.

    Args:
        model: the network, or another `Model`, such as an exported file.
        precision: dtype of the image tower and the localizer's layers; None for the model's own.
        preprocessor: turns images into batches; None for the model's own.

    Examples:
        >>> network = cora.load("nano").detector
        >>> predictor = Predictor(network, precision="float32")  # the same weights, in another precision
        >>> predictor.detector is network, predictor.precision
        (True, 'float32')
    """

    def __init__(
        self,
        model: Detector | Model,
        *,
        precision: Precision | None = None,
        preprocessor: Preprocessor | None = None,
    ) -> None:
        super().__init__()
        self.model: Model = TorchModel(model) if isinstance(model, Detector) else model
        if isinstance(self.model, TorchModel):
            self._network = self.model.detector  # registered, so that `.to(device)` and the like reach it
        self.training = isinstance(model, Detector) and model.training  # `predict` works in either mode
        self._precision, self._preprocessor = precision, preprocessor

    @classmethod
    def of(cls, model: Predictor | Detector) -> Predictor:
        """A predictor for a network; a predictor is returned as it is."""
        return Predictor(model) if isinstance(model, Detector) else model

    @property
    def detector(self) -> Detector:
        """The network.

        Raises:
            ModelError: the model is an exported file, which has no network in PyTorch.
        """
        if not isinstance(self.model, TorchModel):
            raise ModelError("expected a model by name or a checkpoint, got an exported file; name what it was made of")
        return self.model.detector

    @property
    def config(self) -> DetectorConfig:
        """Sizes and settings of the network. Assigning changes those of the network, which `save` writes."""
        return self.model.config

    @config.setter
    def config(self, config: DetectorConfig) -> None:
        self.detector.config = config

    @property
    def device(self) -> torch.device:
        """Device that the model computes on."""
        return self.model.device

    @property
    def vocabulary_encoder(self) -> VocabularyEncoder:
        """Embeds class names."""
        return self.model.vocabulary_encoder

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names that were fixed when the model was exported; empty if they are given at run time."""
        return self.model.class_names

    @property
    def preprocessor(self) -> Preprocessor:
        """Turns images into batches. Assigning changes the predictor's; the network keeps its own."""
        return self._preprocessor or self.model.preprocessor

    @preprocessor.setter
    def preprocessor(self, preprocessor: Preprocessor) -> None:
        self._preprocessor = preprocessor

    @property
    def precision(self) -> Precision:
        """Default dtype of the image tower and the localizer's layers; `predict` can set another."""
        return self._precision or self.model.precision

    @precision.setter
    def precision(self, precision: Precision) -> None:
        self._precision = PredictSettings(precision=precision).precision

    def with_postprocess(self, *, precision: Precision | None = None, **changes: Any) -> Predictor:
        """A predictor of the same weights with other settings; this one and its network stay as they are.

        Args:
            precision: dtype of the layers; None for this predictor's.
            changes: fields of `PostprocessConfig`, such as `exact_boxes`.

        Raises:
            OptionError: a value is of the wrong type or out of range.
            UnknownOptionError: there is no such field.
        """
        if precision is not None:
            PredictSettings(precision=precision)
        own = self.detector
        config = replace(own.config, postprocess=changed(own.config.postprocess, changes))
        network = own.with_parts(config=config) if changes else own
        return Predictor(network, precision=precision or self._precision, preprocessor=self._preprocessor)

    @property
    def own_names(self) -> tuple[str, ...]:
        """Class names that are fixed in an exported file or that the model was fine-tuned on; else empty."""
        return self.class_names or self.config.own_names

    @property
    def usual_names(self) -> tuple[str, ...]:
        """Class names of calls that give none: `own_names`, or the built-in vocabulary."""
        return usual_names(self.own_names)

    def score_of(self, asked: float | None, *, built_in: bool = False) -> float:
        """Score threshold, 0..1: `asked`, or the model's own, which is different for the built-in vocabulary."""
        own = self.config.postprocess
        return asked if asked is not None else own.builtin_threshold if built_in else own.score_threshold

    @overload
    def predict(  # type: ignore[overload-overlap]  # a path is a sequence of letters, too; it is one image
        self,
        images: ImageSource | EncodedImage,
        classes: Classes | Vocabulary | None = None,
        **options: Unpack[PredictOptions],
    ) -> Detections: ...

    @overload
    def predict(  # type: ignore[overload-overlap]  # a list is iterable, too; its results come as a list
        self,
        images: Sequence[ImageSource],
        classes: Classes | Vocabulary | None = None,
        **options: Unpack[PredictOptions],
    ) -> list[Detections]: ...

    @overload
    def predict(
        self,
        images: Iterable[ImageSource],
        classes: Classes | Vocabulary | None = None,
        **options: Unpack[PredictOptions],
    ) -> Iterator[Detections]: ...

    @named_options
    def predict(
        self,
        images: ImageSource | EncodedImage | Iterable[ImageSource],
        classes: Classes | Vocabulary | None = None,
        *,
        score: float | None = None,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        class_agnostic: bool | None = None,
        tiles: Tiles | None = None,
        batch_size: int = 1,
        score_all_boxes: bool = False,
        precision: Precision | None = None,
        class_weights: Mapping[str, float] | None = None,
        distractors: Sequence[str] | None = None,
        descriptions: Descriptions | None = None,
        exemplars: Exemplars | None = None,
    ) -> Detections | list[Detections] | Iterator[Detections]:
        """Find named objects in one image or in several.

        An image has the same boxes alone and in any batch: only images of one size after resizing share a batch. The
        result of a single image keeps the image, for drawing. Those of several do not, so that thousands fit in memory.

        Args:
            images: path, URL, bytes, open file, Pillow image, uint8 array or tensor, or the output of `encode_image`; a
                list of such images; or an iterator, whose results are streamed: images are read one after the other and
                not kept.
            classes: class names, which may have prompts, `"mug = cup | coffee cup"`; or a mapping of class names to
                prompts, `{"mug": ["cup", "coffee cup"]}`; or the output of `vocabulary`. None for the classes of the
                exemplars, else the model's `own_names`, else the built-in vocabulary of 1,200 everyday things.
            score: score threshold, 0..1: only detections above it are returned; None for the model's own, which is
                different for the built-in vocabulary.
            nms_iou: suppression threshold, 0..1: a box is dropped if its IoU with a better one of its class is higher;
                None for the model's own.
            max_detections: most boxes per image; None for the model's own number.
            class_agnostic: suppress between classes, too, so that an object has one name; None for the built-in
                vocabulary only.
            tiles: detect in overlapping parts of an image, too, for small objects: `cora.Tiles(count=(2, 2))`.
            batch_size: most images per forward pass.
            score_all_boxes: pool every box exactly, as published, in the precision of the weights.
            precision: "auto", "float32", "bfloat16" or "float16": dtype of the image tower and the localizer's layers;
                None for the predictor's own.
            class_weights: class name -> factor on the class's score in anchor pre-matching, `{"cup": 2.0}`.
            distractors: names of other things that may be in the images; they compete with the classes and are never
                reported. None for the model's choice, `()` for none.
            descriptions: sentences on what some classes look like, `{"dog": ["a golden retriever"]}`.
            exemplars: images of classes by name, `{"my logo": ["logo.png", (image, (left, top, right, bottom))]}`.

        Returns:
            `Detections` for one image, a list in the same order for a list, an iterator for an iterator. The iterator
            yields `Unreadable`, with no boxes and an `error`, for an image that cannot be read, and logs a warning.

        Raises:
            ImageError: the image cannot be read; for a list `UnreadableImagesError`, after all others were processed,
                with their results in `found`.
            VocabularyError: the names are unusable.
            OptionError: an option has a value of the wrong type or out of range.
            UnknownOptionError: unknown option; the message suggests the one that was meant.
            ModelError: an exported model does not support an option.

        Examples:
            >>> predictor = cora.load("nano")
            >>> for name, score, box in predictor.predict("coffee.jpg", ["cup", "spoon"], score=0.5):
            ...     print(name, f"{score:.1f}", len(box))  # box: left, top, right, bottom in pixels
            cup 0.6 4
            >>> [found.names for found in predictor.predict(["cat.jpg", "coffee.jpg"], ["cat", "cup"], score=0.5)]
            [['cat'], ['cup']]
        """
        check_trained(self.config)
        settings = PredictSettings(
            score=score,
            nms_iou=nms_iou,
            max_detections=max_detections,
            class_agnostic=class_agnostic,
            tiles=tiles,
            batch_size=batch_size,
            score_all_boxes=score_all_boxes,
            precision=self._precision if precision is None else precision,
        )
        vocabulary = self.vocabulary(
            classes,
            class_weights=class_weights,
            distractors=distractors,
            descriptions=descriptions,
            exemplars=exemplars,
        )
        one_name = vocabulary.built_in if class_agnostic is None else class_agnostic
        settings = replace(settings, score=self.score_of(score, built_in=vocabulary.built_in), class_agnostic=one_name)
        if isinstance(images, EncodedImage):
            return encoded.detect(self.model, images, vocabulary, self.preprocessor, settings)
        call = Call(self.model, self.preprocessor, vocabulary, settings)
        if is_one(images):
            return call.one(images)
        if not isinstance(images, Sequence):
            return call.stream(images)  # type: ignore[arg-type]
        parts = read_ahead(images, batch_size)  # type: ignore[arg-type]  # text and bytes are one image, answered above
        found = [one for part in parts for one in call.detect(part)]
        if any(isinstance(one, Unreadable) for one in found):
            raise UnreadableImagesError(found)
        return found

    def encode_image(self, image: ImageSource) -> EncodedImage:
        """Run the part of the network that does not depend on class names, once for many calls of `predict`.

        `predict` gives the same boxes, to the last bit, as with the image itself.

        Args:
            image: path, URL, bytes, open file, Pillow image, uint8 array or tensor.

        Returns:
            What `predict` takes in place of the image, as long as weights, precision and preprocessor stay.

        Raises:
            ImageError: the image cannot be read.
            ModelError: the model is an exported file.

        Examples:
            >>> predictor = cora.load("nano")
            >>> encoded = predictor.encode_image("coffee.jpg")
            >>> [len(predictor.predict(encoded, [name], score=0.5)) for name in ("cup", "zebra")]
            [1, 0]
        """
        return encoded.encode(self.model, image, self.preprocessor, self.precision)

    @named_options
    def vocabulary(
        self,
        classes: Classes | Vocabulary | None = None,
        *,
        class_weights: Mapping[str, float] | None = None,
        distractors: Sequence[str] | None = None,
        descriptions: Descriptions | None = None,
        exemplars: Exemplars | None = None,
    ) -> Vocabulary:
        """Encode class names, with exemplars and distractors, once for many calls of `predict`, on the model's device.

        Args:
            classes: as in `predict`; options are added to a vocabulary that was encoded before. For a model with fixed
                names, some of these.
            class_weights: as in `predict`.
            distractors: as in `predict`.
            descriptions: as in `predict`.
            exemplars: as in `predict`.

        Returns:
            C classes and M distractors, if any, with their unit embeddings.

        Raises:
            VocabularyError: the names are unusable.
            ImageError: an image of an exemplar cannot be read.
            UnknownOptionError: unknown option; the message suggests the one that was meant.

        Examples:
            >>> predictor = cora.load("nano")
            >>> vocabulary = predictor.vocabulary({"mug": ["cup", "coffee cup"], "spoon": "spoon"})
            >>> predictor.predict("coffee.jpg", vocabulary, score=0.5).names
            ['mug']
        """
        settings = VocabularySettings(
            class_weights=class_weights, distractors=distractors, descriptions=descriptions, exemplars=exemplars
        )
        given = classes_to_look_for(classes, own=self.own_names, exemplars=exemplars)
        # Not in inference mode: a vocabulary may be used in training later, which inference tensors cannot be.
        with torch.inference_mode(False), torch.no_grad():
            vocabulary = self.model.vocabulary(given, settings, self.preprocessor)
        built_in = classes is None and not exemplars and not self.own_names
        return replace(vocabulary, built_in=True) if built_in else vocabulary

    @former_names(least_score="score_threshold")
    def forward(self, batch: ImageBatch, vocabulary: Vocabulary, *, score_threshold: float = 0.0) -> Any:
        """One forward pass, without suppression: a `DetectorOutput`, or the output of an exported graph."""
        return self.model.run(batch, vocabulary, score_threshold=score_threshold)

    def save(self, path: str | Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Write the network as one safetensors file, which `cora.load` reads; see `Detector.save`."""
        self.detector.save(path, dtype=dtype)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """State dict of the network."""
        return self.detector.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights into the network."""
        return self.detector.load_state_dict(state_dict, strict=strict, assign=assign)

    def __getattr__(self, name: str) -> Any:
        """Look attributes up in the network or the exported model."""
        model = self.__dict__.get("model")
        if name.startswith("_") or model is None:
            return super().__getattr__(name)
        return getattr(model.detector if isinstance(model, TorchModel) else model, name)


def network_of(model: Predictor | Detector) -> Detector:
    """The network of a predictor; a network is returned as it is."""
    return model if isinstance(model, Detector) else model.detector


def count_distractors(model: Predictor | Detector, classes: Sequence[str], asked: Sequence[str] | None = None) -> int:
    """Number of distractors in a call.

    Args:
        model: the model that is called.
        classes: class names and prompts of the call, which are left out of the distractors.
        asked: the distractors of the call; None for the model's own choice.
    """
    fixed: int | None = getattr(model, "fixed_distractors", None)
    if fixed is not None:
        return fixed
    return len(names_without(own_distractors(model.config) if asked is None else asked, classes))
