"""What the measuring commands share: their input, checked before any waiting, and what a report says about a run."""

from __future__ import annotations

import argparse
import copy
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import cora
from cora.apps.device import pick_device
from cora.apps.text_options import TextOptions, read_text_options
from cora.console import output_console, say
from cora.data.benchmarks import images_tested
from cora.data.class_split import ClassSplit, open_split
from cora.data.coco import CocoDataset
from cora.data.coco_content import read_json
from cora.data.lvis import is_lvis
from cora.data.read import read_dataset
from cora.detector.fingerprint import weights_fingerprint
from cora.detector.presets import DEFAULT
from cora.errors import DataError
from cora.evaluation.base_novel import class_groups, frequency_groups
from cora.evaluation.bootstrap import PERCENTILES, IntArray, resample_counts
from cora.evaluation.predict import ground_truth
from cora.evaluation.truth import frequencies_of, only_images, read_truth


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured on.

    whole_truth, truth: ground truth as a COCO dictionary, of all images and of those that are measured; class_names:
    in the order of its category ids 1, 2, ...; groups: group -> class names; counts: [R, images] multiplicities of
    resamples; images: None where only finished predictions are measured; indices: into the images.
    """

    whole_truth: dict[str, Any]
    truth: dict[str, Any]
    class_names: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    counts: IntArray
    photos: CocoDataset | None
    indices: range
    device: torch.device
    text: TextOptions

    @property
    def classes(self) -> dict[str, int]:
        """Class name -> category id in the ground truth."""
        return {name: number for number, name in enumerate(self.class_names, start=1)}

    @property
    def dataset(self) -> CocoDataset:
        """The images.

        Raises:
            DataError: there are none.
        """
        if self.photos is None:
            raise DataError("expected a folder of images, got none; name it with --images")
        return self.photos


def prepare(args: argparse.Namespace) -> Setting:
    """Check every input before the model is loaded, so that a bad argument costs no waiting."""
    args.model = args.model or DEFAULT
    device = pick_device(args.device)
    split = None if args.split is None else open_split(args.split)
    names = split.all if split is not None else None
    photos = None if args.images is None else read_annotated(args.images, args.annotations, names)
    if photos is None or photos.format in ("coco", "lvis"):
        sizes = None if photos is None else {record.image_id: record.size for record in photos.records}
        whole = read_truth(args.annotations, class_names=names, sizes=sizes)
    else:
        whole = ground_truth(photos)
    tested, counts = images_tested(whole, split)
    if counts is not None:
        say(output_console(), str(counts))
    whole = only_images(whole, tested)
    if photos is not None:
        photos = copy.copy(photos)
        photos.records = [record for record in photos.records if record.image_id in tested]
    class_names = tuple(category["name"] for category in whole["categories"])
    # Images of a file are in its order, and so are those of the truth.
    ids = [image["id"] for image in whole["images"]] if photos is None else [r.image_id for r in photos.records]
    if not ids:
        raise DataError(
            f"expected at least one image to measure on in {args.annotations}, got none; nothing can be measured"
        )
    indices = range(min(len(ids), args.limit or len(ids)))
    return Setting(
        whole_truth=whole,
        truth=only_images(whole, frozenset(ids[index] for index in indices)),
        class_names=class_names,
        groups=_groups(split, whole, class_names),
        counts=resample_counts(len(indices), resamples=args.resamples),
        photos=photos,
        indices=indices,
        device=device,
        text=read_text_options(args.templates, args.descriptions, class_names),
    )


def read_annotated(images: Path, annotations: Path, names: Sequence[str] | None) -> CocoDataset:
    """Annotated images to measure on.

    COCO files are read as their evaluators read them: boxes that need mending are mended, not refused.
    """
    if annotations.suffix.lower() == ".json" and not (annotations.is_file() and is_lvis(read_json(annotations))):
        return CocoDataset(annotations=annotations, images=images, class_names=names)
    return read_dataset(images=images, annotations=annotations, class_names=names, check_photos=False)


def _groups(
    split: ClassSplit | None, truth: Mapping[str, Any], class_names: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    groups = class_groups(split.base, split.novel) if split is not None else {"all": class_names}
    groups |= frequency_groups(frequencies_of(truth))
    return {group: members for group, members in groups.items() if members}


def header(args: argparse.Namespace, setting: Setting, model: torch.nn.Module | None) -> dict[str, Any]:
    """What a reader needs to repeat the run; `model` is None where predictions came from a file."""
    boxes = [box["iscrowd"] for box in setting.truth["annotations"]]
    source = args.annotations
    return {
        "command": ["cora", *getattr(args, "command_line", sys.argv[1:])],
        "version": cora.__version__,
        "model": None if model is None else {"name": str(args.model), "fingerprint": fingerprint(model)},
        "annotations": {
            "file": str(source),
            "sha256": hashlib.sha256(source.read_bytes()).hexdigest() if source.is_file() else None,
            "repairs": {} if setting.photos is None else setting.photos.repairs,
        },
        "split": {group: list(members) for group, members in setting.groups.items() if group != "all"},
        "vocabulary": list(setting.class_names),
        "templates": setting.text.templates,
        "descriptions": setting.text.descriptions,
        "images": len(setting.indices),
        "boxes": len(boxes) - sum(boxes),
        "crowd_boxes": sum(boxes),
        "bootstrap": {"resamples": len(setting.counts), "percentiles": list(PERCENTILES), "over": "images"},
    }


def fingerprint(model: torch.nn.Module) -> str:
    """`weights_fingerprint`, of an exported file that of the model it was made of."""
    manifest = getattr(model, "manifest", None)
    return weights_fingerprint(model) if manifest is None else str(manifest.fingerprint)
