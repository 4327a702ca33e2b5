"""Writes labels in the formats that other tools read, image after image, so that memory stays small.

A writer's files get their names when all images are done. YOLO and VOC have a file for each image: each of these is
whole or missing, and `data.yaml` is written last.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self
from xml.etree import ElementTree

from cora.batch.items import Item
from cora.batch.records import NONE, Box
from cora.batch.result_folder import ResultFolder
from cora.batch.settings import Format
from cora.errors import needs_extra

_DIGITS = 2


class Writer(ABC):
    """Writes the labels of one image after the other; the end of its context drops what is not finished.

    Args:
        folder: folder of the results.
        classes: class names, in the order of their indices.

    Attributes:
        photo_folder: folder for linked or copied images, below that of the results.
    """

    photo_folder = "images"

    def __init__(self, *, folder: ResultFolder, classes: Sequence[str]) -> None:
        self._folder, self._classes = folder, tuple(classes)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @abstractmethod
    def add(self, item: Item, file_name: str, size: tuple[int, int], boxes: Sequence[Box]) -> None:
        """Write the labels of one image.

        Args:
            item: the image.
            file_name: path of the image in the annotations.
            size: (height, width) in pixels.
            boxes: its labels, best first; may be empty.
        """

    @abstractmethod
    def finish(self) -> list[Path]:
        """Complete the files and give them their names; returns the paths to report."""


def open_writer(format: Format, folder: ResultFolder, classes: Sequence[str]) -> Writer:
    """Open the writer of a format.

    Args:
        format: name of the format.
        folder: folder of the results.
        classes: class names, in the order of their indices.

    Raises:
        MissingExtraError: the format is Parquet and pyarrow is not installed.
    """
    kinds: dict[Format, type[Writer]] = {
        "coco": CocoWriter,
        "parquet": ParquetWriter,
        "voc": VocWriter,
        "yolo": YoloWriter,
    }
    return kinds[format](folder=folder, classes=classes)


def load_pyarrow() -> Any:
    """The package pyarrow, with `pyarrow.parquet`.

    Raises:
        MissingExtraError: it is not installed.
    """
    with needs_extra("the format parquet", extra="batch"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


class CocoWriter(Writer):
    """`annotations.json`: image ids are the numbers of the images, category ids 1, 2, ... follow the names."""

    def __init__(self, *, folder: ResultFolder, classes: Sequence[str]) -> None:
        super().__init__(folder=folder, classes=classes)
        # Files without names, of which a process that is killed leaves nothing.
        self._images, self._annotations = (
            self._open.enter_context(tempfile.TemporaryFile("w+", dir=folder.parts, encoding="utf-8"))  # noqa: SIM115
            for _ in range(2)
        )
        self._pictures = self._boxes = 0

    def add(self, item: Item, file_name: str, size: tuple[int, int], boxes: Sequence[Box]) -> None:
        """Append the image's entry and one annotation for each box, to temporary files."""
        image = {"id": item.number, "file_name": file_name, "height": size[0], "width": size[1]}
        self._images.write((",\n" if self._pictures else "") + json.dumps(image))
        self._pictures += 1
        for box in boxes:
            width, height = round(box.right - box.left, _DIGITS), round(box.bottom - box.top, _DIGITS)
            annotation = {
                "id": self._boxes + 1,
                "image_id": item.number,
                "category_id": box.label + 1,
                "bbox": [box.left, box.top, width, height],
                "area": round(width * height, _DIGITS),
                "iscrowd": 0,
                "score": box.score,
            }
            self._annotations.write((",\n" if self._boxes else "") + json.dumps(annotation))
            self._boxes += 1

    def finish(self) -> list[Path]:
        """Join images, categories and annotations in `annotations.json`."""
        categories = [{"id": number, "name": name} for number, name in enumerate(self._classes, start=1)]

        def join(path: Path) -> None:
            with path.open("w", encoding="utf-8") as file:
                file.write('{"images": [\n')
                _append(file, self._images)
                file.write(f'\n],\n"categories": {json.dumps(categories)},\n"annotations": [\n')
                _append(file, self._annotations)
                file.write("\n]}\n")

        return [self._folder.write("annotations.json", join)]


def _append(file: IO[str], other: IO[str]) -> None:
    other.seek(0)
    shutil.copyfileobj(other, file)


class YoloWriter(Writer):
    """`labels/NAME.txt` for every image, `class cx cy w h` in fractions of it, and `data.yaml` with the names."""

    def add(self, item: Item, file_name: str, size: tuple[int, int], boxes: Sequence[Box]) -> None:
        """Write the label file of one image, empty where it has no box."""
        height, width = size
        lines = [
            f"{box.label} {(box.left + box.right) / 2 / width:.7f} {(box.top + box.bottom) / 2 / height:.7f} "
            f"{(box.right - box.left) / width:.7f} {(box.bottom - box.top) / height:.7f}\n"
            for box in boxes
        ]
        self._folder.write_text(f"labels/{item.stem}.txt", "".join(lines))

    def finish(self) -> list[Path]:
        """Write `data.yaml`."""
        # A string of JSON is one of YAML, so any name is quoted correctly.
        names = "".join(
            f"  {label}: {json.dumps(name, ensure_ascii=False)}\n" for label, name in enumerate(self._classes)
        )
        text = f"train: images\nval: images\nnc: {len(self._classes)}\nnames:\n{names}"
        return [self._folder.path / "labels", self._folder.write_text("data.yaml", text)]


