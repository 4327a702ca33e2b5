"""YOLO labels: a folder labels/ beside images/ with one text file per image and one object per line.

A line is `class cx cy w h` in fractions of the image, or `class x y x y x y ...` for an outline, which becomes the box
around it. The class is an index into the names of data.yaml or classes.txt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from cora.data.coco_content import merge_names
from cora.data.listing import files_ending, list_images, name_problem
from cora.data.photo_folder import bare_name, name_of_file
from cora.data.problems import Findings, check_folder, check_names, is_number, read_text
from cora.data.raw import RawAnnotations, RawBox, RawImage
from cora.data.yolo_names import NAMES_FILES, NumberedNames, find_names, read_numbered_names
from cora.errors import DataError, ImageError
from cora.images import read_size

MAX_LABEL_BYTES = 16 * 2**20
#: Rounding may put coordinates this far outside the image; what lies farther outside is not in fractions.
BORDER = 0.01

#: Text files among the labels that are no labels.
_NO_LABELS = frozenset(("classes.txt", "train.txt", "val.txt", "test.txt"))


def read_yolo(annotations: Path | None, *, folder: Path, findings: Findings) -> RawAnnotations:
    """Images of `folder` and its subfolders, with their boxes; unusable entries are counted in `findings`.

    An image without a label file, or with an empty one, is background.

    Args:
        annotations: data.yaml, classes.txt, or the folder of labels; None looks for all of them around `folder`.
            Folders that a data.yaml names are ignored, since `folder` says which images are meant.
        folder: folder of the images. The folder of labels has the same path with labels instead of images, or is
            `labels` beside or in the folder, or the folder itself; labels lie there in the same subfolders.
        findings: collects the problems.

    Raises:
        DataError: there are no images, no class names, or no label files.
    """
    check_folder(folder)
    photos, problems = list_images(folder)
    for problem in problems:
        findings.bad.add("folders that cannot be read", problem)
    if not photos:
        raise DataError(f"expected images in {folder}, got none; name the folder they lie in")
    labels = _labels(annotations, folder, photos)
    source = _names_file(annotations, folder, labels.root)
    names = read_numbered_names(source, findings)
    check_names(list(names.names.values()), findings.faults)
    spelled, merged = merge_names(names.names, findings.repairs)
    names = replace(names, names=spelled)
    images: list[RawImage] = []
    entries = 0
    used: set[Path] = set()
    for path, label in labels.of_photos(photos, findings).items():
        if label in used:
            findings.bad.add("images that share a label file with another", path.relative_to(folder))
            continue
        if label is not None:
            used.add(label)
        lines = list(_lines(label, names, findings)) if label is not None else []
        image = _image(path, len(images) + 1, findings)
        if image is None:
            for where, *_ in lines:
                findings.lost.add("boxes of images left out", where)
            continue
        height, width = image.size
        for where, class_name, (x0, y0, x1, y1) in lines:
            corners = (x0 * width, y0 * height, x1 * width, y1 * height)
            image.boxes.append(RawBox(class_name, corners, False, entries, where))
            entries += 1
        images.append(image)
    for label in labels.files.values():
        if label not in used:
            findings.bad.add("missing image files", f"that of {label.relative_to(labels.root)}")
    return RawAnnotations(
        format="yolo",
        source=source,
        folder=folder,
        category_ids={name: number for number, name in spelled.items() if number not in merged},
        images=images,
    )


def labels_beside(folder: Path) -> list[Path]:
    """Existing folders where the labels of the images in `folder` may lie, the likeliest first."""
    parts = list(folder.absolute().parts)
    candidates = [folder.parent / "labels", folder / "labels", folder]
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        candidates.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]))
    return [candidate for candidate in candidates if candidate.is_dir()]


class _Labels:
    """The label files of a folder and its subfolders.

    A label file belongs to the image of the same relative path, apart from the ending; a folder `images` on the way may
    be called `labels` or be missing. Otherwise it belongs to an image of a similar name, without what an upload added,
    if only one label file and one image have that name.

    Args:
        root: folder of the labels.
        folder: folder of the images.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.files: dict[str, Path] = {}
        self._in_any_case: dict[str, list[Path]] = defaultdict(list)
        for path in files_ending(root, ".txt", deep=True):
            if path.name.lower() not in _NO_LABELS and not path.name.lower().startswith("readme"):
                name = path.relative_to(root).with_suffix("").as_posix()
                self.files.setdefault(name, path)
                self._in_any_case[name_of_file(name)].append(path)

    def fit(self, photos: Sequence[Path], *, alike: bool) -> bool:
        """Whether any image has a label file here; with `alike`, whether one has a similar name."""
        if alike:
            names = {_bare_stem(path) for path in photos}
            return any(_bare_stem(path) in names for path in self.files.values())
        return any(self._same_place(photo) for photo in photos)

    def of_photos(self, photos: Sequence[Path], findings: Findings) -> dict[Path, Path | None]:
        """Image -> its label file or None; label files of a similar name are counted as repairs."""
        found = {photo: self._same_place(photo) for photo in photos}
        used = set(found.values())
        unlabelled, unused = defaultdict(list), defaultdict(list)
        for photo, label in found.items():
            if label is None:
                unlabelled[_bare_stem(photo)].append(photo)
        for label in self.files.values():
            if label not in used:
                unused[_bare_stem(label)].append(label)
        for name, labels in unused.items():
            if len(labels) == len(unlabelled.get(name, ())) == 1:
                photo, label = unlabelled[name][0], labels[0]
                found[photo] = label
                findings.repairs.add("label files found under another name", f"{photo.name}: {label.name}")
        return found

    def _same_place(self, photo: Path) -> Path | None:
        """The label file of the same relative path as an image."""
        parts = photo.relative_to(self.folder).with_suffix("").parts
        swapped = tuple("labels" if part == "images" else part for part in parts[:-1])
        without = tuple(part for part in parts[:-1] if part != "images")
        names = ["/".join((*places, parts[-1])) for places in (parts[:-1], swapped, without)]
        exact = next((self.files[name] for name in names if name in self.files), None)
        alike = (self._in_any_case.get(name_of_file(name), []) for name in names)
        return exact or next((found[0] for found in alike if len(found) == 1), None)


