"""The report of `cora evaluate`: one HTML file with tables, plots and example images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cora.console import counted
from cora.draw import Colour
from cora.evaluation.base_novel import GroupScore, mean_curve
from cora.evaluation.coco_ap import BoxEvaluation
from cora.evaluation.example_images import draw_example, example_colours
from cora.evaluation.examples import Example, choose_examples, worst_confusions
from cora.evaluation.oracles import CEILINGS
from cora.evaluation.report import Section, bars, curves, folded, gallery, of_table, page, picture, table
from cora.evaluation.setting import Setting
from cora.evaluation.tables import box_table, ceiling_table, gain_table, plain
from cora.evaluation.tide import KINDS, Errors, ErrorShares
from cora.files import write_text

#: Kind of an `Example` -> title and note of its section.
_EXAMPLE_SECTIONS = {
    "best": ("Found", "Images of which the greatest share was found. Drawn: the right detections."),
    "missed": ("Missed", "Images with most objects that were not found. Drawn: those, and the right detections."),
    "confused": ("Confused", "Objects that were found and named wrong. Drawn: those detections, with what they are."),
}


def write_report(
    folder: Path,
    *,
    setting: Setting,
    facts: Mapping[str, Any],
    evaluation: BoxEvaluation,
    scores: Mapping[str, GroupScore],
    weighted: Mapping[str, GroupScore] | None,
    oracles: Mapping[str, Mapping[str, GroupScore]],
    errors: Errors,
    shares: Mapping[str, ErrorShares],
    study: Section | None = None,
) -> Path:
    """Write `report.html` into the folder and return its path.

    Args:
        folder: folder of the report.
        setting: what was measured on; without images the report has no examples.
        facts: the numbers of the JSON report, which begin with those of `setting.header`.
        evaluation: scores and matches of every class.
        scores: group -> mean scores.
        weighted: the same with class weights, if any.
        oracles: oracle -> group -> mean scores; empty without oracles.
        errors: the kind of every error.
        shares: group -> cost of each kind of error.
        study: a section about `cora study`, if any.
    """
    sections = [
        Section(
            "Average precision",
            "In percent; in brackets the 95 % interval of a bootstrap over images. S, M, L: areas below 32², below 96² "
            "and above, in px².",
            of_table(box_table("", scores)),
        )
    ]
    if weighted is not None:
        note = "The same with the class weights in pre-matching, a prior that has to be known before the test."
        sections.append(Section("With class weights", note, of_table(box_table("", weighted))))
    sections += _diagnosis(oracles, shares)
    if study is not None:
        sections.append(study)
    lines = {group: mean_curve(evaluation, names) for group, names in setting.groups.items()}
    sections.append(
        Section(
            "Precision and recall",
            "At IoU 0.5, mean over the classes of a group; the area below a line is its AP50.",
            curves({group: line for group, line in lines.items() if line is not None}),
        )
    )
    sections += _class_sections(setting, evaluation, errors)
    sections += _picture_sections(setting, errors)
    html = page("Detection report", _facts(facts), sections)
    path = folder / "report.html"
    write_text(path, html)
    return path


def _facts(report: Mapping[str, Any]) -> dict[str, str]:
    """The lines at the top of the report, name -> text."""
    model = report["model"]
    answer = {
        "Model": report.get("predictions", "") if model is None else f"{model['name']} ({model['fingerprint']})",
        "Annotations": f"{report['annotations']['file']} ({str(report['annotations']['sha256'])[:16]})",
        "Measured": ", ".join(
            counted(report[key], noun)
            for key, noun in (("images", "image"), ("boxes", "box"), ("crowd_boxes", "crowd box"))
        ),
        "Detections": f"{report['detections']} counted, {report['dropped_detections']} beyond "
        f"{report['max_detections']} an image",
        "Command": " ".join(report["command"]),
        "Version": report["version"],
    }
    weights = report["class_weights"]
    answer["Class weights"] = ", ".join(f"{name} {weight:g}" for name, weight in weights.items()) or "none"
    return answer


def _diagnosis(oracles: Mapping[str, Mapping[str, GroupScore]], shares: Mapping[str, ErrorShares]) -> list[Section]:
    sections = []
    if oracles:
        note = "AP50 with one step made perfect, and what that gives back."
        gains = of_table(gain_table(oracles, None))
        sections.append(Section("What one perfect step would give back", note, gains))
        note = (
            "Recall if every object had its true class and the best of so many boxes, those of greatest objectness: "
            "what names and ranking cannot exceed with them."
        )
        ceilings = of_table(ceiling_table(oracles, CEILINGS))
        sections.append(Section("Recall ceiling of the boxes", note, ceilings))
    rows = [
        (kind, *(cell for e in shares.values()
                 for cell in (f"{100 * e.gains[kind]:+.1f}", plain(e.shares[kind]), str(e.counts[kind]))))
        for kind in KINDS
    ]  # fmt: skip
    columns = ("", *(cell for group in shares for cell in (f"{group}: AP50", "share, %", "errors")))
    note = "TIDE: AP50 that mending one kind of error gives back, its share of the sum over kinds, number of errors."
    return [*sections, Section("Kinds of errors", note, table(columns, rows))]


def _class_sections(setting: Setting, evaluation: BoxEvaluation, errors: Errors) -> list[Section]:
    group_of = {name: group for group, names in setting.groups.items() if group != "all" for name in names}
    known = {score.name: score.ap50 for score in evaluation.scores if score.ap50 is not None}
    ordered = dict(sorted(known.items(), key=lambda item: (group_of.get(item[0], "all"), -item[1], item[0])))
    worst = worst_confusions(errors, setting.class_names, [score.ap50 for score in evaluation.scores])
    rows = [
        (
            found.name,
            group_of.get(found.name, "all"),
            plain(known[found.name]),
            str(found.boxes),
            str(found.found),
            ", ".join(f"{name} ({count})" for name, count in found.taken_for[:4]) or "-",
        )
        for found in worst
    ]
    head = ("class", "group", "AP50", "boxes", "found", "taken for")
    per_class = [
        (score.name, group_of.get(score.name, "all"), str(score.boxes),
         *map(plain, (score.ap50, score.ap, score.ap75, score.ar)))
        for score in evaluation.scores
    ]  # fmt: skip
    numbers = table(("class", "group", "boxes", "AP50", "AP", "AP75", "AR"), per_class, text_columns=(1,))
    return [
        Section("AP50 of every class", "In percent, best first within a group.", bars(ordered, group_of)),
        Section(
            "The worst classes",
            "Among as many detections of each image as it has objects, at least three: boxes found under their own "
            "name, and names that objects were given instead.",
            table(head, rows, text_columns=(1, 5)),
        ),
        Section(
            "Numbers of every class",
            "In percent; a dash where no box is annotated.",
            folded(f"{len(per_class)} classes", numbers),
        ),
    ]


def _picture_sections(setting: Setting, errors: Errors) -> list[Section]:
    if setting.photos is None:
        return []
    chosen = choose_examples(errors, setting.class_names)
    colours = example_colours(errors, chosen, setting.class_names)
    sections = []
    for kind, (title, note) in _EXAMPLE_SECTIONS.items():
        drawn = [_drawn(setting, errors, example, colours) for example in chosen if example.kind == kind]
        if drawn:
            sections.append(Section(title, note, gallery(drawn)))
    return sections


def _drawn(setting: Setting, errors: Errors, example: Example, colours: Mapping[str, Colour]) -> str:
    ids = sorted(image["id"] for image in setting.truth["images"])
    path, image = draw_example(errors, example, setting.dataset, ids, setting.class_names, colours)
    return picture(image, f"{path.name}: {example.caption}")
