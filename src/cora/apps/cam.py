"""`cora cam`: where a frozen CLIP sees named classes in an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive
from cora.apps.command import Command
from cora.apps.model_options import classes_option, device_option
from cora.apps.options import argument, group, option
from cora.apps.study import TowerOptions
from cora.errors import CoraError

#: Longest side to shortest; what is longer is squeezed.
_LONGEST = 4


@dataclass(frozen=True, kw_only=True)
class CamOptions:
    """Options of `cora cam`."""

    image: Path = argument(metavar="IMAGE", help="the image")
    classes: str = classes_option(prompts=False)
    frozen: TowerOptions = group(TowerOptions)
    layers: int = option(type=positive, default=2, help="last layers that are averaged (default: %(default)s)")
    side: int = option(type=positive, default=384, metavar="PX", help="the image's short side (default: %(default)s)")
    output: Path = option(
        default=Path("cam.png"), writes=kinds.PICTURE, metavar="FILE.png", help="(default: %(default)s)"
    )
    device: str = device_option()


def run(options: CamOptions) -> int:
    """Compute the class activation maps of an image and draw them; returns the exit code 0.

    Raises:
        CoraError: bad input, before anything is computed.
    """
    from PIL import Image

    from cora.console import output_console, say
    from cora.data.name_file import read_names
    from cora.files import write_picture
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
    """(height, width) of about the same shape: multiples of the stride, the short side nearest to `short_side`."""
    short = min(height, width)
    scaled = (min(side / short, _LONGEST) * short_side for side in (height, width))
    height, width = (max(1, round(side / stride)) * stride for side in scaled)
    return height, width


COMMAND = Command(
    name="cam",
    options=CamOptions,
    run=run,
    help="draw where a frozen CLIP sees named classes",
    description="Draw where a frozen CLIP sees named classes in an image (CLIP Surgery).",
)