def _bare_stem(path: Path) -> str:
    """A file name for comparison, without its ending and what an upload added."""
    return bare_name(unquote(path.stem))


def _labels(annotations: Path | None, folder: Path, photos: Sequence[Path]) -> _Labels:
    """The first folder of labels that fits the images: by the same names, else by similar ones."""
    candidates = labels_beside(folder)
    if annotations is not None and annotations.is_dir():
        # A folder with a list of names may be that of the whole set; its labels may then lie elsewhere.
        candidates = [annotations, *(candidates if find_names(annotations) else [])]
    every = [_Labels(candidate, folder) for candidate in candidates]
    for alike in (False, True):
        for labels in every:
            if labels.fit(photos, alike=alike):
                return labels
    where = ", ".join(str(candidate) for candidate in candidates)
    raise DataError(
        f"expected label files (photo.txt) for the {len(photos)} images in {folder}, got none in {where}; "
        "put them into labels/ beside images/, or name their folder"
    )


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
    if problem := name_problem(path.name):
        findings.bad.add("images that cannot be read", problem)
        return None
    try:
        return RawImage(image_id=image_id, path=path, size=read_size(path), measured=True)
    except ImageError as error:
        findings.bad.add("images that cannot be read", f"{path.name}: {error}")
        return None


def _lines(
    path: Path, names: NumberedNames, findings: Findings
) -> Iterator[tuple[str, str, tuple[float, float, float, float]]]:
    """Name in messages, class name and corners in fractions of the image, of every usable line."""
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
            findings.bad.add("lines with a number that is not finite", where)
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
