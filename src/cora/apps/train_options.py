"""Options that the training commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.apps.argument_types import above_zero, positive, whole

#: Named option -> the setting of a stage that it stands for.
SHORTCUTS = {"epochs": "epochs", "batch": "batch", "lr": "lr", "precision": "precision"}


def add_photos(parser: argparse.ArgumentParser) -> None:
    """Where the annotated images are."""
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder of the images, or of shards (cora shards)"
    )
    parser.add_argument(
        "--annotations", type=Path, metavar="FILE", help="COCO or LVIS JSON, or the folder of VOC or YOLO files"
    )
    parser.add_argument(
        "--format",
        choices=("auto", "coco", "lvis", "voc", "yolo", "shards"),
        default="auto",
        help="of the annotations (default: found out)",
    )
    parser.add_argument("--skip-bad", action="store_true", help="drop faulty entries and say how many")


def add_settings(parser: argparse.ArgumentParser, *, named: bool) -> None:
    """Changes of the recipe; `named`: those of one stage have options of their own."""
    if named:
        parser.add_argument("--epochs", type=positive, metavar="N", help="epochs in all")
        parser.add_argument("--batch", type=positive, metavar="N", help="images a step")
        parser.add_argument("--lr", type=above_zero, metavar="RATE", help="learning rate")
        parser.add_argument("--precision", choices=("32", "bf16", "16"), help="of the computation")
    parser.add_argument("--seed", type=whole, metavar="N", help="of everything drawn at random")
    parser.add_argument("--workers", type=whole, metavar="N", help="processes that read images")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="any setting of the recipe, such as localizer.task.class_dropout=0; may be repeated",
    )


def settings(args: argparse.Namespace, *, stage: str | None) -> list[str]:
    """What the options say, as settings of a recipe; those of --set come last and win."""
    found = [] if args.seed is None else [f"seed={args.seed}"]
    found += [] if args.workers is None else [f"data.workers={args.workers}"]
    for option, name in SHORTCUTS.items():
        value = getattr(args, option, None)
        if stage is not None and value is not None:
            found.append(f"{stage}.{name}={value}")
    return found + list(args.settings)
