"""Pascal VOC annotations (Everingham et al., 2010): a folder with one XML file a photo, boxes counted from pixel 1."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from cora.data.problems import Findings, PhotoFolder, check_names, is_number, read_text
from cora.data.raw import RawAnnotations, RawBox, RawImage
from cora.errors import DataError, ImageError
from cora.images import IMAGE_SUFFIXES, read_size

#: A photo with ten thousand boxes takes 3 MB.
MAX_XML_BYTES = 16 * 2**20


def read_voc(annotations: Path, *, folder: Path, findings: Findings) -> RawAnnotations:
    """Photos and boxes of all XML files directly in `annotations`; what cannot be used is counted in `findings`.

    A pixel has its number's place: a box from 1 to 1 covers the first pixel, 0..1 in continuous coordinates.
    Boxes marked `difficult` become crowd boxes: no targets, and no false alarms where they are found. Classes are
    those of the boxes, in alphabetical order; photos without a file are no part of the set. The photo is the one
    called `filename`, or that of the XML file's own name.

    Raises:
        DataError: there is no image folder, or no XML file.
    """
    files = sorted(path for path in annotations.glob("*.xml") if path.is_file())
    if not files:
        raise DataError(f"expected a folder of XML files, got none in {annotations}; name the folder they lie in")
    photos = PhotoFolder(folder)
    by_stem: dict[str, str] = {}
    for name in sorted(photos.names, reverse=True):
        if Path(name).suffix.lower() in IMAGE_SUFFIXES:
            by_stem[Path(name).stem] = name
    images: dict[Path, RawImage] = {}
    entries = 0
    for path in files:
        root = _parse(path, findings)
        if root is None:
            continue
        objects = root.findall("object")
        image = _image(root, path, photos, by_stem, findings)
        if image is not None and image.path in images:
            findings.bad.add("photos with two XML files", f"{path.name}: {image.path.name}")
            image = None
        for number, element in enumerate(objects, start=1):
            box = _box(element, f"{path.name}, object {number}", entries, findings)
            entries += 1
            if box is not None and image is not None:
                image.boxes.append(box)
            elif box is not None:
                findings.lost.add("boxes of photos left out", box.where)
        if image is not None:
            image.image_id = len(images) + 1
            images[image.path] = image
    names = sorted({box.class_name for image in images.values() for box in image.boxes})
    check_names(names, findings.faults)
    return RawAnnotations(
        format="voc",
        source=annotations,
        folder=folder,
        category_ids={name: number for number, name in enumerate(names, start=1)},
        images=list(images.values()),
        declared=False,
    )


def _parse(path: Path, findings: Findings) -> ElementTree.Element | None:
    try:
        text = read_text(path, max_bytes=MAX_XML_BYTES, expected="VOC annotation file")
        # Without a document type there are no entities: none that grow, none that read other files. Text, not bytes,
        # is parsed, so that no declared encoding can hide one; zeros would make the parser guess UTF-16.
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


def _image(
    root: ElementTree.Element, xml: Path, photos: PhotoFolder, by_stem: dict[str, str], findings: Findings
) -> RawImage | None:
    name = (root.findtext("filename") or "").strip() or xml.stem
    if name not in photos and photos.path(name) is not None:
        # Tools write names without an ending, or keep that of a photo converted since.
        name = by_stem.get(xml.stem, name)
    path = photos.find(name, findings.bad)
    if path is None:
        return None
    height, width = (_number(root.findtext(f"size/{side}")) for side in ("height", "width"))
    if height is not None and width is not None and min(height, width) >= 1:
        return RawImage(image_id=0, path=path, size=(int(height), int(width)))
    try:
        return RawImage(image_id=0, path=path, size=read_size(path), measured=True)
    except ImageError as error:
        findings.bad.add("photos that cannot be read", f"{path.name}: {error}")
        return None


def _box(element: ElementTree.Element, where: str, entry: int, findings: Findings) -> RawBox | None:
    name = (element.findtext("name") or "").strip()
    if not name:
        findings.bad.add("objects without a name", where)
        return None
    corners = [_number(element.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
    known = [corner for corner in corners if corner is not None]
    if len(known) < 4:
        findings.bad.add("boxes that are not four finite numbers", where)
        return None
    x0, y0, x1, y1 = known
    crowd = (element.findtext("difficult") or "").strip() == "1"
    return RawBox(name, (x0 - 1, y0 - 1, x1, y1), crowd, entry, where)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if is_number(value) else None
