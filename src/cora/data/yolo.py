"""YOLO labels: beside images/ a folder labels/ with one text file a photo, each line one object in fractions of it.

A line is `class cx cy w h`, or `class x y x y x y ...` for an outline, of which the enclosing box is taken. The class
is a place in the names of data.yaml or classes.txt.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cora.data.problems import Findings, check_folder, check_names, is_number, read_text
from cora.data.raw import RawAnnotations, RawBox, RawImage
from cora.data.yolo_names import NAMES_FILES, NumberedNames, find_names, read_numbered_names
from cora.errors import DataError, ImageError
from cora.images import IMAGE_SUFFIXES, read_size

MAX_LABEL_BYTES = 16 * 2**20
#: Rounded coordinates pass the border a little; what passes it by more is not in fractions.
BORDER = 0.01

_NO_LABELS = frozenset(("classes.txt", "train.txt", "val.txt", "test.txt"))


def read_yolo(annotations: Path | None, *, folder: Path, findings: Findings) -> RawAnnotations:
    """Photos anywhere below `folder` and their boxes; what cannot be used is counted in `findings`.

    Photos without a label file, or with an empty one, show nothing but background.

    Args:
        annotations: data.yaml, classes.txt, or the folder of labels; None looks for all of them around `folder`.
            Folders that a data.yaml names are not followed: `folder` says which photos are meant.
        folder: of the photos; labels lie in the same places below the folder of labels, which is that of the same
            path with labels instead of images, or `labels` beside or in the folder, or the folder itself.
        findings: filled.

    Raises:
        DataError: there are no photos, no names, or no label files.
    """
    check_folder(folder)
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not photos:
        raise DataError(f"expected photos in {folder}, got none; name the folder they lie in")
    labels = _labels_folder(annotations, folder, photos)
    source = _names_file(annotations, folder, labels)
    names = read_numbered_names(source, findings)
    check_names(list(names.names.values()), findings.faults)
    images: list[RawImage] = []
    entries = 0
    used: set[Path] = set()
    for path in photos:
        label = _label_of(path, folder, labels)
        if label in used:
            findings.bad.add("photos that share a label file with another", path.relative_to(folder))
            continue
        used.add(label)
        lines = list(_lines(label, names, findings)) if label.is_file() else []
        image = _image(path, len(images) + 1, findings)
        if image is None:
            for where, *_ in lines:
                findings.lost.add("boxes of photos left out", where)
            continue
        height, width = image.size
        for where, class_name, (x0, y0, x1, y1) in lines:
            corners = (x0 * width, y0 * height, x1 * width, y1 * height)
            image.boxes.append(RawBox(class_name, corners, False, entries, where))
            entries += 1
        images.append(image)
    for label in _all_labels(labels):
        if label not in used:
            findings.bad.add("missing image files", f"that of {label.relative_to(labels)}")
    return RawAnnotations(
        format="yolo",
        source=source,
        folder=folder,
        category_ids={name: number for number, name in names.names.items()},
        images=images,
    )


def labels_beside(folder: Path) -> list[Path]:
    """Folders where the labels of the photos in `folder` may lie, likeliest first; those that exist."""
    parts = list(folder.absolute().parts)
    candidates = [folder.parent / "labels", folder / "labels", folder]
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        candidates.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]))
    return [candidate for candidate in candidates if candidate.is_dir()]


def _labels_folder(annotations: Path | None, folder: Path, photos: list[Path]) -> Path:
    candidates = labels_beside(folder)
    if annotations is not None and annotations.is_dir():
        # The folder of the whole set, with its list of names, is as good as that list.
        candidates = [annotations, *(candidates if find_names(annotations) else [])]
    for candidate in candidates:
        if any(_label_of(photo, folder, candidate).is_file() for photo in photos):
            return candidate
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise DataError(
        f"expected label files (photo.txt) for the {len(photos)} photos in {folder}, got none in {looked}; "
        "put them into labels/ beside images/, or name their folder"
    )


def _label_of(photo: Path, folder: Path, labels: Path) -> Path:
    return labels / photo.relative_to(folder).with_suffix(".txt")


def _all_labels(labels: Path) -> Iterator[Path]:
    for path in sorted(labels.rglob("*.txt")):
        if path.name.lower() not in _NO_LABELS and not path.name.lower().startswith("readme"):
            yield path


def _names_file(annotations: Path | None, folder: Path, labels: Path) -> Path:
    if annotations is not None and not annotations.is_dir():
        return annotations
    named = [annotations] if annotations is not None else []
    found = find_names(*named, labels, labels.parent, folder, folder.parent, folder.parent.parent)
    if found is None:
        raise DataError(
            f"expected class names in {' or '.join(NAMES_FILES)} near {folder}, got none of them; "
            "write classes.txt, one name a line, or name the file"
        )
    return found


def _image(path: Path, image_id: int, findings: Findings) -> RawImage | None:
    try:
        return RawImage(image_id=image_id, path=path, size=read_size(path), measured=True)
    except ImageError as error:
        findings.bad.add("photos that cannot be read", f"{path.name}: {error}")
        return None


def _lines(
    path: Path, names: NumberedNames, findings: Findings
) -> Iterator[tuple[str, str, tuple[float, float, float, float]]]:
    """(what to call it, class name, corners in fractions of the photo) of every sound line."""
    try:
        text = read_text(path, max_bytes=MAX_LABEL_BYTES, expected="label file")
    except DataError as error:
        findings.bad.add("label files that cannot be read", f"{path.name}: {error}")
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            label, *values = (float(word) for word in line.split())
        except ValueError:
            findings.bad.add("lines that are not numbers", where)
            continue
        if not all(is_number(value) for value in (label, *values)):
            findings.bad.add("lines with numbers that are not finite", where)
        elif label not in names.names:
            findings.bad.add("unknown category ids", f"{where}: {label:g}")
        elif len(values) < 4 or (len(values) != 4 and not names.pose and (len(values) % 2 or len(values) < 6)):
            kind = "lines that are neither class cx cy w h nor class and an outline"
            findings.bad.add(kind, f"{where}: {len(values) + 1} numbers")
        elif not all(-BORDER <= value <= 1 + BORDER for value in (values[:4] if names.pose else values)):
            findings.bad.add("lines outside 0..1, perhaps in pixels", where)
        else:
            yield where, names.names[int(label)], _corners(values, outline=len(values) > 4 and not names.pose)


def _corners(values: list[float], *, outline: bool) -> tuple[float, float, float, float]:
    if outline:
        return min(values[0::2]), min(values[1::2]), max(values[0::2]), max(values[1::2])
    cx, cy, w, h = values[:4]
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
