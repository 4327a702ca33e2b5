"""`cora region-accuracy`: how often true boxes are named right, with and without the prompt."""

from __future__ import annotations

import argparse
from typing import Literal

import cora
from cora.apps.measure import header, prepare
from cora.apps.measure_tables import region_table
from cora.console import output_console, tracked
from cora.evaluation.region_accuracy import accuracy, by_class, rank_regions
from cora.files import write_json
from cora.towers import resnet_of

_WAYS: tuple[Literal["prompt", "no prompt", "crops"], ...] = ("prompt", "no prompt")


def measure_regions(args: argparse.Namespace) -> int:
    """Accuracy of ground-truth boxes among all classes, with and without the prompt; returns exit code 0."""
    setting = prepare(args)
    names = setting.dataset.class_names
    detector = cora.load(args.model).detector.to(setting.device)
    if args.crops:
        resnet_of(detector.image_tower, "--crops")
    setting.text.apply(detector.vocabulary_encoder)
    measured = rank_regions(
        detector,
        setting.dataset,
        indices=setting.indices,
        crops=args.crops,
        progress=lambda indices: tracked(indices, "regions"),
    )
    answers = {
        way: {
            group: accuracy(measured, names, members, setting.counts, way=way)
            for group, members in setting.groups.items()
        }
        for way in (*_WAYS, *(("crops",) if args.crops else ()))
    }
    output_console().print(region_table(answers, len(names)))
    report = {
        **header(args, setting, detector),
        "accuracy": {
            label: {group: {size: a.as_dict() for size, a in sizes.items()} for group, sizes in groups.items()}
            for label, groups in answers.items()
        },
        "classes": by_class(measured, names),
    }
    if args.json is not None:
        write_json(args.json, report)
    return 0
