"""The settings of a batch: those that its boxes depend on, and those of writing them."""

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

#: Lowest score that can be kept; boxes below it are noise, and would fill the disk.
LEAST_SCORE = 0.001


@dataclass(frozen=True, kw_only=True)
class DetectSettings:
    """The settings that the boxes depend on; a run that resumes must have the same.

    Attributes:
        classes: names to look for.
        keep: lowest score that is kept, 0..1; thresholds can be changed later, down to this one.
        distractors: names that compete with the classes and are never reported; None takes the model's own choice.
        nms_iou: per-class suppression threshold; None takes the model's own.
        max_detections: boxes kept per image; None takes the model's own limit.
        batch_size: largest number of images, all of one size, in one pass of the model.
        made_with: name -> value of everything else that changes results, such as the model and its templates.
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
        """The settings as the manifest has them."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]  # tuples become lists, as when read


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The score from which on a box is a label.

    Attributes:
        usual: threshold of classes without one of their own, 0..1.
        by_class: class name -> its own threshold.
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
            DataError: there is a threshold for a name that is not among `names`.
        """
        if unknown := names_without(self.by_class, names):
            raise DataError(
                f"thresholds: expected names among the classes ({', '.join(names[:5])}), got {unknown[0]!r}; "
                "spell it as in the classes"
            )
        by_key = {name_key(name): value for name, value in self.by_class.items()}
        return tuple(by_key.get(name_key(name), self.usual) for name in names)


@dataclass(frozen=True, kw_only=True)
class ReviewSettings:
    """Which boxes a person should check.

    Attributes:
        low: boxes with a score of at least `low` and below `high` are listed; 0..1, None for none of them.
        high: see `low`.
        margin: labels whose best other class scores lower by less than this are listed; 0 for none of them.
        format: format of the list.
        sheet: number of boxes on the contact sheet, the most uncertain ones; 0 for no sheet.
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
    """How results are written; a run with other choices needs no new detection.

    Attributes:
        format: format of the annotations.
        thresholds: the score from which on a box is an annotation.
        photos: whether images are linked or copied beside the annotations.
        review: which boxes a person should check.
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
        """The lowest score that the export needs; `DetectSettings.keep` must not be higher.

        Raises:
            DataError: there is a threshold for a name that is not among the classes.
        """
        needed = min(self.thresholds.of(classes))
        # The score of a label's other class may be lower by the margin.
        needed = min(needed - self.review.margin, needed if self.review.low is None else self.review.low)
        return max(LEAST_SCORE, round(needed, 6))

    least_score = lowest_score  # its former name


def parse_review(text: str) -> tuple[float, float]:
    """Parse the two scores of "LOW,HIGH".

    Raises:
        DataError: the text is not of this form.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 1:
        raise DataError(f"--review: expected two scores, LOW,HIGH, with 0 <= LOW < HIGH <= 1, got {text!r}")
    return low, high


def parse_thresholds(text: str, *, usual: float) -> Thresholds:
    """Parse thresholds by class, from a text such as "cat=0.3,dog=0.2" or from a file.

    Args:
        text: the thresholds, or the path of a file if the text has no "=" or begins with "@". The file is JSON of name
            to score, or has lines of such texts.
        usual: threshold of all other classes.

    Raises:
        DataError: the file cannot be read, an entry is not a name with a score in 0..1, or a name comes twice.
    """
    if "=" in text and not text.startswith("@"):
        pairs = [_pair(part) for part in text.split(",")]
    else:
        pairs = _pairs_of_file(Path(text.removeprefix("@")))
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


def _pairs_of_file(path: Path) -> list[tuple[str, Any]]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f'thresholds: expected "cat=0.3,dog=0.2" or a file of such lines, cannot read {path}: {error}'
        ) from None
    if content.lstrip().startswith("{"):
        return _json_pairs(content, path)
    return [_pair(part) for line in content.splitlines() for part in line.split(",") if part.strip()]


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
        # Not as a dictionary, which would keep the last of two scores of a name.
        pairs: list[tuple[str, Any]] = json.loads(content, object_pairs_hook=list)
        return pairs
    except (ValueError, RecursionError) as error:
        raise DataError(f"thresholds: expected JSON of name to score in {path}, got {json_fault(error)}") from None
