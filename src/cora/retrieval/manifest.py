"""The manifest of an index: its model, folder and settings, in `index.json` beside the tables."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cora.data.class_split import known_split
from cora.data.name_file import read_classes
from cora.errors import CoraError
from cora.files import write_json
from cora.names import spoken_name
from cora.regions import by_themselves, written_classes

MANIFEST, LOCK = "index.json", "index.lock"
_FORMAT = 1


class RetrievalError(CoraError):
    """An index is missing, damaged, in use, or was made with another model."""


@dataclass(frozen=True, kw_only=True)
class RegionSettings:
    """Which regions of an image are kept.

    Attributes:
        classes: names to look for, with prompts (`cora.regions.written_classes`) or without; None keeps whatever looks
            like an object, without a label.
        score: only regions above it are kept; 0..1, class probability times objectness, or objectness alone without
            classes.
        max_regions: regions kept per image, the best ones.
        nms_iou: a region that overlaps a better one by more is dropped, whatever their classes.
    """

    classes: tuple[str, ...] | None = None
    score: float = 0.05
    max_regions: int = 50
    nms_iou: float = 0.6

    def __post_init__(self) -> None:
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))  # JSON gives a list
        if not 0 <= self.score <= 1:
            raise ValueError(f"score: expected 0..1, got {self.score}")
        if self.max_regions < 1:
            raise ValueError(f"max_regions: expected at least 1, got {self.max_regions}")
        if not 0 < self.nms_iou <= 1:
            raise ValueError(f"nms_iou: expected above 0 and at most 1, got {self.nms_iou}")


def given_settings(classes: str | None, score: float | None, max_regions: int | None) -> dict[str, Any]:
    """The fields of `RegionSettings` that are not None.

    Args:
        classes: names divided by commas, @FILE, or "lvis" for all names of LVIS.
        score: see `RegionSettings`.
        max_regions: see `RegionSettings`.

    Raises:
        VocabularyError: the names cannot be used.
    """
    given: dict[str, Any] = {"classes": None, "score": score, "max_regions": max_regions}
    if classes is not None:
        # LVIS writes remote_control; people and models know the words.
        lvis = [spoken_name(name) for name in known_split("lvis").all] if classes == "lvis" else None
        given["classes"] = written_classes(by_themselves(lvis) if lvis else read_classes(classes))
    return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of `index.json`.

    Attributes:
        model: identity of the model that made the embeddings (`cora.retrieval.identity`).
        model_name: name of the model, or path of its file, as the user gave it.
        width: D, the width of the embeddings.
        folder: absolute path of the indexed folder, to which the names of files are relative.
        settings: which regions are kept.
        partitions: number of partitions of the vector index; 0 while there is none.
    """

    model: str
    model_name: str
    width: int
    folder: str
    settings: RegionSettings
    partitions: int = 0

    def write(self, place: Path) -> None:
        """Write the manifest into the folder of an index, whole or not at all."""
        write_json(place / MANIFEST, {"format": _FORMAT, **asdict(self)})

    @classmethod
    def read(cls, place: Path) -> Manifest:
        """Read the manifest from the folder of an index.

        Raises:
            RetrievalError: there is no index, it is damaged, or it has another format.
        """
        file = place / MANIFEST
        if not file.is_file():
            found = "a folder without one" if place.is_dir() else "a file" if place.exists() else "nothing"
            raise RetrievalError(f"expected an index at {place}, got {found}; make it: cora index DIR --db {place}")
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            version = content.pop("format")
            if version != _FORMAT:
                raise RetrievalError(
                    f"index {place}: expected format {_FORMAT}, got {version}; update cora or index the folder again"
                )
            return cls(**{**content, "settings": RegionSettings(**content["settings"])})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise damaged(place, f"{MANIFEST}: {error}") from None


def damaged(place: Path, reason: object) -> RetrievalError:
    """The error of an index whose files cannot be read or written."""
    details = " ".join(str(reason).split())[:200]
    return RetrievalError(
        f"expected a whole index at {place}, got trouble with its files ({details}); "
        "free space if the disk is full, else delete the index and make it again"
    )
