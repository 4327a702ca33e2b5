"""`cora study`: is classification or localization the problem? `cora cam`: where does a frozen CLIP see a class?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cora.apps import kinds
from cora.apps.argument_types import above_zero, positive, seed_number, whole
from cora.apps.command import Command, CommandGroup
from cora.apps.data_options import ImageOptions, write_numbers
from cora.apps.model_options import classes_option, device_option
from cora.apps.options import argument, group, option
from cora.errors import CoraError, DataError
from cora.files import write_picture

if TYPE_CHECKING:
    from cora.data.coco import CocoDataset
    from cora.detector import Detector
    from cora.study.artefact import TrainedStudy
    from cora.study.build import FrozenPart
    from cora.study.report import StudyReport


@dataclass(frozen=True, kw_only=True)
class StudyImageOptions(ImageOptions):
    """Where the annotated images are, and which of their classes are learned."""

    split: str | None = option(
        metavar="FILE", help='class split: JSON, "coco" or "lvis"; base classes are learned, novel ones measured, too'
    )


@dataclass(frozen=True, kw_only=True)
class TowerOptions:
    """Which frozen tower."""

    tower: str | None = option(
        metavar="NAME",
        help="a CLIP ResNet, the file of a detector on one, or a ViT of open_clip (default: RN50-quickgelu)",
    )
    checkpoint: str | None = option(
        metavar="FILE", help="a ViT's weights in open_clip's format, such as RemoteCLIP-ViT-B-32.pt"
    )


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How well boxes fit is measured with these."""

    detector: str | None = option(
        metavar="MODEL", help="also measure a detector that is given the true classes of each image"
    )
    limit: int | None = option(type=positive, help="only the first N images of each set")
    resamples: int = option(type=positive, default=200, help="bootstrap resamples (default: %(default)s)")
    device: str = device_option()

    def open_detector(self) -> Detector | None:
        """The detector of --detector; None without the option.

        Raises:
            ModelError: it cannot be loaded, or it cannot find boxes.
        """
        from cora.apps.open_model import open_torch_detector

        if self.detector is None:
            return None
        return open_torch_detector(self.detector, self.device, needs="cora study --detector")

    def measure(
        self,
        study: TrainedStudy,
        frozen: FrozenPart,
        dataset: CocoDataset,
        groups: Mapping[str, tuple[str, ...]],
        detector: Detector | None,
    ) -> StudyReport:
        """Call `report_study` with these options."""
        from cora.predictor.device import pick_device
        from cora.study.report import report_study

        device, limit, resamples = pick_device(self.device), self.limit, self.resamples
        return report_study(
            study, frozen, dataset, groups, detector=detector, limit=limit, resamples=resamples, device=device
        )


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `cora study train`."""

    data: StudyImageOptions = group(StudyImageOptions)
    val_images: Path | None = option(metavar="DIR", help="folder of held-out images, measured at the end")
    val_annotations: Path | None = option(help="their boxes")
    run_dir: Path = option(
        "--run", required=True, writes=kinds.STUDY_RUN, metavar="DIR", help="folder of the run, the study, the report"
    )
    config: Path | None = option(help="settings, JSON or YAML (default: of RN50-quickgelu)")
    frozen: TowerOptions = group(TowerOptions)
    epochs: int | None = option(type=positive, help="number of epochs")
    batch: int | None = option(type=positive, help="images per step")
    lr: float | None = option(type=above_zero, metavar="RATE", help="learning rate")
    versions: int | None = option(type=positive, help="flipped and cropped versions of every image")
    seed: int | None = option(type=seed_number, help="seed of all random numbers")
    workers: int | None = option(type=whole, help="processes that read images")
    fit: FitOptions = group(FitOptions)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of `cora study evaluate`."""

    study: Path = option(required=True, help="study.safetensors of a run")
    data: StudyImageOptions = group(StudyImageOptions)
    checkpoint: str | None = option(metavar="FILE", help="weights of the tower, if their file has moved since")
    json: Path | None = option(writes=kinds.STUDY, help="write everything that was measured to this file")
    plot: Path | None = option(writes=kinds.PICTURE, metavar="FILE.png", help="draw the IoU histogram")
    fit: FitOptions = group(FitOptions)


