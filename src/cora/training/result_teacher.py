"""Boxes of any other detector as a teacher, read from COCO results and the list of their images."""

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
    """Teacher that returns stored boxes.

    Args:
        model: name of what found them, for the provenance.
        sizes: (height, width) of every image by image id.
        boxes: (name, x, y, width, height in pixels, score) of every image by image id.
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
        """The image's boxes of its names, best first; see `cora.training.pseudo_boxes.BoxTeacher`."""
        found = [box for box in self._boxes[photo.image_id] if box[2] >= score_threshold and box[0] in photo.names]
        found.sort(key=lambda box: -box[2])
        names = tuple(photo.names)
        place = {name: i for i, name in enumerate(names)}
        return Detections(
            boxes_xyxy_px=xywh_to_xyxy([box[1] for box in found]).float(),
            scores=torch.tensor([box[2] for box in found], dtype=torch.float32),
            labels=torch.tensor([place[box[0]] for box in found], dtype=torch.int64),
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
        image_list: COCO JSON with the images and categories that a results list speaks of.
        model: name of the detector; the file's name if None.
        skip_bad: leave out what cannot be used instead of failing.

    Returns:
        The images that have a box, and the teacher that knows the boxes.

    Raises:
        DataError: unreadable files; entries that are incomplete, of unknown images or categories, without a usable box
            or a score in 0..1; missing images (each kind counted in one message); or no box at all.
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
    place = results if listing is content else image_list
    if not isinstance(listing, dict) or not all(isinstance(listing.get(key), list) for key in ("images", "categories")):
        raise DataError(f"{place}: expected a COCO object with the lists images and categories")
    bad, repairs = Problems(), Problems()
    names = _categories(listing["categories"], bad)
    folder = PhotoFolder(images, (entry.get("file_name") for entry in listing["images"] if isinstance(entry, dict)))
    photos, sizes = _photos(listing["images"], folder, bad, repairs)
    if repairs:
        logger.warning("%s: %s", place, repairs)
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
