"""`cora pseudo-label`: finds boxes in images that have only captions, tags or a class list (CORA+)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cora.apps import kinds
from cora.apps.argument_types import positive, score
from cora.apps.command import Command, check_output, sources_of
from cora.apps.model_options import class_agnostic_option, device_option, model_option
from cora.apps.options import OneOf, argument, option, switch
from cora.errors import CoraError, DataError
from cora.files import write_json
from cora.names import name_key

if TYPE_CHECKING:
    from rich.table import Table

    from cora.data.captions import NamedPhoto
    from cora.training.mix_annotations import MixConfig, Mixed
    from cora.training.pseudo_boxes import BoxTeacher, PseudoBoxConfig, PseudoReport

_TOP = 20
_NAMES = OneOf(required=True)


@dataclass(frozen=True, kw_only=True)
class PseudoLabelOptions:
    """Options of `cora pseudo-label`."""

    images: Path = argument(metavar="IMAGES", help="folder of the images")
    captions: Path | None = option(
        one_of=_NAMES,
        help="COCO captions (JSON), or a table of file,text or file,tag;tag (CSV, TSV): each image is searched for the "
        "nouns of its own captions",
    )
    classes: str | None = option(
        one_of=_NAMES, metavar="NAMES", help='search all images for "cat, remote control", or @FILE'
    )
    results: Path | None = option(
        one_of=_NAMES, help="take the boxes of another detector: COCO results or scored COCO file"
    )
    output: Path = option(required=True, writes=kinds.PSEUDO, metavar="FILE.json", help="annotation file to write")
    model: str = model_option("name or path of the detector that labels")
    device: str = device_option()
    score: float = option(type=score, default=0.5, help="least score of a box, 0 to 1 (default: %(default)s)")
    class_scores: str | None = option(
        metavar="LIST",
        help='least scores of some names: "cup=0.3,dog=0.2", or a file of such (lines, or JSON {"cup": 0.3})',
    )
    real: Path | None = option(
        metavar="ANNOTATIONS", help="annotations of images in IMAGES: no pseudo box overlaps a real one, ids agree"
    )
    merge: bool = switch(help="write the real boxes too, and the pseudo boxes alone to FILE-pseudo.json")
    texts: Literal["auto", "captions", "tags"] = option(
        section="captions",
        default="auto",
        help="what the texts are (default: by the header, or by semicolons between short texts)",
    )
    nouns_from: Path | None = option(
        section="captions", help="only these names, one a line (default: every noun of the shipped English list)"
    )
    split: str | None = option(
        section="classes",
        metavar="SPLIT",
        help='coco, lvis, or a JSON file with the lists "base" and "novel"; see --novel-names',
    )
    novel_names: Literal["refuse", "drop", "keep"] = option(
        section="classes",
        default="refuse",
        help="names of the split's novel classes: an error, left out, or used and counted (default: %(default)s)",
    )
    distractors: str | None = option(
        section="classes",
        metavar="NAMES",
        help="other things that compete and are never labelled, or 'none' (default: the model's choice)",
    )
    min_per_class: int = option(
        section="classes", type=positive, default=1, help="with --merge: rarer ones are left out"
    )
    max_per_class: int | None = option(
        section="classes", type=positive, help="with --merge: at most the best N of a class"
    )
    class_agnostic: bool = class_agnostic_option(section="classes")
    image_list: Path | None = option(
        section="other detectors", help="COCO JSON with the images and categories of --results"
    )
    teacher: str | None = option(
        section="other detectors", metavar="NAME", help="what found the boxes of --results (default: its file name)"
    )
    limit: int | None = option(type=positive, help="only the first N images")
    skip_bad: bool = switch(help="leave out bad lines and missing images instead of stopping")


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What is labelled, read and checked before the model is loaded.

    Attributes:
        photos: images, each with the names to search it for.
        teacher: gives the boxes; None if the model of --model does, which is loaded later.
        real: COCO content of the real annotations, if there are some.
        novel: novel classes of the split.
        notes: lines for the summary.
    """

    photos: tuple[NamedPhoto, ...]
    teacher: BoxTeacher | None
    real: dict[str, Any] | None
    novel: tuple[str, ...]
    notes: tuple[str, ...]


