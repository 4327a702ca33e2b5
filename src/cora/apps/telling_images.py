"""Images that tell most of a model, drawn: what it found, what it missed, what it took for something else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cora.data.coco import CocoDataset
from cora.draw import draw_boxes
from cora.draw.sheet import contact_sheet
from cora.evaluation.coco_ap import BoxEvaluation
from cora.evaluation.telling import Telling, choose_pictures
from cora.evaluation.tide import Errors, find_errors
from cora.files import write_picture
from cora.images import read_image

#: Kind of a `Telling` -> file of its sheet.
SHEETS = {"best": "found.jpg", "missed": "missed.jpg", "confused": "confused.jpg"}
_EACH, _COLUMNS, _CELL_PX = 6, 2, 480


def draw_telling(
    errors: Errors, telling: Telling, dataset: CocoDataset, ids: Sequence[int], names: Sequence[str]
) -> tuple[Path, Image.Image]:
    """An image with its boxes, and where it lies.

    Args:
        errors: of the evaluation that `telling` was chosen from.
        telling: the image and the boxes to draw.
        dataset: that has the image.
        ids: of the images of the evaluation, in order.
        names: of the classes.
    """
    found, truth = errors.matched.found, errors.matched.truth
    record = next(record for record in dataset.records if record.image_id == ids[telling.image])
    boxes: list[Sequence[float]] = []
    labels = []
    for place in telling.found.tolist():
        boxes.append(found.xywh[place].tolist())
        name = names[found.label[place]]
        target = errors.target[place]
        labels.append(name if target < 0 else f"{name}, is {names[truth.label[target]]}")
    for place in telling.missed.tolist():
        boxes.append(truth.xywh[place].tolist())
        labels.append(f"missed: {names[truth.label[place]]}")
    corners = [(x, y, x + w, y + h) for x, y, w, h in boxes]
    return record.path, draw_boxes(read_image(record.path), corners, labels)


def write_sheets(folder: Path, evaluation: BoxEvaluation, dataset: CocoDataset) -> list[Path]:
    """Write a sheet of images for every kind that there is, and remove those of an earlier run; gives the files."""
    errors, names = find_errors(evaluation.matched), dataset.class_names
    ids = sorted(record.image_id for record in dataset.records)
    chosen = choose_pictures(errors, names, each=_EACH)
    written = []
    for kind, name in SHEETS.items():
        tellings = [telling for telling in chosen if telling.kind == kind]
        if not tellings:
            (folder / name).unlink(missing_ok=True)
            continue
        drawn = [draw_telling(errors, telling, dataset, ids, names) for telling in tellings]
        captions = [f"{path.name}\n{telling.caption}" for (path, _), telling in zip(drawn, tellings, strict=True)]
        columns = min(_COLUMNS, len(drawn))
        sheet = contact_sheet((image for _, image in drawn), captions, columns=columns, cell_px=_CELL_PX)
        write_picture(folder / name, sheet)
        written.append(folder / name)
    return written
