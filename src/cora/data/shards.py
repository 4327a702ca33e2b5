"""Shards: tar files of images and their annotations, a few large files in place of many small ones.

Shards follow the convention of webdataset: members of one name, such as ``000000042.jpg`` and ``000000042.json``,
belong together. Python's tarfile reads and writes them, not the webdataset library, which shuffles in buffers and so
cannot resume at a given batch, and whose decoders unpickle. Nothing is unpacked or unpickled here, and sizes are
bounded.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cora.data.coco import CocoDataset, CocoImage, targets_of
from cora.data.listing import files_ending
from cora.data.photo_folder import PhotoFolder
from cora.data.problems import Findings, is_box, is_whole, read_text
from cora.data.raw import RawAnnotations, RawBox, RawImage
from cora.errors import DataError, ImageError
from cora.files import whole_file, write_text
from cora.images import read_image
from cora.structures import Targets

#: File beside the shards with what they have in common: the format, and the classes with their ids.
INDEX = "shards.json"
PHOTO_SUFFIXES = ("jpg", "jpeg", "png", "webp")
_FORMATS = ("JPEG", "PNG", "WEBP")
#: Bounds on the size of an image, of its annotation and of the index.
MAX_PHOTO_BYTES, MAX_RECORD_BYTES, MAX_INDEX_BYTES = 256 * 2**20, 16 * 2**20, 256 * 2**20


class _Place(NamedTuple):
    """Where the file of an image lies: its shard, the offset in it and the size, in bytes."""

    shard: Path
    start: int
    size: int


class ShardDataset(CocoDataset):
    """A `CocoDataset` of the shards ``*.tar`` of a folder.

    Opening reads the headers and the annotations of every shard; images are read when an item is asked for. With its
    `blocks`, an `EpochLoader` reads shard by shard.

    Args:
        folder: folder of the shards, which are read in the order of their names.
        class_names: as for `CocoDataset`; None keeps all classes of `shards.json` or, without it, of the boxes.
        keep_empty: as for `CocoDataset`.
        skip_bad: as for `CocoDataset`.

    Raises:
        DataError: there are no shards, or some of their members cannot be used; one message counts all kinds.
    """

    def __init__(
        self,
        *,
        folder: Path,
        class_names: Sequence[str] | None = None,
        keep_empty: bool = True,
        skip_bad: bool = False,
    ) -> None:
        shards = files_ending(folder, ".tar") if folder.is_dir() else []
        if not shards:
            raise DataError(f"expected shards (*.tar) in {folder}, got none; write them with 'cora shards'")
        findings, photos = Findings(), PhotoFolder(folder)
        self._places: dict[int, _Place] = {}
        images: list[RawImage] = []
        entries = 0
        for shard in shards:
            for place, name, content in _members(shard, findings):
                image = _raw_image(content, photos, entries, name, findings)
                if image is None:
                    continue
                if image.image_id in self._places:
                    findings.bad.add("duplicate image ids", f"{name}: {image.image_id}")
                    continue
                self._places[image.image_id] = place
                entries += len(image.boxes)
                images.append(image)
        raw = _annotations(folder, images)
        self._build(raw, findings, class_names, keep_empty=keep_empty, skip_bad=skip_bad)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of items of each shard that has any, in order, for `EpochLoader(blocks=...)`."""
        shards = (self._places[record.image_id].shard for record in self.records)
        return tuple(len(list(items)) for _, items in groupby(shards))

    def __getitem__(self, index: int) -> tuple[Image.Image, Targets, int]:
        record = self.records[index]
        place = self._places[record.image_id]
        with place.shard.open("rb") as file:
            file.seek(place.start)
            content = file.read(place.size)
        try:
            image = read_image(Image.open(io.BytesIO(content), formats=_FORMATS))
        except (ImageError, OSError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{place.shard.name}: {record.path.name} is no image that can be read: {error}") from error
        if (image.height, image.width) != record.size:
            raise DataError(
                f"{place.shard.name}: {record.path.name} should have {record.size[1]}x{record.size[0]} px, the image "
                f"has {image.width}x{image.height}; boxes would not fit"
            )
        return image, targets_of(record), record.image_id


def write_shards(
    dataset: CocoDataset,
    *,
    folder: Path,
    max_bytes: int = 10**9,
    seed: int | None = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a dataset as shards, from which `ShardDataset` reads the same images and boxes.

    Args:
        dataset: read from any format. JPEG, PNG and WebP files are copied as they are, others become PNG.
        folder: made if it is missing; must hold no shards.
        max_bytes: greatest size of a shard, except of one that holds a single larger image.
        seed: seed for shuffling the images, since an epoch mixes only few shards at a time; None keeps their order.
        on_progress: called with (images written, images in all).

    Returns:
        Paths of the shards.

    Raises:
        DataError: there are shards in the folder, or an image cannot be read or is too large.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.tar")):
        raise DataError(f"expected a folder without shards, got some in {folder}; name another folder")
    count = len(dataset.records)
    order = range(count) if seed is None else np.random.default_rng(seed).permutation(count).tolist()
    shards: list[Path] = []
    with ExitStack() as files:  # all or nothing: shards get their names when the last one is written
        tar: tarfile.TarFile | None = None
        for number, index in enumerate(order):
            members = _members_of(dataset, dataset.records[index], number)
            size = sum(len(content) + 2 * tarfile.BLOCKSIZE for _, content in members)
            if tar is None or tar.offset + size > max_bytes:
                shards.append(folder / f"shard-{len(shards):06d}.tar")
                part = files.enter_context(whole_file(shards[-1], temporary=shards[-1].with_suffix(".part")))
                if tar is not None:
                    tar.close()
                tar = files.enter_context(tarfile.open(part, "w", format=tarfile.USTAR_FORMAT))
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            if on_progress is not None:
                on_progress(number + 1, count)
    common = {
        "format": dataset.format,
        "category_ids": dict(dataset.category_ids),
        "frequencies": dict(dataset.frequencies),
    }
    write_text(folder / INDEX, json.dumps(common))
    return shards


def _members_of(dataset: CocoDataset, record: CocoImage, number: int) -> list[tuple[str, bytes]]:
    """Name and content of the two members of an image: its file and its annotation."""

    def names(indices: Sequence[int]) -> list[str]:
        return [dataset.class_names[index] for index in indices]

    suffix = record.path.suffix.lower().removeprefix(".")
    if suffix in PHOTO_SUFFIXES:
        try:
            photo = record.path.read_bytes()
        except OSError as error:
            raise DataError(f"{record.path} cannot be read ({error.strerror}); mend the image folder") from error
    else:
        suffix, buffer = "png", io.BytesIO()
        read_image(record.path).save(buffer, "PNG")
        photo = buffer.getvalue()
    if len(photo) > MAX_PHOTO_BYTES:
        raise DataError(f"{record.path}: expected at most {MAX_PHOTO_BYTES} bytes, got {len(photo)}; make it smaller")
    content = {
        "image_id": record.image_id,
        "file_name": record.path.relative_to(dataset.images).as_posix(),
        "height": record.size[0],
        "width": record.size[1],
        "boxes_xyxy_px": record.boxes_xyxy_px.tolist(),
        "classes": names(record.classes.tolist()),
        "crowd_boxes_xyxy_px": record.crowd_boxes_xyxy_px.tolist(),
        "crowd_classes": names(record.crowd_classes.tolist()),
        "negative_classes": names(record.negative_classes),
        "not_exhaustive_classes": names(record.not_exhaustive_classes),
    }
    return [(f"{number:09d}.{suffix}", photo), (f"{number:09d}.json", json.dumps(content).encode())]


def _members(shard: Path, findings: Findings) -> Iterator[tuple[_Place, str, Any]]:
    """Place, name and annotation of every image of a shard that has an annotation."""
    photos: dict[str, _Place] = {}
    contents: dict[str, Any] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                # Members belong together that have the same folder and the same name up to its first dot.
                folder, slash, base = member.name.rpartition("/")
                key, _, suffix = base.partition(".")
                name, suffix = f"{shard.name}/{folder}{slash}{key}", suffix.lower()
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    findings.bad.add("members that are no plain files", f"{shard.name}/{member.name}")
                elif suffix in PHOTO_SUFFIXES and member.size <= MAX_PHOTO_BYTES and name not in photos:
                    photos[name] = _Place(shard, member.offset_data, member.size)
                elif suffix == "json" and member.size <= MAX_RECORD_BYTES and name not in contents:
                    file = tar.extractfile(member)
                    contents[name] = _json(file.read() if file is not None else b"")
                elif suffix == "json" or suffix in PHOTO_SUFFIXES:
                    findings.bad.add("members that are too large or there twice", f"{shard.name}/{member.name}")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{shard} cannot be read as an uncompressed tar file ({error}); write it anew") from error
    for name in contents:
        if name not in photos:
            findings.bad.add("annotations without an image", name)
    for name, place in photos.items():
        if name not in contents:
            findings.bad.add("images without an annotation", name)
        else:
            yield place, name, contents[name]


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _raw_image(content: Any, photos: PhotoFolder, entries: int, name: str, findings: Findings) -> RawImage | None:
    """The image of an annotation, its boxes numbered from `entries`; None after an unusable one was counted."""
    numbers = [content.get(side) for side in ("height", "width", "image_id")] if isinstance(content, dict) else [None]
    if not all(map(is_whole, numbers)) or min(content["height"], content["width"]) < 1:
        findings.bad.add("annotations without image_id, height and width", name)
        return None
    path = photos.path(str(content.get("file_name", name.rpartition("/")[2])))
    if path is None:
        findings.bad.add("file names that leave the image folder", content.get("file_name"))
        return None
    boxes: list[RawBox] = []
    for kind, crowd in (("", False), ("crowd_", True)):
        found = content.get(f"{kind}boxes_xyxy_px", []), content.get(f"{kind}classes", [])
        if not all(isinstance(one, list) for one in found) or len(found[0]) != len(found[1]):
            findings.bad.add("annotations whose boxes and classes differ in number", name)
            return None
        for box, label in zip(*found, strict=True):
            if not (is_box(box) and isinstance(label, str)):
                findings.bad.add("boxes that are not four finite numbers with a class name", name)
                continue
            x0, y0, x1, y1 = map(float, box)
            boxes.append(RawBox(label, (x0, y0, x1, y1), crowd, entries + len(boxes), name))
    return RawImage(
        image_id=content["image_id"],
        path=path,
        size=(content["height"], content["width"]),
        boxes=boxes,
        negative=_names(content.get("negative_classes")),
        not_exhaustive=_names(content.get("not_exhaustive_classes")),
    )


def _annotations(folder: Path, images: list[RawImage]) -> RawAnnotations:
    """The images with the classes of the index or, without an index, those of the boxes."""
    path = folder / INDEX
    common: Any = {}
    if path.exists():
        common = _json(read_text(path, max_bytes=MAX_INDEX_BYTES, expected="list of classes").encode())
        ids = common.get("category_ids") if isinstance(common, dict) else None
        if not isinstance(ids, dict) or not all(is_whole(number) for number in ids.values()):
            raise DataError(f"{path}: expected a JSON object with category_ids, class name to id; delete or mend it")
    of_boxes = sorted({box.class_name for image in images for box in image.boxes})
    ids = common.get("category_ids") or {name: number for number, name in enumerate(of_boxes, start=1)}
    frequencies = common.get("frequencies")
    return RawAnnotations(
        format="lvis" if common.get("format") == "lvis" else "coco",
        source=folder,
        folder=folder,
        category_ids=ids,
        images=images,
        declared="category_ids" in common,
        frequencies=frequencies if isinstance(frequencies, dict) else {},
    )


def _names(value: object) -> tuple[str, ...]:
    return tuple(name for name in value if isinstance(name, str)) if isinstance(value, list) else ()
