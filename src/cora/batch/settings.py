"""What decides about the boxes of a batch, and what is only about writing them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from cora.data.problems import shown
from cora.detector.postprocess import SCORE_THRESHOLD
from cora.errors import DataError
from cora.files import json_fault
from cora.names import name_key, names_without, repeated_names

Format = Literal["parquet", "coco", "yolo", "voc"]
Photos = Literal["none", "link", "copy"]

#: Lower scores are noise, and keeping them would fill the disk.
LEAST_SCORE = 0.001


@dataclass(frozen=True, kw_only=True)
class DetectSettings:
    """What the boxes depend on; a run that goes on must have the same.

    Attributes:
        classes: names to look for.
        keep: least score that is kept, 0..1; thresholds can be changed later, down to this one.
        distractors: names of things that compete and are never reported; None takes the model's choice.
        nms_iou: per-class suppression threshold; None takes the model's.
        max_detections: boxes kept per image; None takes the model's.
        batch_size: images of one size in one pass, at most.
        made_with: everything else that decides: model, templates and so on, by name, as text for the manifest.
    """

    classes: tuple[str, ...]
    keep: float = 0.1
    distractors: tuple[str, ...] | None = None
    nms_iou: float | None = None
    max_detections: int | None = None
    batch_size: int = 1
    made_with: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError("classes: expected at least one name, got none")
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep: expected a score in 0..1, got {self.keep}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {self.batch_size}")

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]  # tuples become lists, as when read


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """From which score on a box is a label.

    Attributes:
        usual: for classes without one of their own, 0..1.
        by_class: class name -> its own.
    """

    usual: float = SCORE_THRESHOLD
    by_class: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in {"threshold": self.usual, **self.by_class}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a score in 0..1, got {value}")

    def of(self, names: Sequence[str]) -> tuple[float, ...]:
        """The threshold of each class.

        Raises:
            DataError: there is one for a name that is not among `names`.
        """
        if strangers := names_without(self.by_class, names):
            raise DataError(
                f"thresholds: expected names among the classes ({', '.join(names[:5])}), got {strangers[0]!r}; "
                "spell it as in the classes"
            )
        by_key = {name_key(name): value for name, value in self.by_class.items()}
        return tuple(by_key.get(name_key(name), self.usual) for name in names)


@dataclass(frozen=True, kw_only=True)
class ReviewSettings:
    """Which boxes a person should look at.

    Attributes:
        low, high: boxes with a score of at least `low` and below `high`, 0..1; None for none of them.
        margin: boxes that are labels, but whose best other class has a score less than this lower; 0 for none.
        format: of the list.
        sheet: regions on the contact sheet, the most uncertain ones; 0 for no sheet.
    """

    low: float | None = None
    high: float | None = None
    margin: float = 0.0
    format: Literal["csv", "json"] = "csv"
    sheet: int = 0

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"review: expected both scores or none, got {self.low} and {self.high}")
        if self.low is not None and self.high is not None and not 0 <= self.low < self.high <= 1:
            raise ValueError(f"review: expected 0 <= low < high <= 1, got {self.low} and {self.high}")
        if not 0 <= self.margin <= 1:
            raise ValueError(f"margin: expected 0..1, got {self.margin}")

    def __bool__(self) -> bool:
        return self.low is not None or self.margin > 0


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """How results are written; another choice needs no new detection.

    Attributes:
        format: of the annotations.
        thresholds: from which score on a box is one.
        photos: whether images are linked or copied beside the annotations.
        review: which boxes a person should look at.
    """

    format: Format = "coco"
    thresholds: Thresholds = field(default_factory=Thresholds)
    photos: Photos = "none"
    review: ReviewSettings = field(default_factory=ReviewSettings)

    def __post_init__(self) -> None:
        for name, value, known in (("format", self.format, Format), ("photos", self.photos, Photos)):
            if value not in get_args(known):
                raise ValueError(f"{name}: expected one of {', '.join(get_args(known))}, got {value!r}")

    def lowest_score(self, classes: Sequence[str]) -> float:
        """The lowest score that any of this looks at; `DetectSettings.keep` must not be higher.

        Raises:
            DataError: a threshold for a name that is not among the classes.
        """
        needed = min(self.thresholds.of(classes))
        # The other class of a box that is just a label may have as much less as the margin.
        needed = min(needed - self.review.margin, needed if self.review.low is None else self.review.low)
        return max(LEAST_SCORE, round(needed, 6))

    least_score = lowest_score  # its former name


def parse_review(text: str) -> tuple[float, float]:
    """The two scores of "LOW,HIGH".

    Raises:
        DataError: it is something else.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 1:
        raise DataError(f"--review: expected two scores, LOW,HIGH, with 0 <= LOW < HIGH <= 1, got {text!r}")
    return low, high


def parse_thresholds(text: str, *, usual: float) -> Thresholds:
    """Thresholds by class from "cat=0.3,dog=0.2", or from a file: JSON of name to score, or such text by lines.

    Args:
        text: the thresholds; a path, with or without @ before it, if there is no "=" in it.
        usual: for all other classes.

    Raises:
        DataError: the file cannot be read, or something is no name with a score in 0..1.
    """
    path = Path(text[1:] if text.startswith("@") else text)
    if "=" in text and not text.startswith("@"):
        pairs: list[tuple[str, Any]] = [_pair(part) for part in text.split(",")]
    else:
        try:
            content = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f'thresholds: expected "cat=0.3,dog=0.2" or a file of such lines, cannot read {path}: {error}'
            ) from None
        if content.lstrip().startswith("{"):
            pairs = _json_pairs(content, path)
        else:
            pairs = [_pair(part) for line in content.splitlines() for part in line.split(",") if part.strip()]
    by_class: dict[str, float] = {}
    for name, value in pairs:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise DataError(
                f"thresholds: expected a score in 0..1 for {shown(name)!r}, got {shown(repr(value))}; write name=0.3"
            )
        by_class[name] = float(value)
    if repeated := repeated_names(name for name, _ in pairs):
        raise DataError(f"thresholds: expected every name once, got {repeated[0]!r} twice; remove one")
    return Thresholds(usual=usual, by_class=by_class)


def _pair(part: str) -> tuple[str, Any]:
    name, _, value = part.rpartition("=")
    if not name.strip():
        raise DataError(f"thresholds: expected name=score, got {shown(part)!r}; write cat=0.3,dog=0.2")
    try:
        return name.strip(), float(value)
    except ValueError:
        return name.strip(), value.strip()


def _json_pairs(content: str, path: Path) -> list[tuple[str, Any]]:
    try:
        return list(json.loads(content).items())
    except (ValueError, RecursionError) as error:
        raise DataError(f"thresholds: expected JSON of name to score in {path}, got {json_fault(error)}") from None
