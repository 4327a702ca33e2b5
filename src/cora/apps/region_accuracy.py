"""`cora region-accuracy`: how often the model names ground-truth boxes right, with and without the region prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cora.apps import kinds
from cora.apps.command import Command
from cora.apps.data_options import MeasureOptions
from cora.apps.options import option, switch
from cora.files import write_json


@dataclass(frozen=True, kw_only=True)
class RegionAccuracyOptions(MeasureOptions):
    """Options of `cora region-accuracy`."""

    images: Path = option(required=True, metavar="DIR", help="folder of the images")
    annotations: Path = option(required=True, help="annotation file: COCO, LVIS, or as for training")
    json: Path | None = option(writes=kinds.REGION_ACCURACY, help="write everything that was measured to this file")
    crops: bool = switch(help="also with every box cut out and encoded as an image of its own (slow)")


def run(options: RegionAccuracyOptions) -> int:
    """Accuracy of ground-truth boxes among all classes, with and without the prompt; returns exit code 0."""
    import sys
    from functools import partial

    import cora
    from cora.console import output_console, tracked
    from cora.detector.presets import DEFAULT
    from cora.evaluation.region_accuracy import Accuracy, Way, accuracy, by_class, rank_regions
    from cora.evaluation.setting import header
    from cora.evaluation.tables import region_table
    from cora.predictor.device import pick_device

    device, model = pick_device(options.device), options.model or DEFAULT
    setting = options.read_setting(options.images, options.annotations)
    names = setting.dataset.class_names
    sentences = options.text.read(names)
    detector = cora.load(model).detector.to(device)
    sentences.apply(detector.vocabulary_encoder)
    measured = rank_regions(
        detector,
        setting.dataset,
        indices=setting.indices,
        crops=options.crops,
        progress=partial(tracked, title="regions"),
    )
    ways: tuple[Way, ...] = ("prompt", "no prompt", "crops") if options.crops else ("prompt", "no prompt")
    answers: dict[str, dict[str, dict[str, Accuracy]]] = {
        way: {
            group: accuracy(measured, names, members, setting.counts, way=way)
            for group, members in setting.groups.items()
        }
        for way in ways
    }
    output_console().print(region_table(answers, len(names)))
    if options.json is not None:
        report = {
            **header(
                setting,
                command=sys.argv[1:],
                annotations=options.annotations,
                model=(model, detector),
                sentences=sentences,
            ),
            "accuracy": {
                label: {group: {size: a.as_dict() for size, a in sizes.items()} for group, sizes in groups.items()}
                for label, groups in answers.items()
            },
            "classes": by_class(measured, names),
        }
        write_json(options.json, report)
    return 0


COMMAND = Command(
    name="region-accuracy",
    options=RegionAccuracyOptions,
    run=run,
    help="how often a model names ground-truth boxes right",
    description="How often a model names ground-truth boxes right among all classes of a folder.",
)
