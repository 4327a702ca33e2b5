"""COCO results files, which any detector can write, checked against the ground truth."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cora.data.coco_content import MAX_JSON_BYTES, whole_id
from cora.data.problems import Problems, is_number, is_whole, of_kind, parse_json, read_text
from cora.errors import DataError
from cora.evaluation.own_ids import in_ids_of_truth
from cora.evaluation.truth import is_sized_box

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForeignResults:
    """The results of a file.

    Attributes:
        results: with the category ids of the ground truth, which count the measured classes from 1.
        other_classes: number of skipped results of classes that are annotated but not measured.
        reaching_over: number of boxes that reach over the border of their image by more than a pixel; they count as
            they are.
        again: number of skipped results of images that the ground truth lists a second time.
    """

    results: list[dict[str, Any]]
    other_classes: int
    reaching_over: int
    again: int = 0


def read_results(path: Path, truth: Mapping[str, Any]) -> ForeignResults:
    """Read COCO results.

    The file is a list of objects with image_id, category_id, bbox (xywh in pixels) and score, or an object that has
    such a list under `annotations`; `in_ids_of_truth` then translates its ids.

    Args:
        path: the file.
        truth: of `truth.read_truth`.

    Raises:
        DataError: the file cannot be read, or there are image or category ids that the ground truth lacks, scores that
            are no number in 0..1, or boxes that are no four numbers or lie off their image; one message counts all
            kinds.
    """
    entries = _entries(path, truth)
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    place_of = {category.get("source_id", category["id"]): category["id"] for category in truth["categories"]}
    merged = truth.get("merged_category_ids", {})
    place_of |= {number: place_of[first] for number, first in merged.items() if first in place_of}
    others = frozenset(truth.get("other_category_ids", ()))
    numbers = [truth.get(key, {}) for key in ("image_numbers", "category_numbers")]
    problems = Problems()
    results: list[dict[str, Any]] = []
    other_classes = reaching_over = again = 0
    for number, entry in enumerate(entries):
        where = f"entry {number}"
        if not isinstance(entry, dict):
            problems.add("entries that are no objects", where)
            continue
        image, category, bbox, score = (entry.get(key) for key in ("image_id", "category_id", "bbox", "score"))
        # Where ids are texts in the file of the ground truth, they are texts in the results, too.
        image, category = (
            whole_id(given, known) if known else _whole(given)
            for given, known in zip((image, category), numbers, strict=True)
        )
        if isinstance(image, int) and image in truth.get("again", {}):
            again += 1
        elif not is_whole(image) or image not in sizes:
            problems.add("unknown image ids", repr(entry.get("image_id")))  # quotes tell texts from numbers
        elif not is_whole(category) or (category not in place_of and category not in others):
            problems.add("unknown category ids", repr(entry.get("category_id")))
        elif not is_number(score):
            absent = score is None
            kind = "results without a score" if absent else "scores that are no finite number"
            problems.add(kind, where if absent else f"{score!r} in {where}")
        elif not 0 <= score <= 1:
            problems.add("scores outside 0..1", f"{score} in {where}")
        elif not is_sized_box(bbox):
            problems.add("boxes that are no four finite numbers with sides of 0 or more", f"{bbox} in {where}")
        else:
            excess = _excess(bbox, *sizes[image])
            if excess is None:
                problems.add(
                    "boxes off their image", f"{bbox} in image {image}, {sizes[image][0]}x{sizes[image][1]} px"
                )
            elif category in others:
                other_classes += 1
            else:
                reaching_over += excess > 1
                results.append(
                    {"image_id": image, "category_id": place_of[category], "bbox": bbox, "score": float(score)}
                )
    if all(max(x + w, y + h) <= 1 for x, y, w, h in (result["bbox"] for result in results)):
        for result in results:
            problems.add("boxes that do not reach over the first pixel, in fractions perhaps", result["bbox"])
    if problems:
        raise DataError(
            f"{path}: expected COCO results for the annotation file, got {problems} among {len(entries)} entries; "
            "boxes are x, y, width, height in pixels of the original image"
        )
    if not entries:
        logger.warning("%s: holds no result, so that every box counts as missed", path)
    found = ForeignResults(results, other_classes, reaching_over, again)
    _warn(path, found)
    return found


def _warn(path: Path, found: ForeignResults) -> None:
    """Warn about results that are valid but look like mistakes."""
    results = found.results
    if found.reaching_over:
        logger.warning(
            "%s: %d of %d boxes reach over the border of their image; bbox is x, y, width, height, not two corners",
            path,
            found.reaching_over,
            len(results),
        )
    twice = len(results) - len({(r["image_id"], r["category_id"], *r["bbox"], r["score"]) for r in results})
    if twice:
        kind = "results given twice, counted twice, the second time as wrong"
        logger.warning("%s: %s", path, of_kind(twice, kind))
    if found.again:
        kind = "results of images that the annotations list a second time do not count"
        logger.warning("%s: %s", path, of_kind(found.again, kind))


def _whole(number: object) -> object:
    """An id of 3.0 as 3, since tools that write tables turn whole numbers into floats."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _entries(path: Path, truth: Mapping[str, Any]) -> list[Any]:
    text = read_text(path, max_bytes=MAX_JSON_BYTES, expected="COCO results file")
    content = parse_json(text, path, "a list of COCO results")
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return in_ids_of_truth(path, content, truth)
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of COCO results, or an object with a list annotations")
    return content


def _excess(bbox: list[float], width: int, height: int) -> float | None:
    """Pixels by which a box reaches over the border, None if it lies wholly outside."""
    x, y, w, h = bbox
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return None
    return max(-x, -y, x + w - width, y + h - height, 0.0)
