"""CORA+ (arXiv 2303.13076): a trained detector labels images whose captions, tags or class lists name the objects.

A teacher searches each image for the names of that image. A COCO annotation file receives the boxes above a score
threshold, after NMS, that overlap no real (annotated) box. Each box is stored with its source.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cora.boxes import clip_to_image, pairwise_iou, xywh_to_xyxy
from cora.data.captions import NamedPhoto
from cora.data.problems import Problems
from cora.detector import Detector
from cora.detector.postprocess import nms_indices
from cora.errors import DataError, ImageError, TrainingError, VocabularyError
from cora.files import write_json
from cora.names import name_key, names_without
from cora.predictor import Predictor
from cora.regions import by_themselves
from cora.structures import Detections

_DECIMALS = 2
_SCORE_DECIMALS = 5


@dataclass(frozen=True, kw_only=True)
class PseudoBoxConfig:
    """Which of a teacher's boxes are kept.

    Attributes:
        score: score threshold, 0..1.
        class_scores: name -> score threshold in place of `score`.
        nms_iou: IoU threshold of NMS, 0..1.
        class_agnostic: boxes of different names suppress each other, too, so that an object gets only one name.
        real_iou: boxes with at least this IoU with a real box of any class are left out; above 0, at most 1.
        min_side_px: boxes with a shorter side are left out.
        max_per_photo: boxes kept per image, best first.
    """

    score: float = 0.5
    class_scores: Mapping[str, float] = field(default_factory=dict)
    nms_iou: float = 0.5
    class_agnostic: bool = False
    real_iou: float = 0.5
    min_side_px: float = 2.0
    max_per_photo: int = 100

    def __post_init__(self) -> None:
        for name, value in {"score": self.score, "nms_iou": self.nms_iou, **self.class_scores}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected 0..1, got {value}")
        if not 0 < self.real_iou <= 1:
            raise ValueError(f"real_iou: expected above 0 and at most 1, got {self.real_iou}")
        if self.min_side_px < 1 or self.max_per_photo < 1:
            raise ValueError(
                f"expected sides of at least 1 px and 1 box or more, got {self.min_side_px} and {self.max_per_photo}"
            )

    def score_of(self, name: str) -> float:
        """Score threshold of a name."""
        by_key = {name_key(one): score for one, score in self.class_scores.items()}
        return by_key.get(name_key(name), self.score)

    @property
    def lowest_threshold(self) -> float:
        """The lowest of all score thresholds, with which the teacher is called."""
        return min([self.score, *self.class_scores.values()])


class BoxTeacher(Protocol):
    """Finds boxes of the names of an image. `model` is its name in the source of every box."""

    model: str

    def label(self, photo: NamedPhoto, score_threshold: float) -> Detections:
        """Boxes of an image with a score of at least `score_threshold`."""


class DetectorTeacher:
    """Uses a detector of this package as teacher.

    Args:
        detector: trained, on its device.
        model: its name in the source of every box.
        distractors: None for the default distractors. Without any, an image with a single name would get this name for
            every object.
    """

    def __init__(self, *, detector: Predictor | Detector, model: str, distractors: Sequence[str] | None = None) -> None:
        self.detector, self.model, self._distractors = Predictor.of(detector), model, distractors

    def label(self, photo: NamedPhoto, score_threshold: float) -> Detections:
        """The detector's boxes of the image's names; see `BoxTeacher`."""
        names = by_themselves(photo.names)
        return self.detector.predict(photo.path, names, score=score_threshold, distractors=self._distractors)


@dataclass
class PseudoReport:
    """Counts of a labelling run.

    Attributes:
        photos: number of images.
        labelled: number of these with a box.
        boxes: name -> number of boxes kept.
        on_real: number of boxes left out because they overlap a real one.
        problems: images that could not be used, by kind.
        resumed: number of images that an earlier, interrupted run had finished.
    """

    photos: int = 0
    labelled: int = 0
    boxes: Counter[str] = field(default_factory=Counter)
    on_real: int = 0
    problems: Problems = field(default_factory=Problems)
    resumed: int = 0


@dataclass(frozen=True, kw_only=True)
class RealPhoto:
    """An image of the annotated set: its id, its (height, width) and its boxes [T, 4] xyxy in pixels, crowds too."""

    image_id: int
    size: tuple[int, int]
    boxes_xyxy_px: Tensor


def real_photos(content: Mapping[str, Any]) -> dict[str, RealPhoto]:
    """File name -> real boxes, from COCO content."""
    boxes: dict[int, list[list[float]]] = {}
    for annotation in content["annotations"]:
        boxes.setdefault(annotation["image_id"], []).append(annotation["bbox"])
    return {
        image["file_name"]: RealPhoto(
            image_id=image["id"],
            size=(int(image["height"]), int(image["width"])),
            boxes_xyxy_px=xywh_to_xyxy(boxes.get(image["id"], [])),
        )
        for image in content["images"]
    }


def pseudo_label(
    *,
    photos: Sequence[NamedPhoto],
    teacher: BoxTeacher,
    output: Path,
    config: PseudoBoxConfig,
    real: Mapping[str, Any] | None = None,
    made_by: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PseudoReport:
    """Write the teacher's boxes as a COCO annotation file. Resumes an interrupted run with the same settings.

    Each finished image becomes a line of `OUTPUT.part`, so a stop loses one image at most. The output has only images
    with a box. Images and names that are in the real annotations keep their ids.

    Args:
        photos: images and their names; file names must differ.
        teacher: finds the boxes.
        output: new file, written at the end.
        config: which boxes are kept.
        real: COCO content of the real annotations.
        made_by: further entries of the file's `info`; a run resumes only if they are the same.
        on_progress: called with (images done, number of images).

    Raises:
        TrainingError: the partial file belongs to another run.
        DataError: a name with a threshold is in no image, a file name occurs twice, or no image can be used.
    """
    known = real_photos(real) if real is not None else {}
    _check(photos, config)
    info = _info(teacher, config, made_by)
    about = json.dumps(
        [info, [[p.image_id, p.file_name, sorted(p.names.items())] for p in photos], real], sort_keys=True
    )
    header = {"run": hashlib.sha256(about.encode()).hexdigest()}
    partial = output.with_name(output.name + ".part")
    output.parent.mkdir(parents=True, exist_ok=True)
    resumed = _resume(partial, header)
    with partial.open("a", encoding="utf-8") as lines:
        for done, photo in enumerate(photos[resumed:], start=resumed + 1):
            line = _label(photo, teacher, config, known.get(photo.file_name))
            lines.write(json.dumps(line) + "\n")
            lines.flush()
            if on_progress is not None:
                on_progress(done, len(photos))
    report = PseudoReport(photos=len(photos), resumed=resumed)
    content = _assemble(photos, _lines(partial), teacher, config, known, real, report)
    if report.problems and sum(report.problems.counts.values()) == len(photos):
        partial.unlink()
        raise DataError(f"expected images to label, got none of {len(photos)} that can be used: {report.problems}")
    info = {**info, "photos": report.photos, "labelled": report.labelled}
    write_json(output, {"info": info, **content}, indent=None)
    partial.unlink()
    return report


def keep_boxes(
    found: Detections, config: PseudoBoxConfig, real_xyxy_px: Tensor
) -> tuple[list[list[float]], list[float], list[int], int]:
    """The boxes to keep, highest score first.

    Args:
        found: detections of an image.
        config: which boxes are kept.
        real_xyxy_px: [T, 4] real boxes of the image.

    Returns:
        Boxes as x, y, width, height in pixels, rounded for the file; their scores; their labels; and the number of
        boxes left out because they overlap real ones.
    """
    thresholds = torch.tensor([config.score_of(name) for name in found.class_names])
    boxes = clip_to_image(found.boxes_xyxy_px, found.image_size)
    wide = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1) >= config.min_side_px
    chosen = ((found.scores >= thresholds[found.labels]) & wide).nonzero().flatten()
    chosen = chosen[
        nms_indices(
            boxes[chosen],
            found.scores[chosen],
            found.labels[chosen],
            config.nms_iou,
            class_agnostic=config.class_agnostic,
        )
    ]
    corners = [[round(value, _DECIMALS) for value in box] for box in boxes[chosen].tolist()]
    xywh = [[x0, y0, round(x1 - x0, _DECIMALS), round(y1 - y0, _DECIMALS)] for x0, y0, x1, y1 in corners]
    overlap = pairwise_iou(xywh_to_xyxy(xywh), real_xyxy_px.double())
    free = (overlap < config.real_iou).all(dim=1).tolist()
    kept = [i for i, is_free in enumerate(free) if is_free][: config.max_per_photo]
    scores, labels = found.scores[chosen].tolist(), found.labels[chosen].tolist()
    return (
        [xywh[i] for i in kept],
        [round(scores[i], _SCORE_DECIMALS) for i in kept],
        [labels[i] for i in kept],
        free.count(False),
    )


def _check(photos: Sequence[NamedPhoto], config: PseudoBoxConfig) -> None:
    repeated = [name for name, n in Counter(photo.file_name for photo in photos).items() if n > 1]
    if repeated:
        raise DataError(f"expected every image once, got {len(repeated)} file names repeated (first: {repeated[0]})")
    unknown = names_without(config.class_scores, {name for photo in photos for name in photo.names})
    if unknown:
        raise DataError(
            f"thresholds: expected names that an image has, got {len(unknown)} unknown: "
            f"{', '.join(sorted(unknown)[:5])}; check their spelling"
        )


def _info(teacher: BoxTeacher, config: PseudoBoxConfig, made_by: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "description": "Boxes found by a detector, not drawn by people",
        "teacher": teacher.model,
        **asdict(config),
        **(made_by or {}),
    }


def _resume(partial: Path, header: Mapping[str, str]) -> int:
    """Number of images in the partial file; starts the file if it is missing, and removes an incomplete last line."""
    if not partial.exists():
        partial.write_text(json.dumps(header) + "\n", encoding="utf-8")
        return 0
    with partial.open("r+b") as file:
        lines, end, first = 0, 0, b""
        for line in file:
            if not line.endswith(b"\n"):
                break
            first = first or line
            lines, end = lines + 1, end + len(line)
        if lines and first != (json.dumps(header) + "\n").encode():
            raise TrainingError(
                f"{partial} belongs to an interrupted run with other images or settings; repeat that run to finish it, "
                "or delete the file to begin anew"
            )
        file.truncate(end)
        if not lines:
            file.write((json.dumps(header) + "\n").encode())
    return max(0, lines - 1)


def _lines(partial: Path) -> Iterator[dict[str, Any]]:
    with partial.open(encoding="utf-8") as file:
        next(file)
        for line in file:
            yield json.loads(line)


def _label(photo: NamedPhoto, teacher: BoxTeacher, config: PseudoBoxConfig, real: RealPhoto | None) -> dict[str, Any]:
    try:
        found = teacher.label(photo, config.lowest_threshold)
    except ImageError as error:
        return {"problem": "images that cannot be read", "example": str(error)}
    except VocabularyError as error:
        return {"problem": "images with a name that the model cannot encode", "example": str(error)}
    if real is not None and real.size != found.image_size:
        sizes = f"{photo.file_name}: {found.image_size[::-1]}, annotated {real.size[::-1]}"
        return {"problem": "images of another size (width, height) than the real annotations say", "example": sizes}
    boxes, scores, labels, on_real = keep_boxes(
        found, config, torch.zeros(0, 4) if real is None else real.boxes_xyxy_px
    )
    names = [found.class_names[label] for label in labels]
    return {"size": list(found.image_size), "boxes": boxes, "scores": scores, "names": names, "on_real": on_real}


def _assemble(
    photos: Sequence[NamedPhoto],
    lines: Iterator[dict[str, Any]],
    teacher: BoxTeacher,
    config: PseudoBoxConfig,
    known: Mapping[str, RealPhoto],
    real: Mapping[str, Any] | None,
    report: PseudoReport,
) -> dict[str, Any]:
    """Images, annotations and categories from the lines of the partial file; also counts them in `report`."""
    ids = _image_ids(photos, known)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for photo, image_id, line in zip(photos, ids, lines, strict=True):
        if "problem" in line:
            report.problems.add(line["problem"], line["example"])
            continue
        report.on_real += line["on_real"]
        if not line["boxes"]:
            continue
        height, width = line["size"]
        images.append({"id": image_id, "file_name": photo.file_name, "height": height, "width": width})
        for bbox, score, name in zip(line["boxes"], line["scores"], line["names"], strict=True):
            report.boxes[name] += 1
            source = {
                "model": teacher.model,
                "threshold": config.score_of(name),
                "score": score,
                "caption_ids": list(photo.names.get(name, ())),
            }
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": name,
                    "bbox": bbox,
                    "area": round(bbox[2] * bbox[3], _DECIMALS),
                    "iscrowd": 0,
                    "score": score,
                    "source": source,
                }
            )
    report.labelled = len(images)
    categories = _category_ids(sorted(report.boxes), real)
    for annotation in annotations:
        annotation["category_id"] = categories[annotation["category_id"]]
    listed = [{"id": number, "name": name} for name, number in sorted(categories.items(), key=lambda item: item[1])]
    return {"images": images, "annotations": annotations, "categories": listed}


def _image_ids(photos: Sequence[NamedPhoto], known: Mapping[str, RealPhoto]) -> list[int]:
    """Id of each image: that of the real annotations if it is in them, else its own if unused, else a new one."""
    taken = {photo.image_id for photo in known.values()}
    following = max([0, *taken, *(photo.image_id for photo in photos)]) + 1
    ids = []
    for photo in photos:
        if photo.file_name in known:
            ids.append(known[photo.file_name].image_id)
            continue
        image_id = photo.image_id
        if image_id in taken:
            image_id, following = following, following + 1
        taken.add(image_id)
        ids.append(image_id)
    return ids


def _category_ids(names: Sequence[str], real: Mapping[str, Any] | None) -> dict[str, int]:
    """Id of each name: that of the real annotations if they have the name in any spelling, else a new one."""
    known = {name_key(category["name"]): category["id"] for category in (real["categories"] if real else ())}
    following = max([0, *known.values()]) + 1
    ids: dict[str, int] = {}
    for name in names:
        if name_key(name) in known:
            ids[name] = known[name_key(name)]
        else:
            ids[name], following = following, following + 1
    return ids
