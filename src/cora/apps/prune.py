"""`cora prune`: its arguments; `prune_run.py` does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import above_zero, positive, share, whole
from cora.apps.command import set_command
from cora.apps.model_options import add_device_option, add_resnet_option


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `prune` to the commands."""
    parser = commands.add_parser(
        "prune",
        help="a smaller model: remove what matters least",
        description="A smaller model: removes channels, heads, layers and anchors that matter least on given images.",
        epilog="The result is an ordinary model file. Without boxes to fine-tune on, 'cora distill' mends it.",
    )
    add_arguments(parser)
    set_command(parser, run, output=kinds.MODEL, json=kinds.COMPARED, run_dir=kinds.PRUNE_RUN)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cora prune`."""
    add_resnet_option(parser)
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="images that importance is measured on"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="model file to write")
    removed = parser.add_argument_group("what goes", "the least important; nothing goes that is not named here")
    removed.add_argument("--ffn", type=share, metavar="SHARE", help="of the localizer's feed-forward channels")
    removed.add_argument("--heads", type=share, metavar="SHARE", help="of the localizer's attention heads")
    removed.add_argument("--anchors", type=share, metavar="SHARE", help="of the anchors")
    removed.add_argument("--encoder-layers", type=whole, metavar="N", help="encoder layers")
    removed.add_argument("--decoder-layers", type=whole, metavar="N", help="decoder layers")
    removed.add_argument("--tower-blocks", type=whole, metavar="N", help="residual blocks of the image tower")
    removed.add_argument(
        "--tower-width", type=share, metavar="SHARE", help="of the image tower's channels, and heads of its pool"
    )
    removed.add_argument(
        "--architecture", type=Path, metavar="FILE", help="JSON of the sizes that are left, as of 'cora search-arch'"
    )
    add_measuring(parser)
    tuned = parser.add_argument_group("fine-tuning", "trains the pruned localizer on the boxes of --annotations")
    tuned.add_argument("--annotations", type=Path, metavar="FILE", help="boxes of the images: COCO, LVIS, VOC or YOLO")
    tuned.add_argument("--epochs", type=positive, metavar="N", help="epochs (default: no fine-tuning)")
    tuned.add_argument(
        "--lr", type=above_zero, default=2e-4, metavar="RATE", help="learning rate (default: %(default)s)"
    )
    tuned.add_argument(
        "--run",
        type=Path,
        default=Path("cora-prune"),
        metavar="DIR",
        dest="run_dir",
        help="folder of the fine-tuning, which goes on after a stop (default: %(default)s)",
    )


def add_measuring(parser: argparse.ArgumentParser, *, photos: int = 32) -> None:
    """Options that the commands for smaller models share; `images` are used unless told otherwise."""
    measured = parser.add_argument_group("measuring")
    measured.add_argument(
        "--classes",
        metavar="NAMES",
        help='names that the images are searched for, "a, b" or @FILE (default: those of the annotations, or a hundred '
        "everyday ones)",
    )
    measured.add_argument(
        "--photos",
        type=positive,
        default=photos,
        metavar="N",
        help="images of --images that are used (default: %(default)s)",
    )
    measured.add_argument("--val-images", type=Path, metavar="DIR", help="images with boxes, for AP50 before and after")
    measured.add_argument("--val-annotations", type=Path, metavar="FILE", help="their boxes")
    measured.add_argument("--split", metavar="FILE", help='their class split: JSON, "coco" or "lvis"')
    measured.add_argument("--limit", type=positive, metavar="N", help="of --val-images only the first N (default: all)")
    measured.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers")
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="of everything drawn (default: %(default)s)")
    add_device_option(parser)


def run(args: argparse.Namespace) -> int:
    """Remove what matters least; returns the exit code."""
    from cora.apps.prune_run import prune_model

    return prune_model(args)
