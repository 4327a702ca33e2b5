"""A teacher that returns the boxes of another detector, read from a COCO results file."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cora.boxes import xywh_to_xyxy
from cora.data.captions import NamedPhoto
from cora.data.photo_folder import PhotoFolder
from cora.data.problems import Problems, is_box, is_number, is_whole, parse_json, read_text
from cora.errors import DataError
from cora.files import json_kind
from cora.structures import Detections

logger = logging.getLogger(__name__)

_MAX_BYTES = 4 * 2**30


class ResultTeacher:
    """Returns stored boxes; a `BoxTeacher`.

    Args:
        model: name of the detector that found them, for the source of every box.
        sizes: image id -> (height, width) in pixels.
        boxes: image id -> list of (name, [x, y, width, height] in pixels, score).
    """

    def __init__(
        self,
        *,
        model: str,
        sizes: Mapping[int, tuple[int, int]],
        boxes: Mapping[int, Sequence[tuple[str, Sequence[float], float]]],
    ) -> None:
        self.model, self._sizes, self._boxes = model, sizes, boxes

    def label(self, photo: NamedPhoto, score_threshold: float) -> Detections:
        """The stored boxes of an image, highest score first; see `cora.training.pseudo_boxes.BoxTeacher`."""
        found = [box for box in self._boxes[photo.image_id] if box[2] >= score_threshold and box[0] in photo.names]
        found.sort(key=lambda box: -box[2])
        names = tuple(photo.names)
        label_of = {name: i for i, name in enumerate(names)}
        return Detections(
            boxes_xyxy_px=xywh_to_xyxy([box[1] for box in found]).float(),
            scores=torch.tensor([box[2] for box in found], dtype=torch.float32),
            labels=torch.tensor([label_of[box[0]] for box in found], dtype=torch.int64),
            class_names=names,
            image_size=self._sizes[photo.image_id],
        )


def read_results(
    results: Path, *, images: Path, image_list: Path | None = None, model: str | None = None, skip_bad: bool = False
) -> tuple[tuple[NamedPhoto, ...], ResultTeacher]:
    """Read another detector's boxes.

    Args:
        results: a COCO results list (`image_id`, `category_id`, `bbox`, `score`), or a COCO file with the lists images,
            categories and annotations, each annotation with a `score`.
        images: folder that file names are relative to.
        image_list: COCO file with the images and categories of a results list.
        model: name of the detector; the file's name if None.
        skip_bad: skip unusable entries instead of raising an error.

    Returns:
        The images that have a box, and the teacher with their boxes.

    Raises:
        DataError: a file cannot be read, or there is no box; without `skip_bad` also for entries that are incomplete,
            of unknown images or categories, or without a usable box or a score in 0..1, and for missing images. One
            message has the counts of all kinds.
    """
    content = _read(results)
    if isinstance(content, list):
        if image_list is None:
            raise DataError(
                f"{results} is a list of results: expected the images and categories that its ids stand for, too, got "
                "none; name their COCO file (--image-list)"
            )
        listing = _read(image_list)
        entries: list[Any] = content
    else:
        listing = content
        entries = content.get("annotations") if isinstance(content.get("annotations"), list) else []
    source = results if listing is content else image_list
    if not isinstance(listing, dict) or not all(isinstance(listing.get(key), list) for key in ("images", "categories")):
        raise DataError(f"{source}: expected a COCO object with the lists images and categories")
    bad, repairs = Problems(), Problems()
    names = _categories(listing["categories"], bad)
    folder = PhotoFolder(images, (entry.get("file_name") for entry in listing["images"] if isinstance(entry, dict)))
    photos, sizes = _photos(listing["images"], folder, bad, repairs)
    if repairs:
        logger.warning("%s: %s", source, repairs)
    boxes = _boxes(entries, photos, {entry["id"] for entry in listing["images"] if _has_id(entry)}, names, bad)
    if bad and not skip_bad:
        raise DataError(
            f"{results}: {bad}; mend the files or the image folder {images}, or leave these out (--skip-bad)"
        )
    if not boxes:
        raise DataError(f"{results}: expected scored boxes, got none of {len(entries)} entries that can be used")
    named = tuple(
        NamedPhoto(
            image_id=image_id,
            path=path,
            file_name=file_name,
            names={name: () for name in dict.fromkeys(box[0] for box in boxes[image_id])},
        )
        for image_id, (file_name, path) in photos.items()
        if image_id in boxes
    )
    return named, ResultTeacher(model=model or results.name, sizes=sizes, boxes=boxes)


def _read(path: Path) -> Any:
    text = read_text(path, max_bytes=_MAX_BYTES, expected="COCO JSON file")
    content = parse_json(text, path, "COCO results")
    if not isinstance(content, dict | list):
        raise DataError(f"{path}: expected a list of COCO results or a COCO object, got {json_kind(content)}")
    return content


def _has_id(entry: object) -> bool:
    return isinstance(entry, dict) and is_whole(entry.get("id"))


def _categories(entries: Sequence[Any], bad: Problems) -> dict[int, str]:
    names: dict[int, str] = {}
    for position, entry in enumerate(entries):
        name = entry.get("name") if _has_id(entry) else None
        if not isinstance(name, str) or not name.strip():
            bad.add("categories without id or name", f"entry {position}")
        else:
            names[entry["id"]] = name.strip()
    return names


def _photos(
    entries: Sequence[Any], folder: PhotoFolder, bad: Problems, repairs: Problems
) -> tuple[dict[int, tuple[str, Path]], dict[int, tuple[int, int]]]:
    photos: dict[int, tuple[str, Path]] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for position, entry in enumerate(entries):
        sides = (entry.get("height"), entry.get("width")) if _has_id(entry) else (None, None)
        if not all(is_number(side) and side >= 1 for side in sides):
            bad.add("images without id, width or height", f"entry {position}")
        elif entry["id"] in photos:
            bad.add("duplicate image ids", entry["id"])
        elif (path := folder.find(entry.get("file_name"), bad, repairs)) is not None:
            photos[entry["id"]] = entry["file_name"], path
            sizes[entry["id"]] = int(entry["height"]), int(entry["width"])
    return photos, sizes


def _boxes(
    entries: Sequence[Any], photos: Mapping[int, object], listed: set[int], names: Mapping[int, str], bad: Problems
) -> dict[int, list[tuple[str, Sequence[float], float]]]:
    boxes: dict[int, list[tuple[str, Sequence[float], float]]] = {}
    for position, entry in enumerate(entries):
        where = f"entry {position}"
        if not isinstance(entry, dict) or not {"image_id", "category_id", "bbox", "score"} <= entry.keys():
            bad.add("results without image_id, category_id, bbox or score", where)
            continue
        image_id, category_id, bbox, score = (entry[key] for key in ("image_id", "category_id", "bbox", "score"))
        if not is_whole(image_id) or image_id not in listed:
            bad.add("results of an unknown image", where)
        elif not is_whole(category_id) or category_id not in names:
            bad.add("results of an unknown category", where)
        elif not is_box(bbox):
            bad.add("boxes that are not four finite numbers", where)
        elif not is_number(score) or not 0 <= score <= 1:
            bad.add("scores outside 0..1", where)
        elif image_id in photos:
            boxes.setdefault(image_id, []).append((names[category_id], bbox, score))
    return boxes
