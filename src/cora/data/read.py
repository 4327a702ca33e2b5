"""Reads annotated images of any supported format and recognises it: COCO, LVIS, Pascal VOC, YOLO or shards.

Examples:
    >>> dataset = read_dataset(images=Path("images"), annotations=Path("boxes.json"))
    >>> dataset.class_names, len(dataset)
    (('cat', 'cup'), 2)
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch

from cora.data.coco import CocoDataset
from cora.data.coco_content import read_json
from cora.data.coco_json import read_coco
from cora.data.listing import files_ending, list_images
from cora.data.lvis import is_lvis, read_lvis
from cora.data.problems import Findings, check_folder, listed, shown
from cora.data.raw import RawAnnotations, RawImage
from cora.data.same_content import tell_copies
from cora.data.shards import ShardDataset
from cora.data.voc import read_voc
from cora.data.yolo import labels_beside, read_yolo
from cora.data.yolo_names import NAMES_FILES, find_names
from cora.errors import DataError, ImageError
from cora.images import check_whole, read_size

logger = logging.getLogger(__name__)

Format = Literal["auto", "coco", "lvis", "voc", "yolo", "shards"]

#: What the names of files tell; COCO and LVIS differ only inside their JSON file.
_Kind = Literal["json", "voc", "yolo"]

_KIND_OF: dict[str, _Kind] = {"coco": "json", "lvis": "json", "voc": "voc", "yolo": "yolo"}

#: JSON files up to this size are parsed to find out whether they are annotations.
_SMALL_BYTES = 2**20

#: If all images have sides of this many pixels or more, boxes below one pixel are probably fractions.
_LARGE_PX = 64

_WANTED = {
    "json": "a JSON file in COCO or LVIS format",
    "voc": "a folder of Pascal VOC XML files",
    "yolo": "a data.yaml, a classes.txt or a folder of YOLO labels (.txt)",
}


def read_dataset(
    *,
    images: Path,
    annotations: Path | None = None,
    class_names: Sequence[str] | None = None,
    format: Format = "auto",
    skip_bad: bool = False,
    keep_empty: bool = True,
    check_photos: bool = True,
) -> CocoDataset:
    """Read annotated images and check them, so that no training stops after hours over a bad file.

    It refuses missing, unreadable or wrongly sized images, file names that leave the folder, boxes outside their image
    or without an area, malformed entries, unknown categories, duplicate ids and names, classes that the source lacks,
    and sets without any box of the classes. The message counts each kind and gives its first example. Boxes that reach
    over the border are clipped and counted.

    Args:
        images: folder of the images, or of shards (`write_shards`), which contain their annotations.
        annotations: COCO or LVIS JSON; folder of VOC XML; data.yaml, classes.txt or label folder of YOLO. None looks
            for them in and around `images`.
        class_names: classes to keep; targets are indices into them. By default all classes of the source.
        format: format of the annotations; "auto" recognises it.
        skip_bad: skip bad images, boxes and lines. They are counted in `dropped` of the dataset and in a warning.
        keep_empty: keep images without a box of these classes.
        check_photos: read the header and the end of every image, in a millisecond or less each; images that may be
            truncated are decoded. Otherwise damaged images are noticed only when they are loaded; missing ones are
            noticed in any case.

    Raises:
        DataError: the set is refused as above, or its format cannot be recognised.
    """
    if format == "shards" or (format == "auto" and annotations is None and files_ending(images, ".tar")):
        return _read_shards(images, annotations, class_names, skip_bad=skip_bad, keep_empty=keep_empty)
    findings = Findings()
    raw = _read(images, annotations, format, findings)
    if not raw.images and not findings.bad:
        raise DataError(f"{raw.source}: expected images, got none; is {images} the right folder?")
    if check_photos:
        _tell_unlisted(raw)
        raw = _without_unreadable(raw, findings)
        tell_copies(raw.source, [image.path for image in raw.images])
    dataset = CocoDataset.from_raw(raw, findings, class_names=class_names, keep_empty=keep_empty, skip_bad=skip_bad)
    _check_boxes(dataset, raw)
    return dataset


def _read_shards(
    images: Path, annotations: Path | None, class_names: Sequence[str] | None, *, skip_bad: bool, keep_empty: bool
) -> ShardDataset:
    if annotations is not None:
        raise DataError(f"expected shards without annotations, which are in them, got {annotations}; leave these out")
    dataset = ShardDataset(folder=images, class_names=class_names, skip_bad=skip_bad, keep_empty=keep_empty)
    if not int(dataset.class_counts().sum()):
        raise DataError(f"{images}: expected boxes of the classes {listed(dataset.class_names)}, got none")
    return dataset


def _read(images: Path, annotations: Path | None, format: Format, findings: Findings) -> RawAnnotations:
    if format not in get_args(Format):
        raise DataError(f"format must be one of {', '.join(get_args(Format))}, got {format!r}")
    kind, source = _locate(images, annotations, format)
    if source is None or kind == "yolo":
        return read_yolo(source, folder=images, findings=findings)
    if source.is_dir() != (kind == "voc") and source.exists():
        raise DataError(f"expected {_WANTED[kind]}, got a {'folder' if source.is_dir() else 'file'}: {source}")
    if kind == "voc":
        return read_voc(source, folder=images, findings=findings)
    content = read_json(source)
    lvis = is_lvis(content) if format == "auto" else format == "lvis"
    return (read_lvis if lvis else read_coco)(content, source=source, folder=images, findings=findings)


def _locate(images: Path, annotations: Path | None, format: Format) -> tuple[_Kind, Path | None]:
    if format == "auto":
        return _recognise(images, annotations)
    kind = _KIND_OF[format]
    # The reader of YOLO finds the labels itself and reports what is missing.
    if annotations is not None or kind == "yolo":
        return kind, annotations
    return _only({kind: _look_around(images)[kind]}, f"in or beside {images}")


def _recognise(images: Path, annotations: Path | None) -> tuple[_Kind, Path]:
    if annotations is None:
        kind, found = _only(_look_around(images), f"in or beside {images}")
        logger.warning("%s: no annotations are named; those found are %s", images, found)
        return kind, found
    if annotations.is_dir():
        yolo = find_names(annotations) or files_ending(annotations, ".txt", deep=True)
        voc = files_ending(annotations, ".xml")
        inside: dict[_Kind, list[Path]] = {"voc": [annotations] if voc else [], "yolo": [annotations] if yolo else []}
        return _only(inside, f"in {annotations}")
    if not annotations.is_file():
        raise DataError(f"no annotation file at {annotations}; check the path")
    suffix = annotations.suffix.lower()
    if suffix == ".json":
        return "json", annotations
    if suffix in (".yaml", ".yml", ".txt"):
        return "yolo", annotations
    advice = "name the folder it lies in" if suffix == ".xml" else "name another file"
    raise DataError(f"expected {', or '.join(_WANTED.values())}, got {annotations}; {advice}")


def _look_around(images: Path) -> dict[_Kind, list[Path]]:
    """Kind -> files or folders in or beside the folder of images that may be annotations of this kind."""
    check_folder(images)
    xml = [folder for folder in (images, images.parent / "Annotations") if files_ending(folder, ".xml")]
    labels = [
        folder
        for folder in labels_beside(images)
        if find_names(folder, folder.parent, images.parent, images.parent.parent)
        and any(path.name not in NAMES_FILES for path in files_ending(folder, ".txt", deep=True))
    ]
    found: dict[_Kind, list[Path]] = {
        "json": files_ending(images, ".json") or files_ending(images.parent, ".json"),
        "voc": xml,
        "yolo": labels[:1],
    }
    if sum(map(len, found.values())) > 1:
        # Label Studio writes a notes.json beside the labels.
        found["json"] = [path for path in found["json"] if _may_be_coco(path)]
    return found


def _may_be_coco(path: Path) -> bool:
    """False for a small JSON file that is no COCO object."""
    try:
        if path.stat().st_size > _SMALL_BYTES:
            return True
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return True  # its reader reports what is wrong with it
    return isinstance(content, dict) and any(isinstance(content.get(key), list) for key in ("images", "annotations"))


def _only(found: Mapping[_Kind, Sequence[Path]], where: str) -> tuple[_Kind, Path]:
    """The kind and path of the only annotations that were found.

    Raises:
        DataError: there are none, or several.
    """
    places = [(kind, path) for kind, paths in found.items() for path in paths]
    if len(places) == 1:
        return places[0]
    wanted = ", or ".join(_WANTED[kind] for kind in found)
    if not places:
        raise DataError(f"expected {wanted} {where}, got none; name the annotations")
    several = listed(str(path) for _, path in places)
    raise DataError(f"expected {wanted} {where}, got {len(places)}: {several}; name the one that is meant")


def _tell_unlisted(raw: RawAnnotations) -> None:
    """Warn where the folder has images that the annotations do not list."""
    if raw.format == "yolo":  # uses all images of the folder
        return
    known = {image.path for image in raw.images}
    others = [path for path in list_images(raw.folder)[0] if path not in known]
    if others:
        first = shown(others[0].relative_to(raw.folder).as_posix())
        unused = "does not use 1 other image" if len(others) == 1 else f"uses none of {len(others)} other images"
        logger.warning("%s: %s in %s (first: %s)", raw.source, unused, raw.folder, first)


def _check_boxes(dataset: CocoDataset, raw: RawAnnotations) -> None:
    """Refuse a set without boxes to learn from or to measure on."""
    if int(dataset.class_counts().sum()):
        _check_pixels(dataset)
        return
    left_out = f" after leaving out {sum(dataset.dropped.values())} bad entries" if dataset.dropped else ""
    present = sorted({box.class_name for image in raw.images for box in image.boxes if not box.crowd})
    if not present:
        raise DataError(
            f"{raw.source}: expected boxes (other than of crowds), got none in {len(raw.images)} images{left_out}; "
            "annotate some or name another file"
        )
    raise DataError(
        f"{raw.source}: expected boxes of the classes {listed(dataset.class_names)}, got none{left_out}; "
        f"it has boxes of: {listed(present, 10)}"
    )


def _check_pixels(dataset: CocoDataset) -> None:
    """Refuse COCO boxes that seem to be fractions of their image: none reaches over the first pixel."""
    if dataset.format not in ("coco", "lvis"):
        return
    corners = torch.cat([record.boxes_xyxy_px.reshape(-1) for record in dataset.records])
    large = min(min(record.size) for record in dataset.records) >= _LARGE_PX
    if large and float(corners.max()) <= 1 and bool((corners != corners.round()).any()):
        raise DataError(
            f"{dataset.annotations}: expected boxes in pixels, got none that reaches over the first one of its image; "
            "multiply fractions by its width and height"
        )


def _without_unreadable(raw: RawAnnotations, findings: Findings) -> RawAnnotations:
    """Skip and count images that cannot be read, or have another size than their annotation says."""
    images: list[RawImage] = []
    for image in raw.images:
        try:
            size = image.size if image.measured else read_size(image.path)
            check_whole(image.path)
        except ImageError as error:
            findings.bad.add("images that cannot be read", f"{image.path.name}: {error}")
        else:
            if size == image.size:
                images.append(image)
                continue
            expected, found = (f"{width}x{height}" for height, width in (image.size, size))
            example = f"{image.path.name}: {expected}, is {found}"
            findings.bad.add("images of another size than their file says", example)
        for box in image.boxes:
            findings.lost.add("boxes of images left out", box.where)
    return replace(raw, images=images)


def read_annotated(images: Path, annotations: Path, names: Sequence[str] | None) -> CocoDataset:
    """Annotated images to measure on.

    COCO files are read as their evaluators read them: bad boxes are repaired or dropped, not refused.
    """
    if annotations.suffix.lower() == ".json" and not (annotations.is_file() and is_lvis(read_json(annotations))):
        return CocoDataset(annotations=annotations, images=images, class_names=names)
    return read_dataset(images=images, annotations=annotations, class_names=names, check_photos=False)


def read_held_out(
    images: Path | None, annotations: Path | None, names: Sequence[str] | None, *, option: str = "val"
) -> CocoDataset | None:
    """Held-out images of the options --val-images and --val-annotations; None where both are absent.

    Args:
        images: folder of the images.
        annotations: their annotations.
        names: class names to keep; None keeps all.
        option: start of the names of both options, for messages.

    Raises:
        DataError: one of both is absent, or a file cannot be used.
    """
    if (images is None) != (annotations is None):
        raise DataError(f"expected --{option}-images and --{option}-annotations together, got one of them")
    if images is None or annotations is None:
        return None
    return read_dataset(images=images, annotations=annotations, class_names=names)
