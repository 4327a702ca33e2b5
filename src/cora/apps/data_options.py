"""Options that commands share: annotated images, changes of a recipe, processes, and what models are measured on."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cora.apps.argument_types import above_zero, positive, seed_number, whole
from cora.apps.model_options import TextOptions, device_option
from cora.apps.options import group, option, switch
from cora.errors import DataError, MissingExtraError
from cora.files import write_json

if TYPE_CHECKING:
    from PIL import Image

    from cora.apps.kinds import Kind
    from cora.data.coco import CocoDataset
    from cora.detector import Detector
    from cora.evaluation.held_out import HeldOut
    from cora.evaluation.setting import Setting
    from cora.training.engine import Engine


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Where the annotated images are."""

    images: Path = option(required=True, metavar="DIR", help="folder of the images, or of shards (cora shards)")
    annotations: Path | None = option(help="COCO or LVIS JSON, or the folder of VOC or YOLO files")
    format: Literal["auto", "coco", "lvis", "voc", "yolo", "shards"] = option(
        default="auto", help="format of the annotations (default: detected)"
    )
    skip_bad: bool = switch(help="skip faulty entries and report how many")

    def read(self, class_names: tuple[str, ...] | None = None) -> CocoDataset:
        """The images with their boxes, of these classes only if some are given.

        Raises:
            DataError: they cannot be read, or there are no boxes.
        """
        from cora.data.read import read_dataset

        return read_dataset(
            images=self.images,
            annotations=self.annotations,
            class_names=class_names,
            format=self.format,
            skip_bad=self.skip_bad,
        )


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Changes of a recipe of several stages."""

    seed: int | None = option(type=seed_number, help="seed of all random numbers")
    workers: int | None = option(type=whole, help="processes that read images")
    settings: Sequence[str] = option(
        "--set",
        action="append",
        default=(),
        metavar="KEY=VALUE",
        help="any setting of the recipe, such as localizer.task.class_dropout=0; may be repeated",
    )

    def changes(self, stage: str | None = None) -> list[str]:
        """The options as settings of a recipe, KEY=VALUE; those of --set come last, so that they win.

        Args:
            stage: that --epochs, --batch and the like are for, in commands that have them.
        """
        found = [] if self.seed is None else [f"seed={self.seed}"]
        found += [] if self.workers is None else [f"data.workers={self.workers}"]
        return found + list(self.settings)


@dataclass(frozen=True, kw_only=True)
class StageOptions(RecipeOptions):
    """Changes of a recipe, with options of their own for the settings of one stage that change most often."""

    epochs: int | None = option(type=positive, help="number of epochs")
    batch: int | None = option(type=positive, help="images per batch of one process")
    lr: float | None = option(type=above_zero, metavar="RATE", help="learning rate")
    precision: Literal["32", "bf16", "16"] | None = option(help="float32, or mixed precision with bfloat16 or float16")

    def changes(self, stage: str | None = None) -> list[str]:
        """As in the base class, with the settings of `stage` first."""
        named = {"epochs": self.epochs, "batch": self.batch, "lr": self.lr, "precision": self.precision}
        return [f"{stage}.{name}={value}" for name, value in named.items() if value is not None] + super().changes()


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """How many processes there are, and whether Slurm starts them; `{again}` is what a job does after a stop."""

    processes: int = option(
        type=positive, default=1, help="processes on each machine, one per GPU (default: %(default)s)"
    )
    machines: int = option(
        type=positive, default=1, help="machines, whose processes torchrun or srun starts (default: %(default)s)"
    )
    slurm: Sequence[str] | None = option(
        nargs="*",
        metavar="KEY=VALUE",
        help="submit this command as a Slurm job, which {again}; partition=gpu, minutes=600, account, qos, constraint, "
        "cpus_per_process, memory_gb, restarts, name",
    )

    def run(self, prepare: Callable[[], Callable[[Engine], Any]], *, device: str) -> int:
        """Do work in the processes that the options ask for; returns the exit code 0.

        Args:
            prepare: checks the input and returns the work, which must be picklable, since other processes get a copy.
            device: name of a torch device, or "auto".

        Raises:
            CoraError: bad input, or what a process raises.
        """
        from cora.predictor.device import pick_device
        from cora.training.engine import Engine, check_started, launch

        picked = pick_device(device)
        check_started(processes=self.processes, machines=self.machines)
        work = prepare()
        if self.processes == self.machines == 1:
            work(Engine(device=picked))
        else:
            kind: Any = device if device == "auto" else picked.type
            launch(work, processes=self.processes, machines=self.machines, device=kind)
        return 0

    def submit(
        self, prepare: Callable[[], Callable[[Engine], Any]], *, device: str, folder: Path, restarts: int | None = None
    ) -> int:
        """Check everything here, then submit the work to Slurm; returns the exit code 0.

        Args:
            prepare: checks the input and returns the work, which must be picklable.
            device: name of a torch device, or "auto".
            folder: of the job's script and logs.
            restarts: how often the job starts again after the time limit, unless --slurm says so; None for the default
                of `SlurmConfig`.

        Raises:
            CoraError: bad input, or no Slurm here; nothing was written.
        """
        from cora.console import output_console, say
        from cora.training.override import override
        from cora.training.slurm import SlurmConfig, submit_slurm

        # This machine need not have the GPUs that the job is to get.
        kind: Any = "cpu" if device == "cpu" else "cuda"
        usual = SlurmConfig(
            machines=self.machines,
            processes=self.processes,
            device=kind,
            restarts=SlurmConfig.restarts if restarts is None else restarts,
        )
        job = submit_slurm(prepare(), folder=folder, config=override(usual, self.slurm or ()))
        say(output_console(), f"Submitted job {job.job_id}; its script and logs are in {folder}")
        return 0


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Options of `cora evaluate` and `cora region-accuracy`: what is measured on, and the model."""

    images: Path | None = option(metavar="DIR", help="folder of the images")
    annotations: Path | None = option(help="annotation file: COCO, LVIS, or as for training")
    split: Path | None = option(
        help='JSON with the lists "base" and "novel", or "coco" or "lvis" (default: all classes are one group)'
    )
    model: str | None = option(help="name or path of the model (default: nano)")
    text: TextOptions = group(TextOptions)
    device: str = device_option()
    limit: int | None = option(type=positive, help="only the first N images")
    resamples: int = option(type=positive, default=200, help="bootstrap resamples (default: %(default)s)")
    json: Path | None = option(help="write everything that was measured to this file")

    def read_setting(self, images: Path | None, annotations: Path) -> Setting:
        """What is measured on, of these images.

        Raises:
            DataError: a file cannot be used.
        """
        from cora.evaluation.setting import read_setting

        return read_setting(
            images=images, annotations=annotations, split=self.split, limit=self.limit, resamples=self.resamples
        )