def train(options: TrainOptions) -> int:
    """Train, measure if asked; returns the exit code.

    Raises:
        CoraError: bad input, before anything is written; or a run that cannot go on.
    """
    from cora.console import counted, output_console, progress_report, say
    from cora.data.benchmarks import testing_images, training_images
    from cora.data.class_split import open_split
    from cora.data.read import read_held_out
    from cora.evaluation.held_out import check_extras, groups_of
    from cora.predictor.device import pick_device
    from cora.study.build import build_frozen
    from cora.study.config import StudyConfig, read_config
    from cora.study.train import train_study

    check_extras("cora study train", measures=False)
    if options.fit.detector is not None and options.val_annotations is None:
        raise DataError("expected --val-images and --val-annotations with --detector, got none to ask it on")
    device = pick_device(options.fit.device)
    config = StudyConfig() if options.config is None else read_config(options.config)
    config = config.changed(
        tower={"name": options.frozen.tower, "checkpoint": options.frozen.checkpoint},
        train={name: getattr(options, name) for name in ("epochs", "batch", "lr", "versions", "seed", "workers")},
    )
    split = None if options.data.split is None else open_split(options.data.split)
    dataset = training_images(options.data.read(None if split is None else split.base), split)
    dataset = dataset.with_records(dataset.records[: options.fit.limit])
    names = dataset.class_names if split is None else split.all
    held_out = read_held_out(options.val_images, options.val_annotations, names)
    if held_out is not None:
        held_out = testing_images(held_out, split)
    frozen = build_frozen(config.tower)
    detector = options.fit.open_detector()
    frozen.vocabulary_encoder.encode(names)  # names too long for the tower fail here
    console = output_console()
    boxes = int(dataset.class_counts().sum())
    classes = counted(len(dataset.class_names), "class")
    say(console, f"{counted(len(dataset), 'image')}, {counted(boxes, 'box')} of {classes}")
    with progress_report() as report:
        study, result = train_study(
            config=config,
            frozen=frozen,
            dataset=dataset,
            run_dir=options.run_dir,
            device=device,
            on_progress=lambda done, total: report("maps", done, total),
        )
    if result.interrupted:
        raise KeyboardInterrupt(f"at step {result.steps}, which is saved; the same command goes on")
    target = options.run_dir / "study.safetensors"
    study.write(target)
    say(console, f"Wrote {target}")
    if held_out is not None:
        groups = groups_of(dataset.class_names, () if split is None else split.novel)
        measured = options.fit.measure(study, frozen, held_out, groups, detector)
        _show(measured, json=options.run_dir / "report.json", plot=options.run_dir / "histogram.png")
    return 0


def evaluate(options: EvaluateOptions) -> int:
    """Measure, print, write; returns the exit code.

    Raises:
        CoraError: bad input, before anything is measured.
    """
    from cora.data.benchmarks import testing_images
    from cora.data.class_split import open_split
    from cora.evaluation.held_out import groups_of_split
    from cora.predictor.device import pick_device
    from cora.study.artefact import read_study
    from cora.study.build import build_frozen

    if options.plot is not None and options.plot.suffix.lower() != ".png":
        raise DataError(f"expected a name that ends in .png for the plot, got {options.plot}")
    pick_device(options.fit.device)
    study = read_study(options.study)
    study = replace(study, config=study.config.changed(tower={"checkpoint": options.checkpoint}, train={}))
    split = None if options.data.split is None else open_split(options.data.split)
    dataset = testing_images(options.data.read(None if split is None else split.all), split)
    frozen = build_frozen(study.config.tower)
    detector = options.fit.open_detector()
    groups = groups_of_split(split, dataset.class_names)
    _show(options.fit.measure(study, frozen, dataset, groups, detector), json=options.json, plot=options.plot)
    return 0


