"""Draws example images of an evaluation: objects that were found, missed, or taken for something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cora.data.coco import CocoDataset
from cora.draw import Colour, colours_together, draw_boxes
from cora.draw.sheet import contact_sheet
from cora.evaluation.coco_ap import BoxEvaluation
from cora.evaluation.examples import Example, choose_examples
from cora.evaluation.report import PICTURE_SIDE
from cora.evaluation.tide import Errors, find_errors
from cora.files import write_picture
from cora.images import read_image

#: Kind of an `Example` -> file name of the contact sheet of this kind.
SHEETS = {"best": "found.jpg", "missed": "missed.jpg", "confused": "confused.jpg"}
_EACH, _COLUMNS, _CELL_PX = 6, 2, 480
#: Height of the letters in the captions of boxes.
_LETTERS_PX = 17


def example_colours(errors: Errors, examples: Sequence[Example], names: Sequence[str]) -> dict[str, Colour]:
    """Class name -> colour of all classes that the examples show; colours on one image differ clearly."""
    return colours_together(_classes(errors, example, names) for example in examples)


def draw_example(
    errors: Errors,
    example: Example,
    dataset: CocoDataset,
    ids: Sequence[int],
    names: Sequence[str],
    colours: Mapping[str, Colour],
) -> tuple[Path, Image.Image]:
    """Draw the boxes of an example on its image, shrunk to the size that a report shows.

    Args:
        errors: errors of the evaluation that the example was chosen from.
        example: the image and the boxes to draw.
        dataset: dataset with the image.
        ids: ids of the images of the evaluation, in its order.
        names: class names.
        colours: colours of `example_colours`.

    Returns:
        The path of the image, and the drawing.
    """
    found, truth = errors.matched.found, errors.matched.truth
    record = next(record for record in dataset.records if record.image_id == ids[example.image])
    boxes: list[Sequence[float]] = []
    labels, classes_drawn = [], _classes(errors, example, names)
    for place, name in zip(example.found.tolist(), classes_drawn, strict=False):
        boxes.append(found.xywh[place].tolist())
        target = errors.target[place]
        labels.append(name if target < 0 else f"{name} (is {names[truth.label[target]]})")
    for place in example.missed.tolist():
        boxes.append(truth.xywh[place].tolist())
        labels.append(f"missed: {names[truth.label[place]]}")
    image = read_image(record.path)
    width = image.width
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))  # before drawing, so that letters keep their size
    corners = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes]).reshape(-1, 4) * (image.width / width)
    drawn = draw_boxes(
        image, corners, labels, colours=[colours[name] for name in classes_drawn], letters_px=_LETTERS_PX
    )
    return record.path, drawn


def _classes(errors: Errors, example: Example, names: Sequence[str]) -> list[str]:
    """The class name of every box of an example: of the detections, then of the missed ground truth."""
    found, truth = errors.matched.found, errors.matched.truth
    return [names[found.label[place]] for place in example.found.tolist()] + [
        names[truth.label[place]] for place in example.missed.tolist()
    ]


def write_sheets(folder: Path, evaluation: BoxEvaluation, dataset: CocoDataset) -> list[Path]:
    """Write a contact sheet for every kind of example and return the files.

    The sheet of an earlier run is removed where there is no example of its kind.
    """
    errors, names = find_errors(evaluation.matched), dataset.class_names
    ids = sorted(record.image_id for record in dataset.records)
    chosen = choose_examples(errors, names, each=_EACH)
    colours = example_colours(errors, chosen, names)
    written = []
    for kind, name in SHEETS.items():
        examples = [example for example in chosen if example.kind == kind]
        if not examples:
            (folder / name).unlink(missing_ok=True)
            continue
        drawn = [draw_example(errors, example, dataset, ids, names, colours) for example in examples]
        captions = [f"{path.name}\n{example.caption}" for (path, _), example in zip(drawn, examples, strict=True)]
        columns = min(_COLUMNS, len(drawn))
        sheet = contact_sheet((image for _, image in drawn), captions, columns=columns, cell_px=_CELL_PX)
        write_picture(folder / name, sheet)
        written.append(folder / name)
    return written
