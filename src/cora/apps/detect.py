"""`cora detect`: images in, a table, drawn images and JSON out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cora.apps import kinds
from cora.apps.argument_types import score as score_type
from cora.apps.command import Command
from cora.apps.model_options import (
    NamesOptions,
    TileOptions,
    class_agnostic_option,
    device_option,
    model_option,
    score_option,
    text_model_option,
)
from cora.apps.options import argument, group, option
from cora.errors import CoraError, ImageError
from cora.files import write_json, write_picture, write_text

if TYPE_CHECKING:
    from PIL import Image

    from cora.predictor.results import Found


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """Options of `cora detect`."""

    sources: Sequence[str] = argument(
        nargs="+", metavar="SOURCE", help="image, folder (the images in it), URL or glob pattern"
    )
    names: NamesOptions = group(NamesOptions, where="images")
    model: str = model_option()
    text_model: str | None = text_model_option()
    score: float | None = score_option("that is shown")
    class_agnostic: bool | None = class_agnostic_option(names_given=False)
    output: Path = option(
        default=Path("cora-output"),
        writes=kinds.DRAWN,
        metavar="DIR",
        help="folder of the drawn images (default: %(default)s)",
    )
    fill: float = option(
        type=score_type,
        default=0.0,
        metavar="SHARE",
        help="opacity of the class's colour inside drawn boxes, 0 to 1 (default: %(default)g)",
    )
    tiling: TileOptions = group(TileOptions)
    json: Path | None = option(writes=kinds.DETECTIONS, help="also write all boxes in COCO format")
    csv: Path | None = option(writes=kinds.DETECTION_TABLE, help="also write a row for every box")
    device: str = device_option()


def run(options: DetectOptions) -> int:
    """Detect, print and write; everything that can be checked is checked before the first image is written.

    Returns:
        Exit code: 0, or 1 if some images of several could not be read.

    Raises:
        CoraError: bad input.
    """
    from contextlib import suppress

    from PIL import Image

    from cora.apps.open_model import open_detector, read_wanted, tell_wanted
    from cora.console import Bars, report
    from cora.data.sources import find_images, output_names
    from cora.images import is_url
    from cora.predictor.adapt import set_short_side
    from cora.predictor.images import read_or_error
    from cora.predictor.results import Found

    tiles, wanted = options.tiling.read(), read_wanted(options.names, options.model)
    urls = [source for source in options.sources if is_url(source)]
    found = find_images([source for source in options.sources if not is_url(source)], beside=len(urls))
    images: list[Path | str] = [*found.paths, *dict.fromkeys(urls)]
    detector = open_detector(options.model, options.device, text_model=options.text_model)
    set_short_side(detector, options.tiling.short_side)
    wanted.sentences.apply(detector.vocabulary_encoder)
    # Names that are too long fail here, before any work.
    looked_for = detector.vocabulary(
        wanted.classes, distractors=wanted.distractors, exemplars=wanted.exemplars, class_weights=wanted.class_weights
    )
    names, agnostic = looked_for.names, options.class_agnostic
    least = detector.score_of(options.score, built_in=looked_for.built_in)

    results: list[Found] = []
    failures = len(found.problems)
    is_single = len(images) + len(found.problems) <= 1
    targets = output_names(images, options.output, ".jpg")
    try:
        first = _first_readable(images)
        if is_single and isinstance(error := first[images[0]], ImageError):
            raise error
        if any(isinstance(one, Image.Image) for one in first.values()):
            tell_wanted(detector, looked_for, wanted, score=least, class_agnostic=agnostic)
        with Bars(hidden=len(images) == 1) as progress:
            for problem in found.problems:
                report(progress.console, problem)
            for source in progress.track(images, "detecting"):
                image = first.pop(source) if source in first else read_or_error(source)
                if isinstance(image, ImageError):
                    report(progress.console, str(image))
                    failures += 1
                    continue
                detections = detector.predict(image, looked_for, score=least, tiles=tiles, class_agnostic=agnostic)
                write_picture(targets[source], detections.draw(image, fill=options.fill))
                # Thousands of results may be kept; the images that they refer to may not.
                results.append(Found(source, replace(detections, image=None)))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_keep(results, failures, len(images), names, options)) from None
    except CoraError as error:
        if not results:
            raise
        # A disk without room for one more drawn image may have some for what was found.
        with suppress(CoraError):
            error = CoraError(f"{error} ({_keep(results, failures, len(images), names, options)})")
        raise error from None
    _write(results, names, options)
    _print(results, failures, least, options)
    return 1 if failures else 0


def _first_readable(images: Sequence[Path | str]) -> dict[Path | str, Image.Image | ImageError]:
    """The first image that can be read, with the errors of those before it; nothing is announced without an image."""
    from cora.predictor.images import read_or_error

    read: dict[Path | str, Image.Image | ImageError] = {}
    for source in images:
        read[source] = read_or_error(source)
        if not isinstance(read[source], ImageError):
            break
    return read


def _keep(results: Sequence[Found], failures: int, count: int, names: Sequence[str], options: DetectOptions) -> str:
    """Write what was found before an interruption, if anything; returns the end of a message that says so."""
    done = f"after {len(results) + failures} of {count} images"
    if not results:
        return done
    return f"{done}; what was found is in {' and '.join(map(str, _write(results, names, options)))}"


def _write(results: Sequence[Found], names: Sequence[str], options: DetectOptions) -> list[Path]:
    """Write the JSON and CSV files; returns all paths that hold results, the folder of drawn images included."""
    from cora.predictor.results import to_coco, to_csv

    if options.json is not None:
        write_json(options.json, to_coco(results, names, made_by=kinds.DETECT_MARK))
    if options.csv is not None:
        write_text(options.csv, to_csv(results))
    return [place for place in (options.output, options.json, options.csv) if place is not None]


def _print(results: Sequence[Found], failures: int, score: float, options: DetectOptions) -> None:
    """Print a table and a summary; `score` is the score threshold."""
    from cora.console import counted, error_console, output_console, report, say
    from cora.predictor.results import results_table

    console = output_console()
    total = sum(len(result.detections) for result in results)
    if total:
        console.print(results_table(results))
    if results:
        images = counted(len(results), "image")
        if total:
            summary = f"{counted(total, 'object')} in {images}."
        else:
            summary = f"Nothing found in {images} with a score of {score:g} or more; try a lower --score."
        files = [f"boxes in {path}" for path in (options.json, options.csv) if path is not None]
        say(console, f"{summary} {', '.join([f'Images are in {options.output}', *files])}.")
    if failures:
        report(error_console(), f"{failures} of the sources could not be read", "warning")


COMMAND = Command(
    name="detect",
    options=DetectOptions,
    run=run,
    help="find named objects in images",
    description="Find named objects in images: prints a table (of many images, by class) and draws the boxes.",
    epilog="Exit code: 0 done, even with nothing found; 1 some images of a batch failed; 2 bad input.",
)