def run(options: PseudoLabelOptions) -> int:
    """Label, write and print a summary; everything that can be checked is checked before the model is loaded.

    Returns:
        Exit code: 0, or 1 if some images could not be used.

    Raises:
        CoraError: bad input.
    """
    import json

    import cora
    from cora.apps.open_model import open_torch_detector, tell_distractors
    from cora.console import error_console, report
    from cora.data.name_file import read_distractors, read_names
    from cora.evaluation.setting import fingerprint
    from cora.predictor import Predictor
    from cora.predictor.device import pick_device
    from cora.training.mix_annotations import mix_annotations
    from cora.training.pseudo_boxes import DetectorTeacher

    alone = options.output.with_name(f"{options.output.stem}-pseudo.json") if options.merge else options.output
    _check_options(options, alone)
    pick_device(options.device)  # which fails before any file is read
    config = _config(options)
    mix = _mix_config(options)
    work = _prepare(options)
    made_by: dict[str, Any] = {"cora": cora.__version__, **_inputs(options)}
    teacher = work.teacher
    if teacher is None:
        others, distractors = options.distractors, read_distractors(options.distractors)
        detector = Predictor(open_torch_detector(options.model, options.device, needs="cora pseudo-label"))
        if options.classes is not None:
            detector.vocabulary_encoder.encode(read_names(options.classes))  # too long names fail here
        teacher = DetectorTeacher(detector=detector, model=Path(options.model).name, distractors=distractors)
        tell_distractors(detector, (), distractors)
        made_by |= {"fingerprint": fingerprint(detector), "distractors": others}
    errors = error_console()
    found = _label(work, teacher, alone, config, made_by)
    mixed = None
    if options.merge and work.real is not None:
        pseudo = json.loads(alone.read_text(encoding="utf-8"))
        mixed = mix_annotations(work.real, pseudo, config=mix, novel=work.novel)
        write_json(options.output, mixed.content, indent=None)
    _print(options, found, mixed, work, alone)
    if found.problems:
        report(errors, str(found.problems), "warning")
    return 1 if found.problems else 0


