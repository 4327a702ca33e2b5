"""Small sets of annotated images, written as COCO, Pascal VOC and YOLO; and random ones for hypothesis."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from hypothesis import strategies as st
from PIL import Image

from cora.data.coco import CocoDataset

NAMES = ("cat", "dog", "traffic light")

Box = tuple[str, float, float, float, float, bool]


@dataclass
class Photo:
    """(height, width) and boxes (class, x0, y0, x1, y1, crowd) in continuous pixels."""

    name: str
    size: tuple[int, int]
    boxes: list[Box] = field(default_factory=list)


def two_photos() -> list[Photo]:
    return [
        Photo("a.png", (20, 40), [("cat", 10, 5, 30, 15, False), ("dog", 0, 0, 4, 4, False)]),
        Photo("b.png", (30, 30), [("dog", 0, 0, 30, 15, False)]),
    ]


@st.composite
def random_photos(draw: st.DrawFn, *, crowds: bool) -> list[Photo]:
    photos = []
    for number in range(draw(st.integers(1, 3))):
        height, width = draw(st.integers(2, 300)), draw(st.integers(2, 300))
        boxes: list[Box] = []
        for _ in range(draw(st.integers(0 if photos else 1, 3))):
            x0, y0 = draw(st.floats(0, width - 1)), draw(st.floats(0, height - 1))
            x1, y1 = draw(st.floats(x0 + 1, width)), draw(st.floats(y0 + 1, height))
            crowd = crowds and bool(boxes or photos) and draw(st.booleans())
            box = (draw(st.sampled_from(NAMES)), x0, y0, x1, y1, crowd)
            # The same box twice is one for every reader.
            if all(max(abs(a - b) for a, b in zip(box[1:5], other[1:5], strict=True)) > 0.1 for other in boxes):
                boxes.append(box)
        photos.append(Photo(f"{number}.png", (height, width), boxes))
    return photos


def write_photos(folder: Path, photos: list[Photo]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        (folder / photo.name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("1", photo.size[::-1]).save(folder / photo.name)
    return folder


def coco_content(photos: list[Photo]) -> dict[str, Any]:
    annotations = [
        {
            "image_id": 100 + number,
            "category_id": 7 * (NAMES.index(name) + 1),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": int(crowd),
        }
        for number, photo in enumerate(photos)
        for name, x0, y0, x1, y1, crowd in photo.boxes
    ]
    return {
        "images": [
            {"id": 100 + number, "file_name": photo.name, "height": photo.size[0], "width": photo.size[1]}
            for number, photo in enumerate(photos)
        ],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)],
        "categories": [{"id": 7 * number, "name": name} for number, name in enumerate(NAMES, start=1)],
    }


def write_coco(root: Path, photos: list[Photo], content: dict[str, Any] | None = None) -> tuple[Path, Path]:
    path = root / "annotations.json"
    folder = write_photos(root / "images", photos)
    path.write_text(json.dumps(coco_content(photos) if content is None else content))
    return folder, path


def voc_xml(photo: Photo) -> str:
    objects = "".join(
        f"<object><name>{escape(name)}</name><difficult>{int(crowd)}</difficult>"
        f"<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        f"<bndbox><xmin>{x0 + 1!r}</xmin><ymin>{y0 + 1!r}</ymin><xmax>{x1!r}</xmax><ymax>{y1!r}</ymax></bndbox>"
        "</object>"
        for name, x0, y0, x1, y1, crowd in photo.boxes
    )
    height, width = photo.size
    return (
        f"<annotation><filename>{photo.name}</filename><size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{objects}</annotation>"
    )


def write_voc(root: Path, photos: list[Photo]) -> tuple[Path, Path]:
    folder = write_photos(root / "JPEGImages", photos)
    (root / "Annotations").mkdir()
    for photo in photos:
        (root / "Annotations" / f"{Path(photo.name).stem}.xml").write_text(voc_xml(photo))
    return folder, root / "Annotations"


def write_yolo(root: Path, photos: list[Photo], *, part: str = "") -> tuple[Path, Path]:
    folder = write_photos(root / "images" / part, photos)
    for photo in photos:
        height, width = photo.size
        lines = [
            f"{NAMES.index(name)} {(x0 + x1) / 2 / width:.8f} {(y0 + y1) / 2 / height:.8f} "
            f"{(x1 - x0) / width:.8f} {(y1 - y0) / height:.8f}\n"
            for name, x0, y0, x1, y1, _ in photo.boxes
        ]
        label = (root / "labels" / part / photo.name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("".join(lines))
    path = root / "data.yaml"
    path.write_text(f"train: images/train\nnc: {len(NAMES)}\nnames: {json.dumps(NAMES)}\n")
    return folder, path


def boxes_of(dataset: CocoDataset) -> dict[str, list[Box]]:
    """File name -> boxes, in the order of the dataset, crowds last."""
    answer: dict[str, list[Box]] = {}
    for record in dataset.records:
        answer[record.path.relative_to(dataset.images).as_posix()] = [
            (dataset.class_names[label], *box, crowd)
            for crowd, boxes, labels in (
                (False, record.boxes_xyxy_px, record.classes),
                (True, record.crowd_boxes_xyxy_px, record.crowd_classes),
            )
            for box, label in zip(boxes.tolist(), labels.tolist(), strict=True)
        ]
    return answer


def same_boxes(dataset: CocoDataset, photos: list[Photo], *, tolerance: float = 1e-3) -> None:
    """Assert that the dataset has these images, sizes and boxes."""
    found = boxes_of(dataset)
    assert list(found) == [photo.name for photo in photos]
    for record, photo in zip(dataset.records, photos, strict=True):
        assert record.size == photo.size
        expected = sorted(photo.boxes, key=lambda box: box[5])
        assert [(box[0], box[5]) for box in found[photo.name]] == [(box[0], box[5]) for box in expected]
        for box, other in zip(found[photo.name], expected, strict=True):
            assert max(abs(a - b) for a, b in zip(box[1:5], other[1:5], strict=True)) < tolerance