class VocWriter(Writer):
    """`Annotations/NAME.xml` for every image, folders of the name written as `__`; whole pixels from 1."""

    photo_folder = "JPEGImages"

    def add(self, item: Item, file_name: str, size: tuple[int, int], boxes: Sequence[Box]) -> None:
        """Write the XML file of one image."""
        height, width = size
        root = ElementTree.Element("annotation")
        _element(root, "folder", self.photo_folder)
        _element(root, "filename", file_name)
        of_size = _element(root, "size")
        for side, value in (("width", width), ("height", height), ("depth", 3)):
            _element(of_size, side, value)
        _element(root, "segmented", 0)
        for box in boxes:
            left, top = min(round(box.left), width - 1), min(round(box.top), height - 1)
            right, bottom = max(round(box.right), left + 1), max(round(box.bottom), top + 1)
            entry = _element(root, "object")
            _element(entry, "name", self._classes[box.label])
            _element(entry, "pose", "Unspecified")
            _element(entry, "truncated", 0)
            _element(entry, "difficult", 0)
            _element(entry, "score", box.score)
            corners = _element(entry, "bndbox")
            for side, place in (("xmin", left + 1), ("ymin", top + 1), ("xmax", right), ("ymax", bottom)):
                _element(corners, side, place)
        ElementTree.indent(root)
        text = ElementTree.tostring(root, encoding="unicode")
        self._folder.write_text(f"Annotations/{item.flat_stem}.xml", text + "\n")

    def finish(self) -> list[Path]:
        """Make sure that the folder `Annotations` exists even if no image could be read."""
        place = self._folder.path / "Annotations"
        place.mkdir(exist_ok=True)
        return [place]


def _element(parent: ElementTree.Element, name: str, text: object = None) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, name)
    if text is not None:
        element.text = str(text)
    return element


class ParquetWriter(Writer):
    """`images.parquet`, a row for each image, and `boxes.parquet`, a row for each box; `image_id` joins them."""

    #: Rows that are written together.
    _ROWS = 65536

    def __init__(self, *, folder: ResultFolder, classes: Sequence[str]) -> None:
        super().__init__(folder=folder, classes=classes)
        pyarrow = load_pyarrow()
        self._arrow = pyarrow
        whole, number, text = pyarrow.int64(), pyarrow.float32(), pyarrow.string()
        name = pyarrow.dictionary(pyarrow.int32(), text)
        size = {"height": whole, "width": whole, "boxes": whole}
        corners = dict.fromkeys(("left", "top", "right", "bottom"), number)
        other = {"other_class": name, "other_score": number}
        columns = {
            "images": {"image_id": whole, "file_name": text, **size},
            "boxes": {
                **{"image_id": whole, "file_name": text, "class_id": whole, "class": name, "score": number},
                **corners,
                **other,
            },
        }
        self._schemas = {table: pyarrow.schema(list(fields.items())) for table, fields in columns.items()}
        self._rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in columns}
        self._files = {
            table: self._open.enter_context(pyarrow.parquet.ParquetWriter(self._part(table), schema))
            for table, schema in self._schemas.items()
        }

    def add(self, item: Item, file_name: str, size: tuple[int, int], boxes: Sequence[Box]) -> None:
        """Add rows to both tables; full groups of rows are written."""
        self._rows["images"].append((item.number, file_name, *size, len(boxes)))
        for box in boxes:
            other = (None, None) if box.other == NONE else (self._classes[box.other], box.other_score)
            names = (box.label, self._classes[box.label])
            self._rows["boxes"].append((item.number, file_name, *names, box.score, *box.corners, *other))
        for table, rows in self._rows.items():
            if len(rows) >= self._ROWS:
                self._flush(table)

    def finish(self) -> list[Path]:
        """Write what is left, and give both files their names."""
        for table in self._files:
            self._flush(table)
        self._open.close()
        for table in self._files:
            self._part(table).replace(self._folder.path / f"{table}.parquet")
        return [self._folder.path / f"{table}.parquet" for table in self._files]

    def _flush(self, table: str) -> None:
        schema, rows = self._schemas[table], self._rows[table]
        columns = zip(*rows, strict=True) if rows else [()] * len(schema)
        arrays = [self._arrow.array(list(c), type=field.type) for c, field in zip(columns, schema, strict=True)]
        self._files[table].write_table(self._arrow.Table.from_arrays(arrays, schema=schema))
        rows.clear()

    def _part(self, table: str) -> Path:
        return self._folder.parts / f"{table}.parquet.new"
