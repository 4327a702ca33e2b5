"""The hold-out of a fine-tuning run: written to the run's folder, read again by `cora evaluate --run`."""

from __future__ import annotations

import argparse
from pathlib import Path

from cora.data.coco import CocoDataset
from cora.data.coco_content import read_json
from cora.errors import DataError
from cora.files import write_json
from cora.training.pipeline import MODEL

HELD_OUT = "held_out.json"


def write_hold_out(run: Path, dataset: CocoDataset) -> Path:
    """Write the held-out images and boxes as a COCO file; not of shards, whose images are no files."""
    path = run / HELD_OUT
    info = {"held_out": len(dataset), "images": str(dataset.images.resolve())}
    write_json(path, {"info": info, **dataset.to_coco()}, indent=None)
    return path


def take_hold_out(args: argparse.Namespace) -> None:
    """Let `--run` stand for the images, the annotations and the model of a fine-tuning run.

    Args:
        args: of `cora evaluate`; images, annotations and model are set.

    Raises:
        DataError: it is no such run, it held nothing out, or images are named besides.
    """
    if args.finetuned is None:
        if args.annotations is None:
            raise DataError("the following arguments are required: --annotations, or --run of a fine-tuning")
        return
    beside = [name for name in ("images", "annotations") if getattr(args, name) is not None]
    if beside:
        raise DataError(f"expected --run alone, which has its own images, got --{beside[0]} beside it; leave one out")
    file = args.finetuned / HELD_OUT
    if not file.is_file():
        raise DataError(
            f"--run: expected the folder of a finished 'cora finetune' that held images out, got no {HELD_OUT} in "
            f"{args.finetuned}; name --images and --annotations instead"
        )
    args.annotations = file
    info = read_json(file).get("info")
    images = info.get("images") if isinstance(info, dict) else None
    if not isinstance(images, str):
        raise DataError(f"--run: expected a list of held-out images that 'cora finetune' wrote, got {file}")
    args.images = Path(images)
    if args.model is None and args.predictions is None:
        args.model = str(args.finetuned / MODEL)
