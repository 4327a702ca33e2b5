"""COCO annotation files: one JSON object with the lists images, annotations and categories (Lin et al., 2014)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cora.data.coco_content import CocoContent, classes_of
from cora.data.photo_folder import PhotoFolder
from cora.data.problems import Findings, is_box, is_number, is_whole, truth_value
from cora.data.raw import RawAnnotations, RawBox, RawImage
from cora.errors import ImageError
from cora.images import read_size

#: (entry of an image, folder of the images) -> the file name to look for in the folder.
NameOfImage = Callable[[dict[str, Any], PhotoFolder], object]


def read_coco(
    content: CocoContent,
    *,
    source: Path,
    folder: Path,
    findings: Findings,
    name_of_image: NameOfImage = lambda entry, _: entry.get("file_name"),
) -> RawAnnotations:
    """Images and boxes of a COCO file; unusable entries are counted in `findings` and left out.

    Raises:
        DataError: there is no image folder.
    """
    findings.repairs.update(content.repairs)
    classes = classes_of(content["categories"], content["annotations"], findings.faults, findings.repairs)
    images, known, again = _images(content["images"], folder, name_of_image, findings)
    _add_boxes(content["annotations"], images, known, classes.names, findings)
    return RawAnnotations(
        format="coco",
        source=source,
        folder=folder,
        category_ids={name: number for number, name in classes.names.items() if number not in classes.merged},
        images=list({id(image): image for image in images.values()}.values()),
        unused_parents=classes.unused_parents,
        again=again,
        own_ids=bool(content.image_numbers or content.category_numbers),
    )


def _images(
    entries: list[Any], folder: Path, name_of_image: NameOfImage, findings: Findings
) -> tuple[dict[int, RawImage], set[int], dict[int, int]]:
    """The images of a file, each file once.

    Returns:
        Id -> usable image; all ids, those of unusable images included; and id of a repeated image -> id of the first.
    """
    files = PhotoFolder(folder)
    names = [name_of_image(entry, files) if isinstance(entry, dict) else None for entry in entries]
    files.settle(names)
    images: dict[int, RawImage] = {}
    by_path: dict[Path, RawImage] = {}
    known: set[int] = set()
    again: dict[int, int] = {}
    for position, (entry, name) in enumerate(zip(entries, names, strict=True)):
        if name is None or "id" not in entry:
            findings.bad.add("images without id or file_name", f"entry {position}")
            continue
        image_id = entry["id"]
        if not is_whole(image_id):
            findings.bad.add("image ids that are neither whole numbers nor texts", repr(image_id))
            continue
        if image_id in known:
            findings.bad.add("duplicate image ids", image_id)
            continue
        known.add(image_id)
        image = _image(entry, name, files, findings)
        if image is None:
            continue
        first = by_path.setdefault(image.path, image)
        if first.size != image.size:
            findings.bad.add("images listed twice, with different sizes", f"{name}: ids {first.image_id}, {image_id}")
            continue
        if first is not image:
            findings.repairs.add("images listed twice, merged", f"{name}: ids {first.image_id}, {image_id}")
            again[image_id] = first.image_id
        images[image_id] = first
    return images, known, again


def _image(entry: dict[str, Any], name: object, files: PhotoFolder, findings: Findings) -> RawImage | None:
    """One image, measured where its entry lacks a size; None after an unusable one was counted."""
    sides = entry.get("height"), entry.get("width")
    measured = any(side is None or isinstance(side, str) for side in sides)
    has_area = measured or all(is_number(side) and side >= 1 for side in sides)
    if not has_area:
        findings.bad.add("images without an area", name)
    path = files.find(name, findings.bad, findings.repairs)
    if path is None or not has_area:
        return None
    if not measured:
        return RawImage(image_id=entry["id"], path=path, size=(int(entry["height"]), int(entry["width"])))
    try:
        size = read_size(path)
    except ImageError as error:
        findings.bad.add("images that cannot be read", f"{path.name}: {error}")
        return None
    findings.repairs.add("images without width or height, measured", name)
    return RawImage(image_id=entry["id"], path=path, size=size, measured=True)


def _add_boxes(
    entries: list[Any], images: dict[int, RawImage], known: set[int], names: dict[int, str], findings: Findings
) -> None:
    """Add the usable boxes to their images; `known`: ids of all images, `names`: category id -> class name."""
    seen: set[object] = set()
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not {"image_id", "category_id"} <= entry.keys() or not entry.get("bbox"):
            findings.bad.add("annotations without image_id, category_id, or bbox and outline", f"entry {position}")
            continue
        identity = f"(no id, annotation {position})" if entry.get("id") is None else entry["id"]
        if not isinstance(identity, int | float | str):
            findings.bad.add("annotation ids that are no numbers", f"entry {position}")
            continue
        duplicate = identity in seen
        if duplicate:
            findings.bad.add("duplicate annotation ids", identity)
        seen.add(identity)
        image_id, category_id = entry["image_id"], entry["category_id"]
        if not is_whole(image_id) or image_id not in known:
            findings.bad.add("annotations of an unknown image", identity)
        elif not is_whole(category_id) or category_id not in names:
            findings.bad.add("unknown category ids", f"annotation {identity}: {category_id}")
        elif not is_box(entry["bbox"]):
            findings.bad.add("boxes that are not four finite numbers", identity)
        elif (crowd := truth_value(entry.get("iscrowd"))) is None:
            findings.bad.add("values of iscrowd that are neither 0 nor 1", f"annotation {identity}: {entry['iscrowd']}")
        elif image_id not in images:
            findings.lost.add("boxes of images left out", identity)
        elif not duplicate:
            x, y, w, h = entry["bbox"]
            corners, where = (x, y, x + w, y + h), f"annotation {identity}"
            box = RawBox(names[category_id], corners, crowd, position, where, pseudo="source" in entry)
            images[image_id].boxes.append(box)