_MEASURING = "measuring"


def photos_option(default: int) -> Any:
    """`photos: int`, how many images are used."""
    return option(
        section=_MEASURING,
        type=positive,
        default=default,
        metavar="N",
        help="images of --images that are used (default: %(default)s)",
    )


def numbers_option(writes: Kind) -> Any:
    """`json: Path | None`, where all numbers are written."""
    return option(section=_MEASURING, writes=writes, metavar="FILE", help="also write all numbers")


@dataclass(frozen=True, kw_only=True)
class MeasuringOptions:
    """Options that the commands for smaller models share."""

    classes: str | None = option(
        section=_MEASURING,
        metavar="NAMES",
        help='names that the images are searched for, "a, b" or @FILE (default: those of the annotations, or a hundred '
        "everyday ones)",
    )
    photos: int = photos_option(32)
    val_images: Path | None = option(
        section=_MEASURING, metavar="DIR", help="images with boxes, for AP50 before and after"
    )
    val_annotations: Path | None = option(section=_MEASURING, help="their boxes")
    split: str | None = option(section=_MEASURING, metavar="FILE", help='their class split: JSON, "coco" or "lvis"')
    limit: int | None = option(
        section=_MEASURING, type=positive, help="of --val-images only the first N (default: all)"
    )
    seed: int = option(type=seed_number, default=0, help="seed of all random numbers (default: %(default)s)")
    device: str = device_option()

    def draw_paths(self, paths: Sequence[Path]) -> list[Path]:
        """A random sample of --photos paths, in the order drawn; all of them if there are fewer."""
        return random.Random(self.seed).sample(paths, min(self.photos, len(paths)))

    def draw(self, paths: Sequence[Path]) -> list[Image.Image]:
        """The images of such a sample, in the order of their names.

        Raises:
            ImageError: one cannot be read.
        """
        from cora.images import read_image

        return [read_image(path) for path in sorted(self.draw_paths(paths))]

    def names(self, annotated: CocoDataset | None) -> tuple[str, ...]:
        """Names to search the images for: those of --classes, else of the annotations, else everyday names."""
        from cora.data.name_file import read_names
        from cora.regions import EVERYDAY_NAMES

        if self.classes:
            return read_names(self.classes)
        return annotated.class_names if annotated is not None else EVERYDAY_NAMES

    def read_held_out(self) -> HeldOut | None:
        """The images with boxes that AP50 is measured on; None without --val-images.

        Raises:
            DataError: images without boxes, boxes or other options without images, or a file that cannot be used.
            MissingExtraError: without the extra `evaluate`.
        """
        from cora.evaluation.held_out import HeldOut

        if self.val_images is None and (self.split or self.limit):
            flag = "--split" if self.split else "--limit"
            raise DataError(f"expected --val-images and --val-annotations with {flag}, got none; leave it out")
        if self.val_images is not None:
            check_evaluate_extra("AP50")
        return HeldOut.read(self.val_images, self.val_annotations, self.split, limit=self.limit)


def check_evaluate_extra(feature: str) -> None:
    """Raise MissingExtraError now, and not after all images, where the extra `evaluate` is not installed."""
    from importlib.util import find_spec

    if find_spec("hotcoco") is None:
        raise MissingExtraError(feature, extra="evaluate")


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, in the order of their names.

    Raises:
        ImageError: there are none.
    """
    from cora.data.sources import find_images

    return sorted(find_images([str(folder)]).paths)


def tell_models(
    models: Mapping[str, Detector],
    images: list[Image.Image],
    names: tuple[str, ...],
    held_out: HeldOut | None,
    *,
    output: Path,
    json: Path | None,
    **about: int,
) -> None:
    """Compare models: print a table, write it as JSON if asked, and say where the new model is.

    Args:
        models: by the name that the table shows; the new one is the last.
        images: to measure on.
        names: classes that the images are searched for.
        held_out: images with boxes, for AP50.
        output: file of the new model.
        json: file to write.
        **about: further numbers for the file.
    """
    from cora.compress.compare import compare_models, comparison_table
    from cora.console import output_console, say

    columns = compare_models(models, images, names, held_out)
    console = output_console()
    console.print(comparison_table(columns))
    write_numbers(json, {**about, "models": {key: value.to_dict() for key, value in columns.items()}})
    say(console, f"Wrote {output}")


def write_numbers(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write numbers and the command line that gave them as JSON; does nothing without a path."""
    import cora

    if path is not None:
        write_json(path, {"command": ["cora", *sys.argv[1:]], "version": cora.__version__, **content})
