"""`cora detect`: images in, a table, drawn images and JSON out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cora.apps.class_weights import weights_of_names
from cora.apps.competing import tell_distractors
from cora.apps.detected import Found, Places, print_results, write_results
from cora.apps.files import find_images, output_names
from cora.apps.looked_for import tell_names, usual_names, wanted_classes
from cora.apps.model_options import read_distractors
from cora.apps.open_model import open_detector
from cora.apps.text_options import read_text_options
from cora.apps.tile_options import set_short_side
from cora.console import Bars, report
from cora.errors import ImageError
from cora.files import write_picture
from cora.images import is_url, read_image
from cora.predictor import Exemplars, Tiles
from cora.regions import other_prompts


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
    class_agnostic: bool | None = None,
    csv_path: Path | None = None,
    class_weights: str | None = None,
) -> int:
    """Detect, print and write; everything that can be checked is checked before the first image is written.

    Args:
        sources: files, folders, patterns.
        classes: names, with prompts or without, divided by commas, or @FILE; None for those of the exemplars, the
            model's own or the built-in ones.
        model: name or path of a model.
        score: least score shown, 0..1; None for the model's own.
        output: folder of the drawn images.
        json_path: where to write all boxes in COCO format, if anywhere.
        device: name of a torch device, or "auto".
        distractors: names of other things that compete with the classes, like `classes`; "none"; None for the model's.
        templates: sentences around a name: name of a set or a file; None for the model's.
        descriptions: JSON file of sentences on what classes look like, if there is one.
        fill: opacity 0..1 of a class's colour inside drawn boxes.
        tiles: overlapping parts of an image that are looked at, too, for small objects.
        short_side: length in pixels that the shorter side of images is resized to; None for the model's.
        exemplars: images of classes, by name.
        csv_path: where to write a row for every box, if anywhere.
        text_model: name or path of the model whose text tower embeds names for an exported file.
        class_agnostic: suppress between classes, too; None for the built-in vocabulary only.
        class_weights: factors on classes in pre-matching, "bus=8,cat=2" or a JSON file.

    Returns:
        Exit code: 0, or 1 if some images of several could not be read.

    Raises:
        CoraError: bad input.
    """
    chosen = wanted_classes(classes, exemplars)
    named = usual_names(model) if chosen is None else tuple(chosen)
    others = read_distractors(distractors)
    options = read_text_options(templates, descriptions, named)
    weights = weights_of_names(class_weights, (*named, *(exemplars or {})))
    urls = [source for source in sources if is_url(source)]
    found = find_images([source for source in sources if not is_url(source)], beside=len(urls))
    images: list[Path | str] = [*found.paths, *dict.fromkeys(urls)]
    detector = open_detector(model, device, text_model=text_model)
    set_short_side(detector, short_side)
    options.apply(detector.vocabulary_encoder)
    # Names that are too long fail here, before any work.
    looked_for = detector.vocabulary(chosen, distractors=others, exemplars=exemplars, class_weights=weights)
    names = looked_for.names
    least = detector.score_of(score, built_in=looked_for.built_in)
    tell_names(detector, looked_for, classes=chosen, score=least, class_agnostic=class_agnostic)
    tell_distractors(detector, (*names, *other_prompts(chosen or {})), others)

    places = Places(images=output, json=json_path, csv=csv_path)
    results: list[Found] = []
    failures = len(found.problems)
    is_batch = len(images) + len(found.problems) > 1
    targets = output_names(images, output, ".jpg")
    try:
        with Bars(hidden=len(images) == 1) as progress:
            for problem in found.problems:
                report(progress.console, problem)
            for source in progress.track(images, "detecting"):
                try:
                    image = read_image(source, allow_url=True)
                except ImageError as error:
                    if not is_batch:
                        raise
                    report(progress.console, str(error))
                    failures += 1
                    continue
                detections = detector.predict(
                    image,
                    looked_for,
                    score=least,
                    tiles=tiles,
                    class_agnostic=class_agnostic,
                )
                write_picture(targets[source], detections.draw(image, fill=fill))
                # Thousands of results may be kept; the images that they refer to may not.
                results.append(Found(source, replace(detections, image=None)))
    except KeyboardInterrupt:
        done = f"after {len(results) + failures} of {len(images)} images"
        if not results:
            raise KeyboardInterrupt(done) from None
        written = write_results(results, names, places)
        raise KeyboardInterrupt(f"{done}; what was found is in {' and '.join(map(str, written))}") from None
    write_results(results, names, places)
    print_results(results, failures, score=least, places=places)
    return 1 if failures else 0
