"""The manifest of an exported file, in one JSON text: everything that a runtime needs besides the graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from cora.detector import DetectorConfig
from cora.errors import ModelError, VocabularyError
from cora.regions import clean_names

FORMAT = "cora-export"
FORMAT_VERSION = 1

#: Key of the text in the metadata of an ONNX file and in an exported program.
METADATA_KEY = "cora"

#: Longest text that is read, in characters: 10,000 names of 100 letters and the rest.
MAX_TEXT = 4_000_000

Vocabularies = Literal["fixed", "input"]
Suppression = Literal["outside", "inside"]


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What is constant in a graph.

    Attributes:
        size_hw: (height, width) of the padded input in pixels; None for any.
        batch: images in one pass; None for any number.
        boxes: boxes per image that are classified, those of best objectness; 0 for the model's own number.
        exact_boxes: of these, how many are pooled exactly; 0 for all, None for the model's own number.
        nms: "inside" makes suppression part of the graph, "outside" leaves it to the predictor.

    Raises:
        ModelError: a size or number out of range.

    Examples:
        >>> ExportSettings(size_hw=(384, 512), batch=1).nms
        'outside'
    """

    size_hw: tuple[int, int] | None = None
    batch: int | None = None
    boxes: int = 0
    exact_boxes: int | None = None
    nms: Suppression = "outside"

    def __post_init__(self) -> None:
        if self.size_hw is not None:
            object.__setattr__(self, "size_hw", tuple(self.size_hw))
            if len(self.size_hw) != 2 or min(self.size_hw) < 32:
                raise ModelError(f"size: expected height and width of at least 32 pixels, got {self.size_hw}")
        if self.batch is not None and self.batch < 1:
            raise ModelError(f"batch: expected at least 1, got {self.batch}")
        if self.boxes < 0:
            raise ModelError(f"boxes: expected 0 (the model's own number) or more, got {self.boxes}")
        if self.exact_boxes is not None and self.exact_boxes < 0:
            raise ModelError(f"exact_boxes: expected 0 (all) or more, got {self.exact_boxes}")
        if self.nms not in ("outside", "inside"):
            raise ModelError(f'nms: expected "outside" or "inside", got {self.nms!r}')


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Facts about an exported detector.

    Attributes:
        model: name or path of what was exported; where embeddings are an input, its text tower makes them.
        fingerprint: hash of the exported weights.
        text_fingerprint: hash of the text tower.
        vocabulary: "fixed" in the graph, or "input" of it.
        class_names: the names of a fixed vocabulary, else empty.
        distractors: number of distractors in the graph, with a fixed vocabulary.
        settings: what is constant in the graph.
        config: the detector's configuration, with pre- and post-processing.
        version: of this package when it was exported.
    """

    model: str
    fingerprint: str
    text_fingerprint: str
    vocabulary: Vocabularies
    class_names: tuple[str, ...]
    distractors: int
    settings: ExportSettings
    config: DetectorConfig
    version: str

    def __post_init__(self) -> None:
        if self.vocabulary not in ("fixed", "input"):
            raise ModelError(f'vocabulary: expected "fixed" or "input", got {self.vocabulary!r}')
        if (self.vocabulary == "fixed") != bool(self.class_names):
            raise ModelError(
                f"class names: expected some for a fixed vocabulary and none else, got {len(self.class_names)} "
                f"for {self.vocabulary!r}"
            )

    @property
    def boxes(self) -> int:
        """K, boxes of an image that the graph gives before suppression."""
        queries = self.config.localizer.num_queries
        wanted = self.settings.boxes or self.config.postprocess.max_scored_boxes or queries
        return min(wanted, queries)

    @property
    def exact_boxes(self) -> int:
        """E, how many of the K boxes are pooled exactly."""
        own = self.config.postprocess.exact_boxes
        wanted = own if self.settings.exact_boxes is None else self.settings.exact_boxes
        return min(wanted, self.boxes) or self.boxes

    def to_json(self) -> str:
        """The text that travels with a file."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values |= {"settings": asdict(self.settings), "config": self.config.to_dict()}
        return json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **values})

    @classmethod
    def from_json(cls, text: str | None, source: str) -> Manifest:
        """The reverse of `to_json`; `source` names the file in messages.

        Raises:
            ModelError: not the text of an exported detector, or one of another format version.
        """
        if text is None or len(text) > MAX_TEXT:
            found = "none" if text is None else f"{len(text)} characters"
            raise ModelError(
                f"{source}: expected the description that `cora export` writes, got {found}; export it again"
            )
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{source}: expected a description in JSON, got {error}; export it again") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ModelError(f"{source}: expected a file that `cora export` wrote, got another; export it again")
        if values.get("format_version") != FORMAT_VERSION:
            raise ModelError(
                f"{source}: expected format version {FORMAT_VERSION}, got {values.get('format_version')}; "
                "export it again, or install the version of cora-ovd that wrote it"
            )
        try:
            return cls(**_checked(values))
        except (ModelError, VocabularyError) as error:
            raise ModelError(f"{source}: {error}") from None
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{source}: expected the description of an exported detector, got {error!r}") from None


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Manifest` from the JSON object of a file, after a check of their types."""
    texts = ("model", "fingerprint", "text_fingerprint", "vocabulary", "version")
    arguments: dict[str, Any] = {name: values[name] for name in texts}
    wrong = [name for name in texts if not isinstance(arguments[name], str)]
    names, distractors = values["class_names"], values["distractors"]
    if not isinstance(distractors, int) or distractors < 0:
        wrong.append("distractors")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        wrong.append("class_names")
    if wrong:
        raise ModelError(f"expected texts, names and a number, got another type for {', '.join(wrong)}")
    settings = dict(values["settings"])
    return {
        **arguments,
        "class_names": clean_names(names) if names else (),
        "distractors": distractors,
        "settings": ExportSettings(**settings),
        "config": DetectorConfig.from_dict(values["config"]),
    }
