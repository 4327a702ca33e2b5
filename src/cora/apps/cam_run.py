"""Compute class activation maps of an image and draw them."""

from __future__ import annotations

import argparse

from PIL import Image

from cora.apps.device import pick_device
from cora.apps.model_options import read_names
from cora.console import output_console, say
from cora.errors import CoraError
from cora.files import write_picture
from cora.images import read_image
from cora.study.build import build_frozen
from cora.study.config import DEFAULT_TOWER, TowerPart
from cora.study.plot import draw_maps
from cora.study.train import cam_tower_of

#: Longest side to shortest; what is longer is squeezed.
_LONGEST = 4


def draw_cams(args: argparse.Namespace) -> int:
    """Run `cora cam`; returns the exit code 0.

    Raises:
        CoraError: bad input, before anything is computed.
    """
    names = read_names(args.classes)
    if args.output.suffix.lower() != ".png":
        raise CoraError(f"expected a name that ends in .png for the image, got {args.output}")
    picture = read_image(args.image)
    device = pick_device(args.device)
    frozen = build_frozen(TowerPart(name=args.tower or DEFAULT_TOWER, checkpoint=args.checkpoint, layers=args.layers))
    cam_tower = cam_tower_of(frozen, names).to(device)
    height, width = patched_size(picture, args.side, frozen.tower.stride)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    maps = cam_tower(frozen.preprocessor.collate([resized]).pixels.to(device)).cams[0]
    drawn = draw_maps(picture, names, maps)
    write_picture(args.output, drawn)
    grid = f"{maps.shape[1]} x {maps.shape[2]} patches"
    say(output_console(), f"Wrote {args.output}: {len(names)} maps of {grid}")
    return 0


def patched_size(picture: Image.Image, short_side: int, stride: int) -> tuple[int, int]:
    """(height, width) of about the image's shape: multiples of the stride, the short side nearest to `short_side`."""
    short = min(picture.size)
    scaled = (min(side / short, _LONGEST) * short_side for side in (picture.height, picture.width))
    height, width = (max(1, round(side / stride)) * stride for side in scaled)
    return height, width
