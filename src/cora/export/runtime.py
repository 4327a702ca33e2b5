"""An exported file as the model of a `Predictor`, which takes the same batches and gives the same boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from cora.boxes import clip_to_image, scale_to_pixels
from cora.detector import Detector, DetectorConfig
from cora.detector.fingerprint import weights_fingerprint
from cora.detector.postprocess import Found, suppress
from cora.errors import TEXT_MODEL, ModelError, VocabularyError
from cora.export.backends import Backend
from cora.export.fixed_size import FixedSizePreprocessor
from cora.export.graph import class_inputs
from cora.export.manifest import Manifest
from cora.export.open_file import open_file
from cora.images import Preprocessor
from cora.names import name_key
from cora.predictor import Predictor, PredictSettings, VocabularySettings, network_of
from cora.predictor.exemplars import exemplar_embeddings
from cora.predictor.vocabulary import build_vocabulary
from cora.regions import ClassPrompts, Descriptions, Vocabulary, VocabularyEncoder, by_themselves, clean_names
from cora.structures import ImageBatch
from cora.towers.folding import Precision

#: Loads the model whose text tower embeds names, by its name or path.
LoadDetector = Callable[[str], Predictor | Detector]


def load_exported(
    path: str | Path,
    *,
    load_text_model: LoadDetector,
    text_model: str | None = None,
    device: str = "cpu",
    threads: int = 0,
) -> ExportedDetector:
    """Open an exported file: *.onnx with ONNX Runtime, *.xml with OpenVINO, *.tflite with LiteRT.

    Args:
        path: file that `export_detector` wrote.
        load_text_model: `cora.load`, for files whose vocabulary is an input; called when the first name is embedded.
        text_model: name or path that it is called with; None for the name in the file.
        device: "cpu", or "cuda" where ONNX Runtime has it.
        threads: number that compute; 0 leaves it to the runtime.

    Raises:
        MissingExtraError: the runtime is not installed.
        ModelError: the file is not there, or not one that `cora export` wrote.
        CoraError: the runtime has no such device.
    """
    file = Path(path)
    backend, manifest = open_file(file, device=device, threads=threads)
    return ExportedDetector(
        backend=backend, manifest=manifest, load_text_model=load_text_model, text_model=text_model, source=str(file)
    )


class FixedVocabularyEncoder:
    """Takes the place of a vocabulary encoder where names are fixed in the graph; refuses all others.

    Args:
        manifest: with the names.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._places = {name_key(name): place for place, name in enumerate(manifest.class_names)}

    def encode(self, names: Sequence[str] | ClassPrompts, *, descriptions: Descriptions | None = None) -> Vocabulary:
        """A vocabulary of some of the fixed names; its embeddings [C, 0] are empty, the graph has them.

        Raises:
            VocabularyError: unusable names, ones that are not in the graph, or names with prompts.
        """
        if descriptions is not None:
            raise self._fixed("descriptions")
        cleaned = clean_names(tuple(names))
        if isinstance(names, Mapping) and dict(names) != by_themselves(names):
            raise self._fixed("prompts")
        self.places(cleaned)
        return Vocabulary(cleaned, torch.zeros(len(cleaned), 0))

    def places(self, names: Sequence[str]) -> Tensor:
        """Place [C] of each name among the fixed ones."""
        unknown = [name for name in names if name_key(name) not in self._places]
        if unknown:
            raise VocabularyError(
                f"class names: expected some of the {len(self._places)} that were exported with the model, got "
                f"{unknown[0]!r}; export it again with it ('cora export --classes'), or without for names at run time"
            )
        return torch.tensor([self._places[name_key(name)] for name in names])

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("templates", "descriptions"):
            raise self._fixed(name)
        super().__setattr__(name, value)

    def _fixed(self, what: str) -> VocabularyError:
        return VocabularyError(f"{what}: expected none, since names are fixed in the exported model; export anew")


class ExportedDetector(Predictor):
    """A predictor whose network another runtime executes; it refuses settings other than those fixed in the graph.

    Args:
        backend: runs the graph.
        manifest: what the file says of itself.
        load_text_model: gives the model that embeds names, where the vocabulary is an input.
        text_model: its name; None for the one in the manifest.
        source: path of the file, for messages.
    """

    def __init__(
        self,
        *,
        backend: Backend,
        manifest: Manifest,
        load_text_model: LoadDetector,
        text_model: str | None = None,
        source: str = "exported model",
    ) -> None:
        exported = ExportedModel(
            backend=backend,
            manifest=manifest,
            load_text_model=load_text_model,
            text_model=text_model or manifest.model,
            source=source,
        )
        super().__init__(exported)


