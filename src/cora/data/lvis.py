"""LVIS annotation files, v1 and v0.5 (Gupta et al., 2019): COCO files that say which classes were looked for.

Each image is annotated with a few classes only: those that have boxes, and the negative ones, which were looked for and
are absent. Some of those with boxes are not exhaustive: further objects of them may have no box. Nothing is known of
all other classes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from cora.data.coco_content import CocoContent
from cora.data.coco_json import read_coco
from cora.data.photo_folder import PhotoFolder
from cora.data.problems import Findings, is_whole
from cora.data.raw import RawAnnotations
from cora.errors import DataError

#: Frequent, common and rare classes: in more than 100, in 11 to 100, and in at most 10 images of the training set.
FREQUENCIES = ("f", "c", "r")


def is_lvis(content: dict[str, Any]) -> bool:
    """Whether the content of a COCO file has what only LVIS has: negative lists or frequencies."""
    return any(
        isinstance(entry, dict) and key in entry
        for part, key in (("images", "neg_category_ids"), ("categories", "frequency"))
        for entry in content[part][:1]
    )


def read_lvis(content: CocoContent, *, source: Path, folder: Path, findings: Findings) -> RawAnnotations:
    """Images, boxes and class lists of a file; unusable entries are counted in `findings` and left out.

    Raises:
        DataError: there is no image folder, or the file has nothing of LVIS.
    """
    if not is_lvis(content):
        raise DataError(
            f"{source}: expected LVIS with neg_category_ids or frequency, got neither; name the format coco"
        )
    raw = read_coco(content, source=source, folder=folder, findings=findings, name_of_image=_file_name)
    name_of = {number: name for name, number in raw.category_ids.items()}
    image_of = {image.image_id: image for image in raw.images}
    image_of |= {number: image_of[first] for number, first in raw.again.items()}
    seen: set[int] = set()
    for entry in content["images"]:
        number = entry.get("id") if isinstance(entry, dict) else None
        if is_whole(number) and number in image_of and number not in seen:
            seen.add(number)
            image = image_of[number]
            image.negative += _names(entry, "neg_category_ids", name_of, findings)
            image.not_exhaustive += _names(entry, "not_exhaustive_category_ids", name_of, findings)
    frequencies = {
        name_of[entry["id"]]: entry["frequency"]
        for entry in content["categories"]
        if isinstance(entry, dict)
        and is_whole(entry.get("id"))
        and entry["id"] in name_of
        and entry.get("frequency") in FREQUENCIES
    }
    return replace(raw, format="lvis", frequencies=frequencies)


def _file_name(entry: dict[str, Any], folder: PhotoFolder) -> object:
    """The name of an image in `folder`, by its URL; where none of the candidates exists, the name for the message.

    Files of v1 have URLs alone, since their images come from two parts of COCO, and some file names of v0.5 are those
    of COCO 2014. The candidates are the last two parts of the URL (train2017/000000000009.jpg), the last one alone,
    and the `file_name`.
    """
    url = entry.get("coco_url")
    if not isinstance(url, str) or not url:
        return entry.get("file_name")
    *_, part, name = ("", *url.split("/"))
    candidates = [f"{part}/{name}", name, entry.get("file_name")]
    return next((candidate for candidate in candidates if candidate in folder), name)


def _names(entry: dict[str, Any], key: str, name_of: dict[int, str], findings: Findings) -> tuple[str, ...]:
    """Class names of one of an image's lists of category ids."""
    numbers = entry.get(key, [])
    if not isinstance(numbers, list):
        findings.bad.add(f"{key} that are no lists", f"image {entry['id']}")
        return ()
    known = [number for number in numbers if is_whole(number) and number in name_of]
    if len(known) < len(numbers):
        findings.bad.add(f"{key} with unknown category ids", f"image {entry['id']}")
    return tuple(name_of[number] for number in known)
