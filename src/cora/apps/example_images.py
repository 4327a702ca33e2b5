"""Example images of an evaluation, drawn: what it found, what it missed, what it took for something else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cora.data.coco import CocoDataset
from cora.draw import class_colours, draw_boxes
from cora.draw.sheet import contact_sheet
from cora.evaluation.coco_ap import BoxEvaluation
from cora.evaluation.examples import Example, choose_examples
from cora.evaluation.report import PICTURE_SIDE
from cora.evaluation.tide import Errors, find_errors
from cora.files import write_picture
from cora.images import read_image

#: Kind of a `Example` -> file of its sheet.
SHEETS = {"best": "found.jpg", "missed": "missed.jpg", "confused": "confused.jpg"}
_EACH, _COLUMNS, _CELL_PX = 6, 2, 480
#: Height of the letters on the images.
_LETTERS_PX = 17


def draw_example(
    errors: Errors, example: Example, dataset: CocoDataset, ids: Sequence[int], names: Sequence[str]
) -> tuple[Path, Image.Image]:
    """Draw the boxes of an example on its image, shrunk to the size that a report shows.

    Args:
        errors: of the evaluation that the example was chosen from.
        example: the image and the boxes to draw.
        dataset: that has the image.
        ids: of the images of the evaluation, in order.
        names: of the classes.

    Returns:
        The path of the image, and the drawing.
    """
    found, truth = errors.matched.found, errors.matched.truth
    record = next(record for record in dataset.records if record.image_id == ids[example.image])
    boxes: list[Sequence[float]] = []
    labels, classes_drawn = [], []
    for place in example.found.tolist():
        boxes.append(found.xywh[place].tolist())
        name = names[found.label[place]]
        classes_drawn.append(name)
        target = errors.target[place]
        labels.append(name if target < 0 else f"{name} (is {names[truth.label[target]]})")
    for place in example.missed.tolist():
        boxes.append(truth.xywh[place].tolist())
        classes_drawn.append(names[truth.label[place]])
        labels.append(f"missed: {classes_drawn[-1]}")
    image = read_image(record.path)
    width = image.width
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))  # before drawing, so that letters keep their size
    corners = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes]).reshape(-1, 4) * (image.width / width)
    colours = class_colours(names)
    drawn = draw_boxes(
        image, corners, labels, colours=[colours[name] for name in classes_drawn], letters_px=_LETTERS_PX
    )
    return record.path, drawn


def write_sheets(folder: Path, evaluation: BoxEvaluation, dataset: CocoDataset) -> list[Path]:
    """Write a sheet of images for every kind that there is, and remove those of an earlier run; gives the files."""
    errors, names = find_errors(evaluation.matched), dataset.class_names
    ids = sorted(record.image_id for record in dataset.records)
    chosen = choose_examples(errors, names, each=_EACH)
    written = []
    for kind, name in SHEETS.items():
        examples = [example for example in chosen if example.kind == kind]
        if not examples:
            (folder / name).unlink(missing_ok=True)
            continue
        drawn = [draw_example(errors, example, dataset, ids, names) for example in examples]
        captions = [f"{path.name}\n{example.caption}" for (path, _), example in zip(drawn, examples, strict=True)]
        columns = min(_COLUMNS, len(drawn))
        sheet = contact_sheet((image for _, image in drawn), captions, columns=columns, cell_px=_CELL_PX)
        write_picture(folder / name, sheet)
        written.append(folder / name)
    return written
