"""The model of a batch with all of its options: opened by each worker, identified in the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Unpack

import torch
from PIL import Image

from cora.batch.labeller import PredictOptions
from cora.detector.fingerprint import weights_fingerprint
from cora.errors import ImageError
from cora.predictor import Exemplars, Predictor, Tiles
from cora.predictor.adapt import set_short_side
from cora.regions import ClassPrompts, Vocabulary, other_prompts, written_classes
from cora.regions.sentences import Sentences
from cora.structures import Detections


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The model of a batch with all options that change its results; it is sent to other processes.

    Attributes:
        load: called with (model, device, text_model=...), gives the predictor; a function of a module, since other
            processes must find it.
        model: name or file of the model.
        device: name of a torch device, or "auto".
        text_model: model that encodes the class names for an exported file.
        text: templates and descriptions.
        words: class name -> prompts of the classes that are given in words; None for the model's own classes, or the
            built-in vocabulary.
        exemplars: class name -> paths of images that define the class.
        tiles: overlapping parts of an image on which the detector runs, too.
        short_side: pixels of the short side to which images are resized; None for the model's own.
        class_weights: class name -> factor on its score in pre-matching.
        class_agnostic: suppress boxes of different classes, too; None for the built-in vocabulary only.
    """

    load: Callable[..., Predictor]
    model: str
    device: str = "auto"
    text_model: str | None = None
    text: Sentences = field(default_factory=Sentences)
    words: ClassPrompts | None = field(default_factory=dict)
    exemplars: Exemplars = field(default_factory=dict)
    tiles: Tiles | None = None
    short_side: int | None = None
    class_weights: Mapping[str, float] = field(default_factory=dict)
    class_agnostic: bool | None = None

    def open(self, worker: int) -> BatchModel:
        """Open the model; where there are several GPUs and none is named, each worker takes the next one.

        Args:
            worker: number of the worker, from 0.
        """
        device = self.device
        if device in ("auto", "cuda") and torch.cuda.device_count() > 1:
            device = f"cuda:{worker % torch.cuda.device_count()}"
        detector = self.load(self.model, device, text_model=self.text_model)
        set_short_side(detector, self.short_side)
        self.text.apply(detector.vocabulary_encoder)
        return BatchModel(detector, self)

    def made_with(self, detector: Predictor) -> dict[str, str]:
        """Name -> hash or value of everything about the model that changes results; a run that resumes must match."""
        words = self.words or {}
        parts = {
            "model": _files_hash(self.model) or f"{weights_fingerprint(detector)}-{_hash(_settings(detector))}",
            "text model": self.text_model,
            "text around names": _hash(asdict(self.text)) if self.text != Sentences() else None,
            "prompts": ", ".join(written_classes(words)) if other_prompts(words) else None,
            "exemplars": _hash([list(words), *self._exemplar_hashes()]) if self.exemplars else None,
            "tiles": str(self.tiles) if self.tiles is not None else None,
            "class weights": _hash(dict(self.class_weights)) if self.class_weights else None,
            "short side": str(self.short_side) if self.short_side is not None else None,
            "suppression": {True: "between classes, too", False: "within classes", None: None}[self.class_agnostic],
            "vocabulary": "built-in" if self.words is None and not detector.own_names else None,
        }
        return {name: value for name, value in parts.items() if value is not None}

    def _exemplar_hashes(self) -> list[Any]:
        found = []
        for name, pictures in self.exemplars.items():
            for picture in pictures:
                source, box = picture if isinstance(picture, tuple) else (picture, None)
                path = str(source)
                content = _files_hash(path)
                if content is None:
                    raise ImageError(f"expected an image file, got no file at {path}; check the path of --exemplar")
                found.append([name, content, box])
        return found


class BatchModel:
    """A `cora.batch.labeller.Model` with the exemplars, tiles and other options of a `ModelChoice`."""

    def __init__(self, detector: Predictor, choice: ModelChoice) -> None:
        self.detector, self._choice = detector, choice

    def vocabulary(self, classes: Sequence[str], *, distractors: Sequence[str] | None = None) -> Vocabulary:
        """Encode the names and exemplars; a name in both is a class by words and images."""
        # The names of a batch include those of classes by images alone, which are not encoded as words.
        words = self._choice.words
        by_words = None if words is None else {name: words[name] for name in classes if name in words}
        return self.detector.vocabulary(
            by_words,
            distractors=distractors,
            exemplars=self._choice.exemplars or None,
            class_weights=self._choice.class_weights,
        )

    def predict(self, images: list[Image.Image], classes: Any, **options: Unpack[PredictOptions]) -> list[Detections]:
        """Detections of each image above the score."""
        choice = self._choice
        return self.detector.predict(
            images, classes, tiles=choice.tiles, class_agnostic=choice.class_agnostic, **options
        )


def _files_hash(model: str) -> str | None:
    """Hash of a file, with the weights that OpenVINO keeps beside it; None if there is no such file."""
    path = Path(model)
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    for file in (path, *([path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [])):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def _settings(detector: Predictor) -> dict[str, Any]:
    """The configuration without score thresholds and names, which the settings of the batch replace."""
    values = asdict(detector.config)
    del values["postprocess"]["score_threshold"], values["postprocess"]["builtin_threshold"], values["class_names"]
    return values


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
