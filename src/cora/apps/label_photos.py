"""Write pseudo boxes of images and print what there is; `pseudo_label.py` has the arguments."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import cora
from cora.apps import kinds
from cora.apps.command import check_output, sources_of
from cora.apps.competing import tell_distractors
from cora.apps.device import pick_device
from cora.apps.files import parse_classes
from cora.apps.measure import fingerprint
from cora.apps.model_options import read_distractors, read_names
from cora.apps.open_model import open_torch_detector
from cora.batch import parse_thresholds
from cora.console import Bars, error_console, output_console, report, say
from cora.data.caption_nouns import english_nouns
from cora.data.captions import NamedPhoto, folder_photos, read_captions
from cora.data.class_split import open_split
from cora.data.listing import list_images
from cora.data.read import read_dataset
from cora.errors import CoraError, DataError
from cora.files import write_json
from cora.names import name_key
from cora.predictor import Predictor
from cora.regions import names_alone
from cora.training.mix_annotations import MixConfig, Mixed, mix_annotations, without_novel
from cora.training.pseudo_boxes import BoxTeacher, DetectorTeacher, PseudoBoxConfig, PseudoReport, pseudo_label
from cora.training.result_teacher import read_results

_TOP = 20


@dataclass(frozen=True, kw_only=True)
class _Work:
    photos: tuple[NamedPhoto, ...]
    teacher: BoxTeacher | None  # None: the model is still to be loaded
    real: dict[str, Any] | None
    novel: tuple[str, ...]
    notes: tuple[str, ...]


def label_photos(args: argparse.Namespace) -> int:
    """Everything that can be checked is checked before the model is loaded; returns the exit code.

    Raises:
        CoraError: bad input.
    """
    alone = args.output.with_name(f"{args.output.stem}-pseudo.json") if args.merge else args.output
    _check_outputs(args, alone)
    pick_device(args.device)  # which fails before any file is read
    config = _config(args)
    mix = _mix_config(args)
    work = _prepare(args)
    made_by: dict[str, Any] = {"cora": cora.__version__, **_inputs(args)}
    teacher = work.teacher
    if teacher is None:
        others, distractors = args.distractors, read_distractors(args.distractors)
        detector = Predictor(open_torch_detector(args.model, args.device, needs="cora pseudo-label"))
        if args.classes is not None:
            detector.vocabulary_encoder.encode(read_names(args.classes))  # too long names fail here
        teacher = DetectorTeacher(detector=detector, model=Path(str(args.model)).name, distractors=distractors)
        tell_distractors(detector, (), distractors)
        made_by |= {"fingerprint": fingerprint(detector), "distractors": others}
    errors = error_console()
    found = _label(work, teacher, alone, config, made_by, errors)
    mixed = None
    if args.merge and work.real is not None:
        pseudo = json.loads(alone.read_text(encoding="utf-8"))
        mixed = mix_annotations(work.real, pseudo, config=mix, novel=work.novel)
        write_json(args.output, mixed.content, indent=None)
    _print(args, found, mixed, work, alone)
    if found.problems:
        report(errors, str(found.problems), "warning")
    return 1 if found.problems else 0


def _label(
    work: _Work, teacher: BoxTeacher, output: Path, config: PseudoBoxConfig, made_by: dict[str, Any], errors: Console
) -> PseudoReport:
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


def _check_outputs(args: argparse.Namespace, alone: Path) -> None:
    if not args.images.is_dir():
        raise DataError(f"expected a folder of images, got no folder at {args.images}; check the path")
    if args.merge and args.real is None:
        raise CoraError("--merge: expected real annotations to merge with, got none; name them (--real)")
    if not args.merge and (args.min_per_class > 1 or args.max_per_class is not None):
        raise CoraError("--min-per-class, --max-per-class: expected --merge with them, got none; add it")
    if args.novel_names != "refuse" and args.split is None:
        raise CoraError(f"--novel-names {args.novel_names}: expected a split with novel classes, got none; add --split")
    for output in dict.fromkeys((args.output, alone)):
        if output.suffix.lower() != ".json":
            raise CoraError(f"--output: expected a name that ends with .json, got {output.name!r}")
        # That of the pseudo boxes alone is known only now.
        check_output(output, kinds.PSEUDO, sources_of(args, but=["output"]), flag="--output")


def _config(args: argparse.Namespace) -> PseudoBoxConfig:
    if args.class_scores is None:
        return PseudoBoxConfig(score=args.score, class_agnostic=args.class_agnostic)
    thresholds = parse_thresholds(args.class_scores, usual=args.score)
    return PseudoBoxConfig(score=thresholds.usual, class_scores=thresholds.by_class, class_agnostic=args.class_agnostic)


def _mix_config(args: argparse.Namespace) -> MixConfig:
    most = args.max_per_class
    if most is not None and most < args.min_per_class:
        raise CoraError(f"--max-per-class: expected at least {args.min_per_class} (--min-per-class), got {most}")
    return MixConfig(min_per_class=args.min_per_class, max_per_class=most, novel=args.novel_names)


def _prepare(args: argparse.Namespace) -> _Work:
    """Read all inputs."""
    novel = open_split(args.split).novel if args.split is not None else ()
    real = None
    if args.real is not None:
        real = read_dataset(images=args.images, annotations=args.real, skip_bad=args.skip_bad).to_coco()
    teacher: BoxTeacher | None = None
    notes: list[str] = []
    photos: tuple[NamedPhoto, ...]
    if args.captions is not None:
        wanted = None if args.nouns_from is None else names_alone("--nouns-from", parse_classes(f"@{args.nouns_from}"))
        read = read_captions(
            args.captions, images=args.images, nouns=english_nouns(wanted), kind=args.texts, skip_bad=args.skip_bad
        )
        photos = read.photos
        notes.append(f"{read.captions} texts name {len(read.name_counts())} things in {len(photos)} images")
        if read.nameless:
            notes.append(f"{read.nameless} images are left out: nothing that their texts name is known")
        notes += [f"left out: {n} {kind}" for kind, n in read.left_out.items()]
    elif args.classes is not None:
        names = read_names(args.classes)
        files, problems = list_images(args.images)
        if not files:
            raise DataError(f"expected a folder with images, got none in {args.images}")
        notes += problems
        photos = folder_photos(args.images, files, names)
    else:
        photos, teacher = read_results(
            args.results,
            images=args.images,
            image_list=args.image_list,
            model=args.teacher,
            skip_bad=args.skip_bad,
        )
    photos, found = without_novel(photos, novel, args.novel_names)
    if found:
        done = {"drop": "left out", "keep": "used"}[args.novel_names]
        first = ", ".join(f"{name} ({n})" for name, n in found.most_common(5))
        notes.append(f"novel names {done}: {len(found)}, in so many images: {first}")
    return _Work(photos=photos[: args.limit], teacher=teacher, real=real, novel=novel, notes=tuple(notes))


def _inputs(args: argparse.Namespace) -> dict[str, Any]:
    """What a reader of the file needs to make it again: names and hashes of the inputs, no paths of this machine."""
    files = ("captions", "results", "image_list", "real", "nouns_from", "split")
    said: dict[str, Any] = {name: _described(getattr(args, name)) for name in files if getattr(args, name) is not None}
    for name in ("classes", "novel_names", "texts", "limit"):
        if getattr(args, name) is not None:
            said[name] = getattr(args, name)
    return said


def _described(path: Path | str) -> dict[str, str] | str:
    if not Path(path).is_file():
        return Path(path).name
    with Path(path).open("rb") as file:
        return {"file": Path(path).name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _print(args: argparse.Namespace, report: PseudoReport, mixed: Mixed | None, work: _Work, alone: Path) -> None:
    console = output_console()

    tell = partial(say, console)
    for note in work.notes:
        tell(note)
    if report.boxes:
        console.print(_table(report.boxes, work))
    if report.resumed:
        tell(f"{report.resumed} images were done by an earlier run.")
    boxes = sum(report.boxes.values())
    tell(
        f"{report.photos} images, {report.labelled} of them with boxes: {boxes} boxes of {len(report.boxes)} classes"
        + (f"; {report.on_real} more lie on real boxes and are left out." if report.on_real else ".")
    )
    if not boxes:
        tell(f"No box has a score of {args.score:g} or more; try a lower --score.")
    tell(f"Pseudo boxes are in {alone}.")
    if mixed is not None:
        total = len(mixed.content["annotations"])
        tell(
            f"{args.output} has {total} boxes, real and pseudo, of {len(mixed.class_names)} classes, "
            f"{len(mixed.extra)} of them extra; {mixed.new_photos} images are new."
        )
        for reason, n in mixed.left_out.items():
            tell(f"{n} pseudo boxes {reason} did not join.")


def _table(boxes: Counter[str], work: _Work) -> Table:
    known = {name_key(category["name"]) for category in work.real["categories"]} if work.real is not None else set()
    photos = Counter(name for photo in work.photos for name in photo.names)
    title = f"the {_TOP} most frequent of {len(boxes)} classes" if len(boxes) > _TOP else None
    table = Table("class", "boxes", "images that name it", *(["real boxes"] if known else []), title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, n in boxes.most_common(_TOP):
        table.add_row(
            Text(name), str(n), str(photos[name]), *([("yes" if name_key(name) in known else "no")] if known else [])
        )
    return table
