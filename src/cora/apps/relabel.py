"""`cora relabel`: copies an annotation file, with the class that the model predicts for every box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cora.apps import kinds
from cora.apps.command import Command
from cora.apps.data_options import ImageOptions, ProcessOptions
from cora.apps.model_options import device_option, model_option
from cora.apps.options import group, option
from cora.files import write_json

if TYPE_CHECKING:
    from cora.data.coco import CocoDataset
    from cora.detector import Detector
    from cora.training.engine import Engine


@dataclass(frozen=True, kw_only=True)
class RelabelOptions:
    """Options of `cora relabel`."""

    data: ImageOptions = group(ImageOptions)
    split: str | None = option(
        metavar="FILE", help='class split, of which the base classes are relabelled: JSON, "coco" or "lvis"'
    )
    model: str = model_option("name or file with a trained prompt")
    output: Path = option(required=True, writes=kinds.RELABELLED, help="annotation file to write (COCO)")
    plot: Path | None = option(writes=kinds.PICTURE, metavar="PNG", help="also draw which classes are confused")
    json: Path | None = option(writes=kinds.AGREEMENT, help="also write the agreement by class")
    processes: ProcessOptions = group(ProcessOptions, again="starts anew if it is preempted")
    device: str = device_option()


def run(options: RelabelOptions) -> int:
    """Write a copy of the annotations with the classifier's choice for every box; returns the exit code 0.

    Raises:
        CoraError: bad input, before anything is written.
    """
    if options.processes.slurm is None:
        return options.processes.run(lambda: partial(_relabel, options), device=options.device)

    def prepare() -> Callable[[Engine], None]:
        _read(options)
        return partial(_relabel, options)

    folder = options.output.with_suffix(".slurm")
    return options.processes.submit(prepare, device=options.device, folder=folder, restarts=0)


def _relabel(options: RelabelOptions, engine: Engine) -> None:
    """The work of every process; only the first reads the annotations, prints and writes."""
    import cora
    from cora.console import output_console, progress_report, say
    from cora.training.relabel import plot_confusion, relabel

    read, detector = _read(options) if engine.is_main else (None, None)
    dataset: CocoDataset = engine.broadcast(read)
    detector = (cora.load(options.model).detector if detector is None else detector).to(engine.device)
    with progress_report(show=engine.is_main) as report:
        agreement = relabel(
            detector=detector,
            vocabulary=detector.vocabulary_encoder.encode(dataset.class_names).to(engine.device),
            dataset=dataset,
            output=options.output,
            on_progress=lambda done, total: report("relabel", done, total),
            engine=engine,
        )
    if not engine.is_main:
        return
    if options.json is not None:
        write_json(options.json, asdict(agreement))
    if options.plot is not None:
        plot_confusion(agreement, options.plot)
    share = f"{agreement.agreed} of {agreement.boxes} boxes keep their class ({agreement.share:.1%})"
    say(output_console(), f"{share}; wrote {options.output}")


def _read(options: RelabelOptions) -> tuple[CocoDataset, Detector]:
    import cora
    from cora.data.benchmarks import training_images
    from cora.data.class_split import open_split

    split = None if options.split is None else open_split(options.split)
    dataset = training_images(options.data.read(split.base if split is not None else None), split)
    return dataset, cora.load(options.model).detector


COMMAND = Command(
    name="relabel",
    options=RelabelOptions,
    run=run,
    help="give boxes the class that the model sees in them",
    description="CLIP-aligned labels: a copy of an annotation file, every box with the class that the model sees.",
)
