"""`cora detect`: pictures in, a table, drawn pictures and JSON out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from cora.apps.class_weights import weights_of_names
from cora.apps.competing import tell_distractors
from cora.apps.files import check_writable, find_images, output_names
from cora.apps.model_options import read_distractors, read_names
from cora.apps.open_model import fixed_names, is_exported, open_detector
from cora.apps.progress import error_console, output_console, progress_bar, report, say
from cora.apps.text_options import read_text_options
from cora.apps.tile_options import set_short_side
from cora.detector.exemplars import Exemplars
from cora.detector.inference import score_of
from cora.detector.tiling import Tiles
from cora.errors import ImageError, VocabularyError
from cora.files import write_json, write_picture
from cora.images import read_image
from cora.regions.vocabulary import Vocabulary
from cora.structures import Detections


@dataclass(frozen=True)
class _Found:
    path: Path
    detections: Detections


def detect(
    *,
    sources: Sequence[str],
    classes: str | None,
    model: str,
    score: float | None,
    output: Path,
    json_path: Path | None,
    device: str,
    distractors: str | None = None,
    templates: str | None = None,
    descriptions: Path | None = None,
    fill: float = 0.0,
    tiles: Tiles | None = None,
    short_side: int | None = None,
    exemplars: Exemplars | None = None,
    text_model: str | None = None,
    class_weights: str | None = None,
) -> int:
    """Detect, print and write; everything that can be checked is checked before the first picture is written.

    Args:
        sources: files, folders, patterns.
        classes: names divided by commas, or @FILE; None where there are exemplars, or for those of an exported file.
        model: name or path of a model.
        score: least score shown, 0..1; None for the model's own.
        output: folder of the drawn pictures.
        json_path: where to write all boxes in COCO format, if anywhere.
        device: name of a torch device, or "auto".
        distractors: names of other things that compete with the classes, like `classes`; "none"; None for the model's.
        templates: sentences around a name: name of a set or a file; None for the model's.
        descriptions: JSON file of sentences on what classes look like, if there is one.
        fill: opacity 0..1 of a class's colour inside drawn boxes.
        tiles: overlapping parts of a picture that are looked at, too, for small objects.
        short_side: length in pixels that the shorter side of pictures is resized to; None for the model's.
        exemplars: pictures of classes, by name.
        text_model: name or path of the model whose text tower embeds names for an exported file.
        class_weights: factors on classes in pre-matching, "bus=8,cat=2" or a JSON file.

    Returns:
        Exit code: 0, or 1 if some pictures of several could not be read.

    Raises:
        CoraError: bad input.
    """
    if classes is None and not exemplars and not is_exported(model):
        raise VocabularyError("the following arguments are required: --classes or --exemplar")
    names = () if classes is None else read_names(classes)
    others = read_distractors(distractors)
    options = read_text_options(templates, descriptions, names)
    weights = weights_of_names(class_weights, (*names, *(exemplars or {})))
    found = find_images(sources)
    check_writable(output, folder=True)
    if json_path is not None:
        check_writable(json_path, folder=False)
    detector = open_detector(model, device, text_model=text_model)
    if not names and not exemplars:
        names = fixed_names(detector)
    set_short_side(detector, short_side)
    options.apply(detector.vocabulary_encoder)
    for wanted in filter(None, (names, others)):
        detector.vocabulary_encoder.encode(wanted)  # names that are too long fail here, before any work
    looked_for: Sequence[str] | Vocabulary = names
    if exemplars:
        looked_for = detector.vocabulary(names, distractors=others, exemplars=exemplars)
        names = looked_for.names
    least = score_of(detector, score)
    tell_distractors(detector, names, others)

    results: list[_Found] = []
    failures = len(found.problems)
    is_batch = len(found.paths) + len(found.problems) > 1
    targets = output_names(found.paths, output, ".jpg")
    errors = error_console()
    with progress_bar(errors, hidden=len(found.paths) == 1) as progress:
        for problem in found.problems:
            report(progress.console, problem)
        for path in progress.track(found.paths, description="detecting"):
            try:
                image = read_image(path)
            except ImageError as error:
                if not is_batch:
                    raise
                report(progress.console, str(error))
                failures += 1
                continue
            detections = detector.predict(
                image, looked_for, score=least, distractors=others, tiles=tiles, class_weights=weights
            )
            write_picture(targets[path], detections.draw(image, fill=fill))
            # Thousands of results may be kept; the pictures that they refer to may not.
            results.append(_Found(path, replace(detections, image=None)))
    if json_path is not None:
        write_json(json_path, to_coco(results, names))
    _print(results, failures, score=least, output=output, json_path=json_path)
    return 1 if failures else 0


def to_coco(results: Sequence[_Found], names: Sequence[str]) -> dict[str, Any]:
    """A COCO file of the detections: boxes x, y, width, height in pixels; ids count from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, result in enumerate(results, start=1):
        height, width = result.detections.image_size
        images.append({"id": image_id, "file_name": result.path.as_posix(), "height": height, "width": width})
        for entry in result.detections.to_coco(image_id):
            box = [round(value, 2) for value in entry["bbox"]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    **entry,
                    "bbox": box,
                    "score": round(entry["score"], 5),
                    # Tools that open COCO files as data sets insist on these two.
                    "area": round(box[2] * box[3], 2),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def _print(results: Sequence[_Found], failures: int, *, score: float, output: Path, json_path: Path | None) -> None:
    console = output_console()
    total = sum(len(result.detections) for result in results)
    if total:
        table = Table("file", "class", "score", "box: left, top, right, bottom")
        for words, numbers in ((0, 2), (1, 3)):
            table.columns[words].overflow = "fold"  # a cut path or name would be useless
            table.columns[numbers].justify = "right"
            table.columns[numbers].no_wrap = True
        for result in results:
            for name, value, box in result.detections:
                corners = ", ".join(f"{corner:.0f}" for corner in box)
                # Text, not str: names and paths with brackets are no markup.
                table.add_row(Text(str(result.path)), Text(name), f"{value:.2f}", corners)
        console.print(table)
    if results:
        images = f"{len(results)} image{'s' * (len(results) != 1)}"
        if total:
            summary = f"{total} object{'s' * (total != 1)} in {images}."
        else:
            summary = f"Nothing found in {images} with a score of {score:g} or more; try a lower --score."
        written = f"Pictures are in {output}" + ("." if json_path is None else f", boxes in {json_path}.")
        say(console, f"{summary} {written}")
    if failures:
        report(error_console(), f"{failures} of the sources could not be read", "warning")
