"""Kinds of files that commands write, recognised by their content: a command overwrites only its own kind."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cora.files import content_of, drawn_by_cora, head_of

_LONGEST_HEADER = 100_000_000  # bytes, what the safetensors format allows


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a command writes to one place.

    Attributes:
        name: what messages call it, with its article.
        fits: whether an existing file is of this kind.
        endings: allowed endings of the file name, in lower case; () for any.
        folder: whether it is a folder.
        apart: of a folder: whether it must not be one that the command reads.
        files: of a folder: name of a file that is written in it -> its kind.
        beside: ending of the output -> ending of a file that is written beside it -> its kind.
    """

    name: str
    fits: Callable[[Path], bool] = field(default=lambda path: False)
    endings: tuple[str, ...] = ()
    folder: bool = False
    apart: bool = False
    files: Mapping[str, Kind] = field(default_factory=dict)
    beside: Mapping[str, Mapping[str, Kind]] = field(default_factory=dict)


def described(path: Path) -> str:
    """What messages call an existing file, with its article."""
    head = head_of(path)
    known = content_of(head)
    if known is not None:
        return known[0]
    if _safetensors_metadata(path) is not None:
        return "a model file"
    if head.lstrip()[:1] in (b"{", b"["):
        return "a JSON file of other content"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return "a file of another kind"
    return "a text file of another kind"


