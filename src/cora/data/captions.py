"""Images with captions or tags instead of boxes (docs/pseudo_labels.md).

The nouns of its captions, or its tags, become the vocabulary of an image. Files are COCO captions (a JSON object with
the lists images and annotations, each annotation with a `caption`), or tables of `file,text` or `file,tag;tag` (CSV, or
TSV by its ending), with or without a header.
"""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cora.data.caption_nouns import NounFinder, english_nouns
from cora.data.photo_folder import PhotoFolder
from cora.data.problems import Problems, is_whole, parse_json, read_text
from cora.errors import DataError

logger = logging.getLogger(__name__)

TextKind = Literal["auto", "captions", "tags"]

MAX_BYTES = 4 * 2**30
#: A tag of more words is taken for a sentence and counted as bad; no published set has so long a class name.
MAX_TAG_WORDS = 8
_FILE_COLUMNS = frozenset(("file", "file_name", "filename", "image", "path", "photo"))
_CAPTION_COLUMNS = frozenset(("text", "caption", "captions", "title", "description"))
_TAG_COLUMNS = frozenset(("tag", "tags", "label", "labels", "class", "classes", "keywords"))
#: A table without a header holds tags if it has semicolons and at most so many words between them.
_AUTO_TAG_WORDS = 4


@dataclass(frozen=True, kw_only=True)
class NamedPhoto:
    """An image and the class names that its captions mention.

    Attributes:
        image_id: id in the caption file; for a table, the number of the image in order of appearance, from 1.
        path: path of the image.
        file_name: its name in the caption file, relative to the image folder.
        names: class name -> ids of the captions that mention it (line numbers for a table; empty for a class list).
    """

    image_id: int
    path: Path
    file_name: str
    names: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class NamedPhotos:
    """The images of a caption file.

    Attributes:
        photos: images with at least one class name, in the file's order.
        captions: number of captions, or lines of tags, that were read.
        nameless: number of skipped images whose captions mention no known noun.
        left_out: with `skip_bad`, kind -> number of skipped entries.
    """

    photos: tuple[NamedPhoto, ...]
    captions: int
    nameless: int
    left_out: dict[str, int]

    def name_counts(self) -> Counter[str]:
        """Class name -> number of images."""
        return Counter(name for photo in self.photos for name in photo.names)


class _Caption(NamedTuple):
    caption_id: int
    file_name: str
    image_id: int | None
    text: str


def read_captions(
    source: Path,
    *,
    images: Path,
    nouns: NounFinder | None = None,
    kind: TextKind = "auto",
    skip_bad: bool = False,
) -> NamedPhotos:
    """Read captions or tags of images.

    Args:
        source: COCO captions JSON, or a table (CSV; TSV by its ending) in UTF-8.
        images: folder that the file names are relative to.
        nouns: finds the class names in a caption; by default the shipped English nouns. A tag is a class name by
            itself, unless the finder has wanted names and it is none of them.
        kind: what the texts are; "auto" decides by the header of a table, or by semicolons between short texts.
        skip_bad: skip and count unusable entries instead of raising an error.

    Raises:
        DataError: missing or unreadable file, other bytes than UTF-8, another form; missing images, empty captions,
            unknown or repeated ids (one message counts all kinds); or no image with a class name is left.
    """
    finder = english_nouns() if nouns is None else nouns
    bad, repairs = Problems(), Problems()
    text = read_text(source, max_bytes=MAX_BYTES, expected="caption file")
    if text.lstrip()[:1] in ("{", "["):
        captions, tagged = list(_coco_captions(text, source, bad)), kind == "tags"
    else:
        captions, tagged = _table(text, source, kind, bad)
    folder = PhotoFolder(images, (caption.file_name for caption in captions))
    photos, nameless = _named_photos(captions, finder, folder, tagged, bad, repairs)
    if repairs:
        logger.warning("%s: %s", source, repairs)
    if bad and not skip_bad:
        raise DataError(f"{source}: {bad}; mend the file or the image folder {images}, or leave these out (--skip-bad)")
    if not photos:
        raise DataError(
            f"expected captions that name things, got none in the {len(captions)} of {source}"
            + (f"; left out: {bad}" if bad else "")
            + "; name the classes to look for (--nouns-from) or check the file"
        )
    return NamedPhotos(photos=tuple(photos), captions=len(captions), nameless=nameless, left_out=dict(bad.counts))


def folder_photos(images: Path, files: Sequence[Path], names: Sequence[str]) -> tuple[NamedPhoto, ...]:
    """Images that share one list of class names, for self-training; ids count from 1."""
    unmentioned: dict[str, tuple[int, ...]] = {name: () for name in names}
    return tuple(
        NamedPhoto(image_id=number, path=path, file_name=path.relative_to(images).as_posix(), names=unmentioned)
        for number, path in enumerate(files, start=1)
    )


