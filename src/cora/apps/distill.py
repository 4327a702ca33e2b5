"""`cora distill`: a large model teaches a small one on images without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cora.apps import kinds
from cora.apps.argument_types import above_zero, positive, whole
from cora.apps.command import Command
from cora.apps.data_options import MeasuringOptions, images_in, numbers_option, tell_models
from cora.apps.options import OneOf, group, option
from cora.errors import ModelError

if TYPE_CHECKING:
    from cora.detector import Detector

_STUDENT = OneOf(required=True)
_WHAT, _LONG = "what is distilled", "how long"


def _weight(default: float, what: str) -> Any:
    return option(section=_WHAT, type=above_zero, default=default, metavar="W", help=f"{what} (default: %(default)s)")


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Options of `cora distill`."""

    teacher: str = option(required=True, help="name or file of the model that teaches")
    student: str | None = option(
        one_of=_STUDENT, metavar="MODEL", help="name or file of the model that learns, as of 'cora prune'"
    )
    architecture: Path | None = option(
        one_of=_STUDENT,
        help='JSON of sizes of a fresh student, {"width": 24, "ff": 256, ...}; the others are the teacher\'s',
    )
    images: Path = option(required=True, metavar="DIR", help="images; they need no labels")
    run_dir: Path = option("--run", required=True, writes=kinds.DISTILL_RUN, metavar="DIR", help="folder of the run")
    output: Path | None = option(writes=kinds.MODEL, help="model file (default: model.safetensors in the run)")
    learn: Literal["all", "tower", "localizer"] = option(
        section=_WHAT,
        default="all",
        help="parts of the student that learn, never the text tower or the prompt (default: %(default)s)",
    )
    boxes: Literal["direct", "targets"] = option(
        section=_WHAT,
        default="direct",
        help="direct: learn the teacher's boxes query by query; targets: learn its best boxes as ground truth "
        "(default: %(default)s)",
    )
    kl_weight: float = _weight(1.0, "weight of the KL divergence of class probabilities")
    cosine_weight: float = _weight(5.0, "weight of the cosine distance to the teacher's region embeddings")
    box_weight: float = _weight(1.0, "weight of the losses on boxes and objectness")
    regions: int = option(section=_WHAT, type=positive, default=24, help="regions per image (default: %(default)s)")
    epochs: int = option(section=_LONG, type=positive, default=10, help="passes over the images (default: %(default)s)")
    batch: int = option(section=_LONG, type=positive, default=4, help="images per step (default: %(default)s)")
    lr: float = option(
        section=_LONG, type=above_zero, default=5e-4, metavar="RATE", help="learning rate (default: %(default)s)"
    )
    workers: int = option(
        section=_LONG, type=whole, default=0, help="processes that read images (default: %(default)s)"
    )
    measuring: MeasuringOptions = group(MeasuringOptions)
    json: Path | None = numbers_option(kinds.COMPARED)


def run(options: DistillOptions) -> int:
    """Teach a student; prints a table of teacher, student before and after; returns 0.

    Raises:
        CoraError: bad input, before anything is written; or a run that cannot go on.
    """
    import copy

    from cora.apps.open_model import open_torch_detector
    from cora.compress.distill import DistillRun, distill
    from cora.console import counted, output_console, say
    from cora.detector.checkpoint import check_model_file
    from cora.evaluation.held_out import check_extras
    from cora.towers import known_towers, resnet_of
    from cora.training.distill_task import DistillConfig

    check_extras("cora distill", measures=False)
    output = options.output or options.run_dir / "model.safetensors"
    check_model_file(output)
    measuring = options.measuring
    held_out = measuring.read_held_out()
    paths = images_in(options.images)
    images = measuring.draw(paths)
    # A CLIP tower by name has a localizer of random weights: nothing can be learned from its boxes.
    localizes = options.teacher not in known_towers()
    config = DistillConfig(
        tower=options.learn != "localizer",
        localizer=options.learn != "tower",
        boxes=options.boxes,
        kl=options.kl_weight,
        cosine=options.cosine_weight,
        box=options.box_weight,
        regions=options.regions,
    )
    if config.localizer and not localizes:
        raise ModelError(
            f"{options.teacher}: expected a model with a trained localizer, got a tower; use --learn tower"
        )
    teacher = open_torch_detector(options.teacher, options.measuring.device, needs="cora distill", trained=False)
    student = _student(options, teacher)
    if config.tower:
        resnet_of(student.image_tower, "cora distill, into the tower")
    names = measuring.names(held_out.dataset if held_out is not None else None)
    untaught = copy.deepcopy(student)
    say(output_console(), f"Distilling on {counted(len(paths), 'image')}, {counted(len(names), 'name')}")
    result = distill(
        student=student,
        teacher=teacher,
        localizes=localizes,
        paths=paths,
        names=names,
        run_dir=options.run_dir,
        config=config,
        run=DistillRun(
            epochs=options.epochs, batch=options.batch, lr=options.lr, seed=measuring.seed, workers=options.workers
        ),
    )
    if result.interrupted:
        raise KeyboardInterrupt(f"at step {result.steps}, which is saved; the same command goes on")
    student.save(output)
    models = {"teacher": teacher, "student before": untaught, "student": student}
    tell_models(models, images, names, held_out, output=output, json=options.json, steps=result.steps)
    return 0


def _student(options: DistillOptions, teacher: Detector) -> Detector:
    from cora.apps.open_model import open_torch_detector
    from cora.compress.arch_sizes import Architecture, read_architecture
    from cora.compress.distill import new_student
    from cora.towers import resnet_of

    if options.student is not None:
        return open_torch_detector(options.student, options.measuring.device, needs="cora distill", trained=False)
    assert options.architecture is not None  # one of both is required
    resnet_of(teacher.image_tower, "cora distill --architecture")
    sizes = read_architecture(options.architecture, Architecture.of(teacher.config))
    return new_student(teacher, sizes, seed=options.measuring.seed)


COMMAND = Command(
    name="distill",
    options=DistillOptions,
    run=run,
    help="a large model teaches a small one on images without labels",
    description="A large model teaches a small one: names and boxes of regions, on images without labels.",
    epilog="The same command again goes on where the run stopped.",
)