def _safetensors_metadata(path: Path) -> dict[str, str] | None:
    """The metadata of a safetensors file; None for any other file, and without metadata."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if not 2 <= length <= _LONGEST_HEADER:
                return None
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError, struct.error):
        return None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else None


#: Value of `made_by` in the `info` of a file of detections.
DETECT_MARK = "cora detect"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


_JSON, _CSV, _PICTURE = (".json",), (".csv",), (".png", ".jpg", ".jpeg")
#: Endings that stand for one format. A file of any kind may have another, such as .txt.
TELLING = frozenset(
    (
        *(*_JSON, *_CSV, *_PICTURE, ".tsv", ".xml", ".html", ".gif", ".webp", ".mp4", ".mov", ".mkv", ".webm"),
        *(".safetensors", ".pt", ".pth", ".onnx", ".zip", ".npz", ".parquet", ".yaml"),
    )
)


def _json_kind(name: str, *keys: str) -> Kind:
    """A JSON object that has these keys."""

    def fits(path: Path) -> bool:
        content = _json(path)
        return isinstance(content, dict) and all(key in content for key in keys)

    return Kind(name=name, fits=fits, endings=_JSON)


def _safetensors_kind(name: str, *formats: str) -> Kind:
    return Kind(name=name, fits=lambda path: (_safetensors_metadata(path) or {}).get("format") in formats)


def _is_detections(path: Path) -> bool:
    content = _json(path)
    lists = {"images", "categories", "annotations"}
    if not isinstance(content, dict) or content.keys() - {"info"} != lists:
        return False
    boxes, info = content["annotations"], content.get("info")
    if not boxes:  # without the mark it could be annotations without boxes
        return isinstance(info, dict) and info.get("made_by") == DETECT_MARK
    return isinstance(boxes, list) and all(isinstance(one, dict) and "score" in one for one in boxes)


def _is_relabelled(path: Path) -> bool:
    content = _json(path)
    boxes = content.get("annotations") if isinstance(content, dict) else None
    return isinstance(boxes, list) and any(isinstance(one, dict) and "original_category_id" in one for one in boxes)


def _json_info_kind(name: str, *keys: str) -> Kind:
    """A JSON object whose `info` has one of these keys."""

    def fits(path: Path) -> bool:
        content = _json(path)
        info = content.get("info") if isinstance(content, dict) else None
        return isinstance(info, dict) and any(key in info for key in keys)

    return Kind(name=name, fits=fits, endings=_JSON)


def _starts_with(start: bytes) -> Callable[[Path], bool]:
    return lambda path: head_of(path).lstrip().startswith(start)


def _is_video(path: Path) -> bool:
    head = head_of(path)
    return head[4:8] == b"ftyp" or head.startswith((b"\x1aE\xdf\xa3", b"GIF8"))


def _is_export(path: Path) -> bool:
    """Whether `cora export` wrote a file: by the description in it, or beside it (OpenVINO, TensorRT, LiteRT)."""
    if path.suffix.lower() in (".xml", ".engine", ".tflite"):
        return _EXPORT_DESCRIPTION.fits(path.with_suffix(".json"))
    if path.suffix.lower() == ".safetensors":
        return MODEL.fits(path)
    return b"cora-export" in path.read_bytes() if path.suffix.lower() in (".onnx", ".pt2") else False


PICTURE = Kind(name="an image that cora drew", fits=drawn_by_cora, endings=_PICTURE)
MODEL = _safetensors_kind("a model file of cora", "cora-detector", "cora-detector-int8")
TEXT = _safetensors_kind("learned text of 'cora text-prompts'", "cora-text")
VIDEO = Kind(name="a video", fits=_is_video)
TRACK_TABLE = Kind(name="a table of 'cora video'", fits=_starts_with(b"frame,seconds,track,class,score,"), endings=_CSV)
DETECTION_TABLE = Kind(
    name="a table of 'cora detect'", fits=_starts_with(b"file,class,score,left,top,right,bottom"), endings=_CSV
)
TRACKS = _json_kind("tracks of 'cora video'", "video", "frames", "tracks")
DETECTIONS = Kind(name="boxes of 'cora detect'", fits=_is_detections, endings=_JSON)
RELABELLED = Kind(name="annotations of 'cora relabel'", fits=_is_relabelled, endings=_JSON)
AGREEMENT = _json_kind("numbers of 'cora relabel'", "boxes", "agreed", "by_class", "confusion")
PSEUDO = _json_info_kind("annotations of 'cora pseudo-label'", "pseudo", "labelled")
SPLIT = _json_info_kind("annotations of 'cora split'", "class_split")
EVALUATION = _json_kind("numbers of 'cora evaluate'", "command", "bootstrap", "max_detections")
REGION_ACCURACY = _json_kind("numbers of 'cora region-accuracy'", "command", "bootstrap", "accuracy")
GROUPS = _json_kind("numbers of 'cora groups'", "command", "groups", "alike")
HITS = _json_kind("regions of 'cora search'", "query", "folder", "regions")
STUDY = _json_kind("numbers of 'cora study'", "command", "verdict", "groups")
QUANTIZED = _json_kind("numbers of 'cora quantize'", "model", "backend", "rows")
ALIGNED = _json_kind("numbers of 'cora align'", "command", "cosine", "scores")
CALIBRATED = _json_kind("numbers of 'cora calibrate'", "command", "measured", "stored")
COMPARED = _json_kind("numbers of a smaller model", "command", "models")
SEARCHED = _json_kind("numbers of 'cora search-arch'", "whole", "trials")
_EXPORT_DESCRIPTION = _json_kind("the description of an exported model", "format", "fingerprint", "class_names")
_WEIGHTS = Kind(name="the weights of an exported model", fits=lambda path: _is_export(path.with_suffix(".xml")))
EXPORT = Kind(
    name="an exported model of cora",
    fits=_is_export,
    beside={
        ".xml": {".json": _EXPORT_DESCRIPTION, ".bin": _WEIGHTS},
        ".engine": {".json": _EXPORT_DESCRIPTION},
        ".tflite": {".json": _EXPORT_DESCRIPTION},
    },
)

# What training leaves; folders of its stages check their own `run.json`.
_PROMPTED = {"prompts.safetensors": MODEL}
_LOCALIZED = {
    "relabelled.json": RELABELLED,
    "agreement.json": AGREEMENT,
    "confusion.png": PICTURE,
    "model.safetensors": MODEL,
}
_EMBEDDED = Kind(name="embeddings of boxes", fits=lambda path: "fingerprint" in (_safetensors_metadata(path) or {}))


def _folder(name: str, files: Mapping[str, Kind] | None = None, *, apart: bool = False) -> Kind:
    return Kind(name=name, folder=True, files=files or {}, apart=apart)


DRAWN = _folder("a folder of drawn images", apart=True)
BATCH = _folder("a folder of 'cora batch'", apart=True)
INDEX = _folder(
    "an index", {"index.json": _json_kind("the description of an index", "model", "folder", "settings")}, apart=True
)
SHARDS = _folder(
    "a folder of shards", {"shards.json": _json_kind("the description of shards", "format", "category_ids")}, apart=True
)
REPORT = _folder(
    "the report of 'cora evaluate'",
    {"report.html": Kind(name="a report of cora", fits=lambda path: b"<title>Detection report<" in head_of(path))},
)
EMBEDDINGS = _folder(
    "embeddings of boxes", {"regions_train.safetensors": _EMBEDDED, "regions_val.safetensors": _EMBEDDED}
)
RUN = _folder("the folder of a run")
DISTILL_RUN = _folder("the folder of a run", {"model.safetensors": MODEL})
RUNS = {
    "prompts": _folder("the folder of a run", _PROMPTED),
    "localizer": _folder("the folder of a run", _LOCALIZED),
    "all": _folder("the folder of a run", {**_PROMPTED, **_LOCALIZED}),
}
FINETUNE_RUN = _folder(
    "the folder of a run",
    {
        "names.safetensors": MODEL,
        "relabelled.json": RELABELLED,
        "agreement.json": AGREEMENT,
        "confusion.png": PICTURE,
        "confused.jpg": PICTURE,
        "model.safetensors": MODEL,
        "held_out.json": _json_info_kind("held-out images of 'cora finetune'", "held_out"),
        "found.jpg": PICTURE,
        "missed.jpg": PICTURE,
        "before.json": _json_kind("numbers of 'cora finetune'", "key", "scores"),
        "report.json": _json_kind("numbers of 'cora finetune'", "recipe", "before", "after"),
    },
)
PRUNE_RUN = RUNS["localizer"]
STUDY_RUN = _folder(
    "the folder of a study",
    {
        "study.safetensors": _safetensors_kind("a study of cora", "cora-study"),
        "report.json": STUDY,
        "histogram.png": PICTURE,
    },
)
SEARCH_RUN = _folder(
    "the folder of a search",
    {"best.safetensors": MODEL, "pareto.png": PICTURE},
)