def _named_photos(
    captions: Sequence[_Caption],
    finder: NounFinder,
    folder: PhotoFolder,
    tagged: bool,
    bad: Problems,
    repairs: Problems,
) -> tuple[list[NamedPhoto], int]:
    """The images with class names, and the number of images without any; an image may have several captions."""
    names: dict[str, dict[str, list[int]]] = {}
    paths: dict[str, Path] = {}
    ids: dict[str, int] = {}
    for caption in captions:
        name = caption.file_name
        if name not in names:
            names[name] = {}
            ids[name] = caption.image_id if caption.image_id is not None else len(names)
            path = folder.find(name, bad, repairs)
            if path is not None:
                paths[name] = path
        mentioned = _tags(caption, finder, bad) if tagged else finder.find(caption.text)
        for noun in mentioned:
            names[name].setdefault(noun, []).append(caption.caption_id)
    photos = [
        NamedPhoto(
            image_id=ids[name],
            path=path,
            file_name=name,
            names={noun: tuple(places) for noun, places in names[name].items()},
        )
        for name, path in paths.items()
        if names[name]
    ]
    return photos, len(paths) - len(photos)


def _tags(caption: _Caption, finder: NounFinder, bad: Problems) -> tuple[str, ...]:
    """The class names of a line of tags, which semicolons or commas divide."""
    found: dict[str, None] = {}
    for tag in caption.text.replace(",", ";").split(";"):
        words = tag.split()
        if len(words) > MAX_TAG_WORDS:
            bad.add(f"tags of more than {MAX_TAG_WORDS} words", " ".join(words))
        elif words and (name := finder.name_of_tag(tag)) is not None:
            found[name] = None
    return tuple(found)


def _coco_captions(text: str, source: Path, bad: Problems) -> Iterator[_Caption]:
    content = parse_json(text, source, "COCO captions")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise DataError(f"{source}: expected COCO captions, an object with the lists images and annotations")
    entries = content["annotations"]
    if entries and not any(isinstance(entry, dict) and "caption" in entry for entry in entries):
        raise DataError(
            f"{source}: expected a caption in every annotation, got none in {len(entries)}; is it of boxes?"
        )
    files = _coco_files(content["images"], bad)
    seen: set[int] = set()
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("caption"), str):
            bad.add("annotations without a caption", f"entry {position}")
            continue
        caption_id, image_id = entry.get("id", position + 1), entry.get("image_id")
        if not is_whole(caption_id):
            bad.add("caption ids that are no whole numbers", repr(caption_id))
        elif caption_id in seen:
            bad.add("duplicate caption ids", caption_id)
        elif not is_whole(image_id) or image_id not in files:
            bad.add("captions of an unknown image", caption_id)
        elif not entry["caption"].strip():
            bad.add("empty captions", f"caption {caption_id}")
        else:
            yield _Caption(caption_id, files[image_id], image_id, entry["caption"])
        if is_whole(caption_id):
            seen.add(caption_id)


def _coco_files(entries: Sequence[Any], bad: Problems) -> dict[int, str]:
    """Image id -> file name."""
    files: dict[int, str] = {}
    taken: set[str] = set()
    for position, entry in enumerate(entries):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not is_whole(entry.get("id")):
            bad.add("images without id or file_name", f"entry {position}")
        elif entry["id"] in files:
            bad.add("duplicate image ids", entry["id"])
        elif name in taken:
            bad.add("file names of two images", name)
        else:
            files[entry["id"]] = name
            taken.add(name)
    return files


def _table(text: str, source: Path, kind: TextKind, bad: Problems) -> tuple[list[_Caption], bool]:
    """The lines of a table, and whether their texts are tags."""
    delimiter = "\t" if source.suffix.lower() in (".tsv", ".tab") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(
            f"{source}, line {reader.line_num}: expected lines of file{delimiter}text, got {error}"
        ) from error
    if not rows:
        raise DataError(f"{source}: expected lines of file{delimiter}text, got an empty file")
    header = [cell.strip().casefold() for cell in rows[0][1]]
    columns = _columns(header)
    if columns is None and all(len(row) < 2 for _, row in rows):
        raise DataError(
            f"{source}: expected lines of file{delimiter}text, got one column in all {len(rows)} lines; "
            "put a comma between them (a tab in a .tsv file)"
        )
    if columns is not None:
        rows = rows[1:]
    file_column, text_column = columns or (0, 1)
    text_is_last = text_column == (len(header) - 1 if columns is not None else 1)
    captions = []
    for line, row in rows:
        # Captions with commas often lack quotes; in the last column the parts can be joined again.
        cells = [*row[:text_column], delimiter.join(row[text_column:])] if text_is_last else row
        if len(cells) <= max(file_column, text_column):
            bad.add("lines without file and text", f"line {line}")
        elif not cells[file_column].strip():
            bad.add("lines without a file name", f"line {line}")
        elif not cells[text_column].strip():
            bad.add("empty captions", f"line {line}")
        else:
            captions.append(_Caption(line, cells[file_column].strip(), None, cells[text_column]))
    if kind == "auto" and columns is not None:
        return captions, header[text_column] in _TAG_COLUMNS
    return captions, kind == "tags" or (kind == "auto" and _look_like_tags([caption.text for caption in captions]))


def _columns(header: Sequence[str]) -> tuple[int, int] | None:
    """Indices of the columns of files and of texts; None where the first line is no header."""
    files = [i for i, name in enumerate(header) if name in _FILE_COLUMNS]
    texts = [i for i, name in enumerate(header) if name in _CAPTION_COLUMNS | _TAG_COLUMNS]
    return (files[0], texts[0]) if files and texts else None


def _look_like_tags(texts: Sequence[str]) -> bool:
    longest = max((len(part.split()) for text in texts for part in text.split(";")), default=0)
    return any(";" in text for text in texts) and longest <= _AUTO_TAG_WORDS