def _show(report: StudyReport, *, json: Path | None, plot: Path | None) -> None:
    """Print, write and draw what was measured."""
    from cora.console import output_console, say

    console = output_console()
    console.print(report.table())
    for group_name, sentence in report.sentences.items():
        say(console, f"{group_name}: {sentence}")
    write_numbers(json, report.to_dict())
    if plot is not None:
        write_picture(plot, report.histogram())
    written = ", ".join(str(path) for path in (json, plot) if path is not None)
    if written:
        say(console, f"Written: {written}")


STUDY = CommandGroup(
    name="study",
    help="is classification or localization the problem?",
    description="Is classification or localization the problem? Gives the true classes away and measures boxes.",
    title="step",
    commands=(
        Command(
            name="train",
            options=TrainOptions,
            run=train,
            help="learn boxes from the true class's activation map",
            description="Learn boxes from activation maps of the true classes, and measure them on held-out images.",
            epilog="The same command again goes on where the run stopped.",
        ),
        Command(
            name="evaluate",
            options=EvaluateOptions,
            run=evaluate,
            help="how well boxes fit with the class given, and the verdict",
            description="How well boxes fit with the class given: IoU by class, histogram, and the verdict.",
        ),
    ),
)

#: Largest ratio of the sides of an image; longer images are squeezed to it.
_LARGEST_RATIO = 4


@dataclass(frozen=True, kw_only=True)
class CamOptions:
    """Options of `cora cam`."""

    image: Path = argument(metavar="IMAGE", help="the image")
    classes: str = classes_option(prompts=False)
    frozen: TowerOptions = group(TowerOptions)
    layers: int = option(type=positive, default=2, help="last layers that are averaged (default: %(default)s)")
    side: int = option(type=positive, default=384, metavar="PX", help="the image's short side (default: %(default)s)")
    output: Path = option(
        default=Path("cam.png"), writes=kinds.PICTURE, metavar="FILE.png", help="image to write (default: %(default)s)"
    )
    device: str = device_option()


def draw_activation(options: CamOptions) -> int:
    """Compute the class activation maps of an image and draw them; returns the exit code 0.

    Raises:
        CoraError: bad input, before anything is computed.
    """
    from PIL import Image

    from cora.console import output_console, say
    from cora.data.name_file import read_names
    from cora.images import read_image
    from cora.predictor.device import pick_device
    from cora.study.build import build_frozen
    from cora.study.config import DEFAULT_TOWER, TowerPart
    from cora.study.plot import draw_maps
    from cora.study.train import cam_tower_of

    names = read_names(options.classes)
    if options.output.suffix.lower() != ".png":
        raise CoraError(f"expected a name that ends in .png for the image, got {options.output}")
    picture = read_image(options.image)
    device = pick_device(options.device)
    tower, checkpoint = options.frozen.tower or DEFAULT_TOWER, options.frozen.checkpoint
    frozen = build_frozen(TowerPart(name=tower, checkpoint=checkpoint, layers=options.layers))
    cam_tower = cam_tower_of(frozen, names).to(device)
    height, width = _patched_size(picture.height, picture.width, options.side, frozen.tower.stride)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    maps = cam_tower(frozen.preprocessor.collate([resized]).pixels.to(device)).cams[0]
    write_picture(options.output, draw_maps(picture, names, maps))
    grid = f"{maps.shape[1]} x {maps.shape[2]} patches"
    say(output_console(), f"Wrote {options.output}: {len(names)} maps of {grid}")
    return 0


def _patched_size(height: int, width: int, short_side: int, stride: int) -> tuple[int, int]:
    """(height, width) of about the same shape, in multiples of the stride, with the short side near `short_side`."""
    short = min(height, width)
    scaled = (min(side / short, _LARGEST_RATIO) * short_side for side in (height, width))
    height, width = (max(1, round(side / stride)) * stride for side in scaled)
    return height, width


CAM = Command(
    name="cam",
    options=CamOptions,
    run=draw_activation,
    help="draw where a frozen CLIP sees named classes",
    description="Draw where a frozen CLIP sees named classes in an image (CLIP Surgery).",
)