def _label(
    work: _Work, teacher: BoxTeacher, output: Path, config: PseudoBoxConfig, made_by: dict[str, Any]
) -> PseudoReport:
    from cora.console import Bars
    from cora.training.pseudo_boxes import pseudo_label

    with Bars() as progress:
        try:
            return pseudo_label(
                photos=work.photos,
                teacher=teacher,
                output=output,
                config=config,
                real=work.real,
                made_by=made_by,
                on_progress=lambda done, total: progress.update("labelling", done, total),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("while labelling; what is done is kept, the same command goes on") from None


def _check_options(options: PseudoLabelOptions, alone: Path) -> None:
    """Refuse options that contradict each other, and outputs that cannot be written; `alone` is for pseudo boxes."""
    if not options.images.is_dir():
        raise DataError(f"expected a folder of images, got no folder at {options.images}; check the path")
    if options.merge and options.real is None:
        raise CoraError("--merge: expected real annotations to merge with, got none; name them (--real)")
    if not options.merge and (options.min_per_class > 1 or options.max_per_class is not None):
        raise CoraError("--min-per-class, --max-per-class: expected --merge with them, got none; add it")
    for given, flag, needs, there in (
        (options.texts != "auto", "--texts", "--captions", options.captions),
        (options.nouns_from is not None, "--nouns-from", "--captions", options.captions),
        (options.image_list is not None, "--image-list", "--results", options.results),
        (options.teacher is not None, "--teacher", "--results", options.results),
        (
            options.distractors is not None,
            "--distractors",
            "--captions or --classes",
            options.captions or options.classes,
        ),
    ):
        if given and there is None:
            raise CoraError(f"{flag}: expected with {needs} only, where it means something; leave it out")
    if options.novel_names != "refuse" and options.split is None:
        raise CoraError(
            f"--novel-names {options.novel_names}: expected a split with novel classes, got none; add --split"
        )
    for output in dict.fromkeys((options.output, alone)):
        if output.suffix.lower() != ".json":
            raise CoraError(f"--output: expected a name that ends with .json, got {output.name!r}")
        # FILE-pseudo.json is not the value of an option, so that nobody has checked it yet.
        check_output(output, kinds.PSEUDO, sources_of(options, but=["output"]), flag="--output")


def _config(options: PseudoLabelOptions) -> PseudoBoxConfig:
    from cora.batch import parse_thresholds
    from cora.training.pseudo_boxes import PseudoBoxConfig

    if options.class_scores is None:
        return PseudoBoxConfig(score=options.score, class_agnostic=options.class_agnostic)
    thresholds = parse_thresholds(options.class_scores, usual=options.score)
    return PseudoBoxConfig(
        score=thresholds.usual, class_scores=thresholds.by_class, class_agnostic=options.class_agnostic
    )


def _mix_config(options: PseudoLabelOptions) -> MixConfig:
    from cora.training.mix_annotations import MixConfig

    most = options.max_per_class
    if most is not None and most < options.min_per_class:
        raise CoraError(f"--max-per-class: expected at least {options.min_per_class} (--min-per-class), got {most}")
    return MixConfig(min_per_class=options.min_per_class, max_per_class=most, novel=options.novel_names)


def _prepare(options: PseudoLabelOptions) -> _Work:
    """Read all inputs."""
    from cora.data.class_split import open_split
    from cora.data.read import read_dataset
    from cora.training.mix_annotations import without_novel
    from cora.training.result_teacher import read_results

    novel = open_split(options.split).novel if options.split is not None else ()
    real = None
    if options.real is not None:
        real = read_dataset(images=options.images, annotations=options.real, skip_bad=options.skip_bad).to_coco()
    teacher: BoxTeacher | None = None
    notes: list[str] = []
    photos: tuple[NamedPhoto, ...] = ()
    if options.captions is not None:
        photos, notes = _captioned_images(options, options.captions)
    elif options.classes is not None:
        photos, notes = _images_of_classes(options, options.classes)
    elif options.results is not None:
        photos, teacher = read_results(
            options.results,
            images=options.images,
            image_list=options.image_list,
            model=options.teacher,
            skip_bad=options.skip_bad,
        )
    photos, found = without_novel(photos, novel, options.novel_names)
    if found:
        done = {"drop": "left out", "keep": "used"}[options.novel_names]
        first = ", ".join(f"{name} ({n})" for name, n in found.most_common(5))
        notes.append(f"novel names {done}: {len(found)}, in so many images: {first}")
    return _Work(photos=photos[: options.limit], teacher=teacher, real=real, novel=novel, notes=tuple(notes))


def _captioned_images(options: PseudoLabelOptions, captions: Path) -> tuple[tuple[NamedPhoto, ...], list[str]]:
    """Images with the names in their captions or tags, and notes on what was read."""
    from cora.console import IS, counted
    from cora.data.caption_nouns import english_nouns
    from cora.data.captions import read_captions
    from cora.data.name_file import parse_classes
    from cora.regions import names_alone

    wanted = None
    if options.nouns_from is not None:
        wanted = names_alone("--nouns-from", parse_classes(f"@{options.nouns_from}"))
    read = read_captions(
        captions, images=options.images, nouns=english_nouns(wanted), kind=options.texts, skip_bad=options.skip_bad
    )
    images = counted(len(read.photos), "image")
    notes = [f"{read.captions} texts name {len(read.name_counts())} things in {images}"]
    if read.nameless:
        notes.append(f"{counted(read.nameless, 'image', IS)} left out: nothing that their texts name is known")
    return read.photos, notes + [f"left out: {n} {kind}" for kind, n in read.left_out.items()]


def _images_of_classes(options: PseudoLabelOptions, classes: str) -> tuple[tuple[NamedPhoto, ...], list[str]]:
    """All images of the folder, each to be searched for the same names, and notes on unreadable ones."""
    from cora.data.captions import folder_photos
    from cora.data.listing import list_images
    from cora.data.name_file import read_names

    names = read_names(classes)
    files, problems = list_images(options.images)
    if not files:
        raise DataError(f"expected a folder with images, got none in {options.images}")
    return folder_photos(options.images, files, names), list(problems)


def _inputs(options: PseudoLabelOptions) -> dict[str, Any]:
    """The inputs, by which the file can be made again: names and hashes of files, but no paths of this machine."""
    files = ("captions", "results", "image_list", "real", "nouns_from", "split")
    values = ("classes", "novel_names", "texts", "limit")
    given = {name: value for name in (*files, *values) if (value := getattr(options, name)) is not None}
    return {name: _identified(value) if name in files else value for name, value in given.items()}


def _identified(path: Path | str) -> dict[str, str] | str:
    import hashlib

    if not Path(path).is_file():
        return Path(path).name
    with Path(path).open("rb") as file:
        return {"file": Path(path).name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _print(options: PseudoLabelOptions, report: PseudoReport, mixed: Mixed | None, work: _Work, alone: Path) -> None:
    from cora.console import IS, WAS, counted, output_console, say

    console = output_console()

    tell = partial(say, console)
    for note in work.notes:
        tell(note)
    if report.boxes:
        console.print(_table(report.boxes, work))
    if report.resumed:
        tell(f"{counted(report.resumed, 'image', WAS)} done by an earlier run.")
    boxes = sum(report.boxes.values())
    tell(
        f"{counted(report.photos, 'image')}, {report.labelled} of them with boxes: {counted(boxes, 'box')} of "
        f"{counted(len(report.boxes), 'class')}"
        + (f"; {report.on_real} more lie on real boxes and are left out." if report.on_real else ".")
    )
    if not boxes:
        tell(f"No box has a score of {options.score:g} or more; try a lower --score.")
    tell(f"Pseudo boxes are in {alone}.")
    if mixed is not None:
        total = len(mixed.content["annotations"])
        tell(
            f"{options.output} has {counted(total, 'box')}, real and pseudo, of "
            f"{counted(len(mixed.class_names), 'class')}, {len(mixed.extra)} of them extra; "
            f"{counted(mixed.new_photos, 'image', IS)} new."
        )
        for reason, n in mixed.left_out.items():
            tell(f"{counted(n, 'pseudo box')} {reason} did not join.")


def _table(boxes: Counter[str], work: _Work) -> Table:
    from rich.text import Text

    from cora.console import number_table

    known = {name_key(category["name"]) for category in work.real["categories"]} if work.real is not None else set()
    photos = Counter(name for photo in work.photos for name in photo.names)
    title = f"the {_TOP} most frequent of {len(boxes)} classes" if len(boxes) > _TOP else None
    table = number_table("class", "boxes", "images that name it", *(["real boxes"] if known else []), title=title)
    for name, n in boxes.most_common(_TOP):
        table.add_row(
            Text(name), str(n), str(photos[name]), *([("yes" if name_key(name) in known else "no")] if known else [])
        )
    return table


COMMAND = Command(
    name="pseudo-label",
    options=PseudoLabelOptions,
    run=run,
    help="boxes for images that have captions or tags only",
    description="Boxes for images that have captions, tags or a list of classes only, as a new annotation file.",
)