class ExportedModel:
    """A graph that a runtime executes, as a `cora.predictor.Model`.

    Args:
        backend: runs the graph.
        manifest: what the file says of itself.
        load_text_model: gives the model that embeds names, where the vocabulary is an input.
        text_model: its name.
        source: path of the file, for messages.
    """

    #: Fixed in the graph.
    precision: Precision = "float32"

    def __init__(
        self, *, backend: Backend, manifest: Manifest, load_text_model: LoadDetector, text_model: str, source: str
    ) -> None:
        self.backend = backend
        self.manifest = manifest
        self.source = source
        size, config = manifest.settings.size_hw, manifest.config.preprocess
        self.preprocessor: Preprocessor = (
            Preprocessor.from_config(config) if size is None else FixedSizePreprocessor(config=config, size_hw=size)
        )
        self._load_text_model = load_text_model
        self._text_model = text_model
        self._encoder: VocabularyEncoder | FixedVocabularyEncoder | None = (
            FixedVocabularyEncoder(manifest) if manifest.vocabulary == "fixed" else None
        )

    @property
    def config(self) -> DetectorConfig:
        """Configuration of the exported detector; of a fixed vocabulary, the graph has the distractors."""
        return self.manifest.config

    @property
    def device(self) -> torch.device:
        """Where batches and vocabularies are expected."""
        return torch.device("cpu")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of a fixed vocabulary; empty where names are given at run time."""
        return self.manifest.class_names

    @property
    def fixed_distractors(self) -> int | None:
        """Number of distractors of a fixed vocabulary; None where names are given at run time."""
        return self.manifest.distractors if self.manifest.vocabulary == "fixed" else None

    @property
    def fixed_max_detections(self) -> int | None:
        """Largest number of detections in an image, where suppression is in the graph; else None."""
        return self.config.postprocess.max_detections if self.manifest.settings.nms == "inside" else None

    @property
    def vocabulary_encoder(self) -> VocabularyEncoder:
        """Embeds names with the text tower of the exported model, which is loaded at the first use.

        A `FixedVocabularyEncoder`, where the names are fixed.

        Raises:
            ModelError: the model cannot be loaded, or has another text tower than the exported one.
        """
        if self._encoder is None:
            try:
                encoder = self._load_text_model(self._text_model).vocabulary_encoder
            except ModelError as error:
                raise ModelError(
                    f"{self.source}: names need the text tower of {self._text_model}: {error}{TEXT_MODEL}"
                ) from None
            if encoder.text_tower.fingerprint != self.manifest.text_fingerprint:
                raise ModelError(
                    f"{self.source}: expected the text tower it was exported with, {self._text_model} has another; "
                    f"export it again{TEXT_MODEL}"
                )
            self._encoder = encoder
        return cast(VocabularyEncoder, self._encoder)

    def vocabulary(
        self, classes: ClassPrompts | Vocabulary, settings: VocabularySettings, preprocessor: Preprocessor
    ) -> Vocabulary:
        """The vocabulary, as in PyTorch; of fixed names, those that are given, or all of them.

        Raises:
            VocabularyError: unusable names, or options that only names at run time can have.
        """
        if self.manifest.vocabulary == "fixed":
            self._check_fixed(settings)
            names = classes.names if isinstance(classes, Vocabulary) else classes
            return self.vocabulary_encoder.encode(names or self.class_names)
        encoder = self.vocabulary_encoder
        embeddings = {}
        if settings.exemplars:
            # In PyTorch and at the model's own size, so that exemplars do not depend on the graph's input size.
            embeddings = exemplar_embeddings(self._original(), settings.exemplars, encoder=encoder)
        return build_vocabulary(classes, settings, encoder=encoder, config=self.config, exemplars=embeddings).to(
            self.device
        )

    def detect(self, batch: ImageBatch, vocabulary: Vocabulary, settings: PredictSettings) -> list[Found]:
        """Boxes, scores and labels of every image.

        Raises:
            ModelError: a setting differs from what is fixed in the graph.
        """
        if settings.score_all_boxes or settings.precision not in (None, "float32"):
            raise ModelError(f"{self.source}: boxes that are scored and precision were fixed when it was exported")
        return self.postprocess(
            self.run(batch, vocabulary),
            batch.original_sizes,
            score=settings.score,
            nms_iou=settings.nms_iou,
            max_detections=settings.max_detections,
            class_agnostic=bool(settings.class_agnostic),
        )

    def run(self, batch: ImageBatch, vocabulary: Vocabulary, *, score_threshold: float = 0.0) -> ExportedOutput:
        """Run the graph on a batch; `score_threshold` has no effect, unlike in a `Detector`.

        Raises:
            ModelError: the runtime refuses the inputs.
        """
        size = self.manifest.settings.batch or len(batch)
        parts = [self._run(batch, start, size, vocabulary) for start in range(0, len(batch), size)]
        boxes, scores, *labels = (torch.cat(outputs)[: len(batch)] for outputs in zip(*parts, strict=True))
        if isinstance(self._encoder, FixedVocabularyEncoder):
            places = self._encoder.places(vocabulary.names)
            if not labels:
                return ExportedOutput(boxes, scores[..., places], None)
            asked = torch.full((len(self.class_names) + 1,), -1)  # one more, for the label -1
            asked[places] = torch.arange(len(places))
            return ExportedOutput(boxes, scores, asked[labels[0]])
        return (
            ExportedOutput(boxes, scores, labels[0])
            if labels
            else ExportedOutput(boxes, scores[..., : len(vocabulary)], None)
        )

    def postprocess(
        self,
        output: ExportedOutput,
        sizes_hw: Sequence[tuple[int, int]],
        *,
        score: float | None = None,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        class_agnostic: bool = False,
    ) -> list[Found]:
        """Suppress the boxes of a pass, as `cora.detector.postprocess.suppress` does, unless the graph did.

        Raises:
            ModelError: the graph suppresses, and a setting differs from those that it was exported with.
        """
        config = self.config.postprocess
        if output.labels is None:
            return suppress(
                output.boxes_cxcywh,
                output.scores,
                sizes_hw,
                config,
                score=score,
                nms_iou=nms_iou,
                max_detections=max_detections,
                class_agnostic=class_agnostic,
            )
        least = config.min_score if score is None else score
        most = config.max_detections if max_detections is None else max_detections
        self._check_inside(least, nms_iou, max_detections)
        found = []
        for boxes, scores, labels, size in zip(
            output.boxes_cxcywh, output.scores, output.labels, sizes_hw, strict=True
        ):
            kept = ((scores > least) & (labels >= 0)).nonzero()[:, 0]
            corners = scale_to_pixels(boxes[kept], size)
            if class_agnostic:  # among the boxes that suppression within classes kept
                apart = nms(corners, scores[kept], config.nms_iou)
                kept, corners = kept[apart], corners[apart]
            kept, corners = kept[:most], clip_to_image(corners[:most], size)
            found.append((corners, scores[kept], labels[kept]))
        return found

    def _original(self) -> Detector:
        """The model that was exported, whose image tower embeds exemplars."""
        detector = network_of(self._load_text_model(self._text_model))
        if weights_fingerprint(detector) != self.manifest.fingerprint:
            raise ModelError(
                f"{self.source}: exemplars need the model that was exported, {self._text_model} is another; "
                f"export it again{TEXT_MODEL}"
            )
        return detector

    def _run(self, batch: ImageBatch, start: int, size: int, vocabulary: Vocabulary) -> list[Tensor]:
        """Outputs for `size` images from `start` on; blank images fill up a batch that is too short."""
        pixels, sizes = batch.pixels[start : start + size].float(), torch.tensor(batch.sizes[start : start + size])
        missing = size - len(pixels)
        if missing:
            pixels = torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])])
            sizes = torch.cat([sizes, sizes.new_tensor(pixels.shape[-2:]).expand(missing, 2)])
        inputs = {"pixels": pixels, "sizes_hw": sizes}
        if self.manifest.vocabulary == "input":
            inputs["embeddings"], inputs["log_weights"] = class_inputs(vocabulary)
        arrays: Mapping[str, NDArray[Any]] = {name: value.contiguous().numpy() for name, value in inputs.items()}
        outputs = [torch.from_numpy(output) for output in self.backend.run(arrays)]
        if any(len(output) != size for output in outputs):
            shapes = ", ".join(str(list(output.shape)) for output in outputs)
            raise ModelError(f"{self.source}: expected outputs for {size} images, {self.backend.name} gave {shapes}")
        return outputs

    def _check_fixed(self, settings: VocabularySettings) -> None:
        """Refuse options that a fixed vocabulary cannot have; "no distractors" is fine where there are none."""
        asked = [name for name in ("class_weights", "descriptions", "exemplars") if getattr(settings, name)]
        others = settings.distractors
        if others or (others is not None and self.manifest.distractors):
            asked.append("distractors")
        if asked:
            raise VocabularyError(
                f"{self.source}: {', '.join(asked)} cannot be changed, since the vocabulary was fixed when it was "
                "exported; export it anew with what is wanted"
            )

    def _check_inside(self, score: float, nms_iou: float | None, max_detections: int | None) -> None:
        config = self.config.postprocess
        most = config.max_detections
        wrong = None
        if nms_iou is not None and nms_iou != config.nms_iou:
            wrong = f"nms_iou of {config.nms_iou:g}, got {nms_iou:g}"
        elif max_detections is not None and max_detections > most:
            wrong = f"max_detections of at most {most}, got {max_detections}"
        elif score < config.min_score:
            wrong = f"score of at least {config.min_score:g}, got {score:g}"
        if wrong is not None:
            raise ModelError(
                f"{self.source}: expected {wrong}; suppression is part of the graph, export with it outside"
            )


@dataclass(frozen=True)
class ExportedOutput:
    """Output of one pass of a graph.

    Attributes:
        boxes_cxcywh: [B, K, 4], 0..1 of the unpadded image.
        scores: [B, K, C] of the classes asked for; with suppression in the graph [B, K], best first.
        labels: [B, K] with suppression in the graph, -1 for what was not asked for and for filling; else None.
    """

    boxes_cxcywh: Tensor
    scores: Tensor
    labels: Tensor | None
