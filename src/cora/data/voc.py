"""Pascal VOC annotations (Everingham et al., 2010): a folder with one XML file per image, pixels counted from 1."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from cora.data.coco_content import merge_names
from cora.data.listing import files_ending, is_hidden
from cora.data.photo_folder import PhotoFolder, name_of_file
from cora.data.problems import Findings, is_number, read_text, truth_value
from cora.data.raw import RawAnnotations, RawBox, RawImage
from cora.errors import DataError, ImageError
from cora.images import IMAGE_SUFFIXES, read_size

#: Greatest size of an XML file; one with ten thousand boxes has 3 MB.
MAX_XML_BYTES = 16 * 2**20

#: Tags of the coordinates of an outline: x1, y1, x2, ..., or x and y inside each point.
_COORDINATE = re.compile(r"[xy]\d*")


def read_voc(annotations: Path, *, folder: Path, findings: Findings) -> RawAnnotations:
    """Images and boxes of all XML files directly in `annotations`; unusable entries are counted in `findings`.

    - VOC counts pixels from 1 and includes the last one: a box from 1 to 1 covers the first pixel, which is 0..1 in
      continuous coordinates.
    - Boxes marked `difficult` become crowd boxes: no training targets, and detections on them are not wrong.
    - An object with an outline alone gets the box around it.
    - Classes are those of the boxes, in alphabetical order.
    - An XML file belongs to the image that it names under `filename`, or else to the image of its own name. Images
      without an XML file are no part of the set.

    Raises:
        DataError: there is no image folder, or no XML file.
    """
    files = files_ending(annotations, ".xml")
    if not files:
        raise DataError(f"expected a folder of XML files, got none in {annotations}; name the folder they lie in")
    parsed = list(_read_files(files, findings))
    photos = PhotoFolder(folder, (xml.image_name for xml in parsed))
    by_stem = {
        name_of_file(Path(name).stem): name
        for name in sorted(photos.names, reverse=True)
        if Path(name).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(name)
    }
    images: dict[Path, RawImage] = {}
    for xml in parsed:
        image = _image(xml, photos, by_stem, findings)
        if image is not None and image.path in images:
            findings.bad.add("images with two XML files", f"{xml.path.name}: {image.path.name}")
            image = None
        if image is None:
            for box in xml.boxes:
                findings.lost.add("boxes of images left out", box.where)
            continue
        image.boxes, image.image_id = xml.boxes, len(images) + 1
        images[image.path] = image
    names = _one_spelling(list(images.values()), findings)
    return RawAnnotations(
        format="voc",
        source=annotations,
        folder=folder,
        category_ids={name: number for number, name in enumerate(names, start=1)},
        images=list(images.values()),
        declared=False,
    )


@dataclass(frozen=True)
class _XmlFile:
    """The content of an XML file: name of its image, (height, width) in pixels where the file says it, and boxes."""

    path: Path
    image_name: str
    size: tuple[int, int] | None
    boxes: list[RawBox]


def _read_files(files: Sequence[Path], findings: Findings) -> Iterator[_XmlFile]:
    """The files that can be read; their boxes are numbered through all files."""
    entries = 0
    for path in files:
        root = _parse(path, findings)
        if root is None:
            continue
        boxes = []
        for number, element in enumerate(root.findall("object"), start=1):
            box = _box(element, f"{path.name}, object {number}", entries, findings)
            entries += 1
            boxes += [box] if box is not None else []
        name = (root.findtext("filename") or "").strip() or path.stem
        height, width = (_number(root.findtext(f"size/{side}")) for side in ("height", "width"))
        has_size = height is not None and width is not None and min(height, width) >= 1
        yield _XmlFile(path, name, (int(height or 0), int(width or 0)) if has_size else None, boxes)


def _one_spelling(images: Sequence[RawImage], findings: Findings) -> list[str]:
    """Give every class its most frequent spelling; returns the class names in alphabetical order."""
    counts = Counter(box.class_name for image in images for box in image.boxes)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    spelled, merged = merge_names(dict(enumerate(names)), findings.repairs)
    if merged:
        canonical = {name: spelled[number] for number, name in enumerate(names)}
        for image in images:
            image.boxes = [box._replace(class_name=canonical[box.class_name]) for box in image.boxes]
    return sorted(set(spelled.values()))


def _parse(path: Path, findings: Findings) -> ElementTree.Element | None:
    """The root element of an XML file; None after an unusable file was counted."""
    try:
        text = read_text(path, max_bytes=MAX_XML_BYTES, expected="VOC annotation file")
        # Without a document type there are no entities, which could expand without end or include other files. The
        # parser gets text, not bytes, since a declared encoding could hide one, and zeros would make it guess UTF-16.
        if "<!DOCTYPE" in text or "<!ENTITY" in text or "\0" in text:
            findings.bad.add("XML files with a document type or zeros, which may hide entities", path.name)
            return None
        root = ElementTree.fromstring(text)
    except (DataError, ElementTree.ParseError, ValueError) as error:
        findings.bad.add("XML files that cannot be read", f"{path.name}: {error}")
        return None
    if root.tag != "annotation":
        findings.bad.add("XML files without an annotation element", path.name)
        return None
    return root


def _image(xml: _XmlFile, photos: PhotoFolder, by_stem: dict[str, str], findings: Findings) -> RawImage | None:
    """The image of an XML file, still without boxes; None after a missing or unreadable image was counted."""
    name = xml.image_name
    if name not in photos and photos.path(name) is not None:
        # Some tools write names without an ending, or keep the ending of an image that was converted later.
        name = by_stem.get(name_of_file(xml.path.stem), name)
    path = photos.find(name, findings.bad, findings.repairs)
    if path is None:
        return None
    if xml.size is not None:
        return RawImage(image_id=0, path=path, size=xml.size)
    try:
        return RawImage(image_id=0, path=path, size=read_size(path), measured=True)
    except ImageError as error:
        findings.bad.add("images that cannot be read", f"{path.name}: {error}")
        return None


def _box(element: ElementTree.Element, where: str, entry: int, findings: Findings) -> RawBox | None:
    """The box of an object; None after an unusable one was counted."""
    name = (element.findtext("name") or "").strip()
    if not name:
        findings.bad.add("objects without a name", where)
        return None
    corners = _corners(element)
    if corners is None:
        findings.bad.add("boxes that are not four finite numbers", where)
        return None
    crowd = truth_value(element.findtext("difficult"))
    if crowd is None:
        findings.bad.add("values of difficult that are neither 0 nor 1", f"{where}: {element.findtext('difficult')}")
        return None
    x0, y0, x1, y1 = corners
    return RawBox(name, (x0 - 1, y0 - 1, x1, y1), crowd, entry, where)


def _corners(element: ElementTree.Element) -> tuple[float, float, float, float] | None:
    """First column, first row, last column and last row of an object: of its box, rotated box or outline."""
    sides = [_number(element.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
    known = [side for side in sides if side is not None]
    if len(known) == 4:
        return known[0], known[1], known[2], known[3]
    if element.find("bndbox") is not None:
        return None
    rotated = [_number(element.findtext(f"robndbox/{side}")) for side in ("cx", "cy", "w", "h", "angle")]
    known = [side for side in rotated if side is not None]
    if len(known) == 5:
        cx, cy, w, h, angle = known
        sine, cosine = abs(math.sin(angle)), abs(math.cos(angle))
        across, down = (w * cosine + h * sine) / 2, (w * sine + h * cosine) / 2
        return cx - across, cy - down, cx + across, cy + down
    points = [(part.tag, _number(part.text)) for outline in element.findall("polygon") for part in outline.iter()]
    xs, ys = ([n for tag, n in points if _COORDINATE.fullmatch(tag) and tag[0] == axis] for axis in "xy")
    if len(xs) != len(ys) or len(xs) < 2 or None in (*xs, *ys):
        return None
    across_px, down_px = [n for n in xs if n is not None], [n for n in ys if n is not None]
    return min(across_px), min(down_px), max(across_px), max(down_px)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if is_number(value) else None
