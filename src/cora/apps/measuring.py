"""What the commands for smaller models share: the images that they use, and what is measured on them."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cora.apps.argument_types import positive, whole
from cora.apps.model_options import device_option
from cora.apps.options import option

if TYPE_CHECKING:
    from PIL import Image

    from cora.apps.kinds import Kind
    from cora.data.coco import CocoDataset
    from cora.detector import Detector
    from cora.evaluation.held_out import HeldOut

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
    seed: int = option(type=whole, default=0, help="of everything drawn (default: %(default)s)")
    device: str = device_option()

    def draw_paths(self, paths: Sequence[Path]) -> list[Path]:
        """As many of some images as --photos says, drawn by the seed, or all if there are fewer; in the order drawn."""
        return random.Random(self.seed).sample(paths, min(self.photos, len(paths)))

    def draw(self, paths: Sequence[Path]) -> list[Image.Image]:
        """The images of `draw_paths`, in the order of their names.

        Raises:
            ImageError: one cannot be read.
        """
        from cora.images import read_image

        return [read_image(path) for path in sorted(self.draw_paths(paths))]

    def names(self, annotated: CocoDataset | None) -> tuple[str, ...]:
        """What the images are searched for: as told, the classes of the annotations, or everyday names."""
        from cora.data.name_file import read_names
        from cora.regions import EVERYDAY_NAMES

        if self.classes:
            return read_names(self.classes)
        return annotated.class_names if annotated is not None else EVERYDAY_NAMES

    def read_held_out(self) -> HeldOut | None:
        """The images with boxes that AP50 is measured on.

        Raises:
            DataError: images without boxes or boxes without images, or a file that cannot be used.
            MissingExtraError: without the extra `evaluate`.
        """
        from importlib.util import find_spec

        from cora.data.class_split import open_split
        from cora.data.image_sets import testing_images
        from cora.data.read import read_held_out
        from cora.errors import MissingExtraError
        from cora.evaluation.held_out import HeldOut, groups_of

        if self.val_images is not None and find_spec("hotcoco") is None:
            raise MissingExtraError("AP50", extra="evaluate")
        split = None if self.split is None else open_split(self.split)
        dataset = read_held_out(self.val_images, self.val_annotations, None if split is None else split.all)
        if dataset is None:
            return None
        dataset = testing_images(dataset, split)
        dataset = dataset.with_records(dataset.records[: self.limit])
        base, novel = (split.base, split.novel) if split is not None else (dataset.class_names, ())
        return HeldOut(dataset=dataset, groups=groups_of(base, novel))


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
    """Print what models cost and find, write it as JSON if asked, and say where the new one is."""
    from cora.compress.compare import compare_models, comparison_table
    from cora.console import output_console, say

    columns = compare_models(models, images, names, held_out)
    console = output_console()
    console.print(comparison_table(columns))
    write_numbers(json, {**about, "models": {key: value.to_dict() for key, value in columns.items()}})
    say(console, f"Wrote {output}")


def write_numbers(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write numbers as JSON beside the command line that gave them, if a file is named."""
    import cora
    from cora.files import write_json

    if path is not None:
        write_json(path, {"command": ["cora", *sys.argv[1:]], "version": cora.__version__, **content})
