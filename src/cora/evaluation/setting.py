"""What a model is measured on, read and checked before anything slow starts, and the header of a report."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import cora
from cora.console import output_console, say
from cora.data.benchmarks import images_tested
from cora.data.class_split import open_split
from cora.data.coco import CocoDataset
from cora.data.read import read_annotated
from cora.detector.fingerprint import weights_fingerprint
from cora.errors import DataError
from cora.evaluation.base_novel import class_groups, frequency_groups
from cora.evaluation.bootstrap import PERCENTILES, IntArray, resample_counts
from cora.evaluation.predict import ground_truth
from cora.evaluation.truth import frequencies_of, only_images, read_truth
from cora.regions.sentences import Sentences


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a model is measured on.

    Attributes:
        whole_truth: ground truth of all images, as a COCO dictionary.
        truth: ground truth of the images that are measured.
        class_names: class names in the order of the category ids, which count from 1.
        groups: group -> class names.
        counts: [R, images] multiplicities of resamples.
        photos: the images; None where detections come from a file and no images were given.
        indices: indices of the images that are measured.
    """

    whole_truth: dict[str, Any]
    truth: dict[str, Any]
    class_names: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    counts: IntArray
    photos: CocoDataset | None
    indices: range

    @property
    def classes(self) -> dict[str, int]:
        """Class name -> category id in the ground truth."""
        return {name: number for number, name in enumerate(self.class_names, start=1)}

    @property
    def dataset(self) -> CocoDataset:
        """The images.

        Raises:
            DataError: no images were given.
        """
        if self.photos is None:
            raise DataError("expected a folder of images, got none; name it with --images")
        return self.photos


def read_setting(
    *,
    images: Path | None,
    annotations: Path,
    split: Path | str | None = None,
    limit: int | None = None,
    resamples: int = 200,
) -> Setting:
    """Read what a model is measured on; for a benchmark, the number of its images is printed.

    Args:
        images: folder of the images; None where detections come from a file.
        annotations: annotations of the images.
        split: file of a class split, or name of a benchmark.
        limit: number of images to measure on, the first ones; None for all.
        resamples: number of resamples of the images, for the intervals.

    Raises:
        DataError: an input cannot be read, or there is no image to measure on.
    """
    parts = None if split is None else open_split(split)
    names = parts.all if parts is not None else None
    photos = None if images is None else read_annotated(images, annotations, names)
    if photos is None or photos.format in ("coco", "lvis"):
        sizes = None if photos is None else {record.image_id: record.size for record in photos.records}
        whole = read_truth(annotations, class_names=names, sizes=sizes)
    else:
        whole = ground_truth(photos)
    tested, counts = images_tested(whole, parts)
    if counts is not None:
        say(output_console(), str(counts))
    whole = only_images(whole, tested)
    if photos is not None:
        photos = photos.with_records(record for record in photos.records if record.image_id in tested)
    class_names = tuple(category["name"] for category in whole["categories"])
    # Both lists are in the order of the file.
    ids = [image["id"] for image in whole["images"]] if photos is None else [r.image_id for r in photos.records]
    if not ids:
        raise DataError(
            f"expected at least one image to measure on in {annotations}, got none; nothing can be measured"
        )
    indices = range(min(len(ids), limit or len(ids)))
    groups = class_groups(parts.base, parts.novel) if parts is not None else {"all": class_names}
    groups |= frequency_groups(frequencies_of(whole))
    return Setting(
        whole_truth=whole,
        truth=only_images(whole, frozenset(ids[index] for index in indices)),
        class_names=class_names,
        groups={group: members for group, members in groups.items() if members},
        counts=resample_counts(len(indices), resamples=resamples),
        photos=photos,
        indices=indices,
    )


def header(
    setting: Setting,
    *,
    command: Sequence[str],
    annotations: Path,
    model: tuple[str, torch.nn.Module] | None,
    sentences: Sentences,
) -> dict[str, Any]:
    """The start of a report, with what a reader needs to repeat the run.

    Args:
        setting: what was measured on.
        command: arguments of the command line.
        annotations: file or folder of the annotations.
        model: the model after its name; None where detections came from a file.
        sentences: templates and descriptions of the class names.
    """
    boxes = [box["iscrowd"] for box in setting.truth["annotations"]]
    return {
        "command": ["cora", *command],
        "version": cora.__version__,
        "model": None if model is None else {"name": model[0], "fingerprint": fingerprint(model[1])},
        "annotations": {
            "file": str(annotations),
            "sha256": hashlib.sha256(annotations.read_bytes()).hexdigest() if annotations.is_file() else None,
            "repairs": {} if setting.photos is None else setting.photos.repairs,
        },
        "split": {group: list(members) for group, members in setting.groups.items() if group != "all"},
        "vocabulary": list(setting.class_names),
        "templates": sentences.templates,
        "descriptions": sentences.descriptions,
        "images": len(setting.indices),
        "boxes": len(boxes) - sum(boxes),
        "crowd_boxes": sum(boxes),
        "bootstrap": {"resamples": len(setting.counts), "percentiles": list(PERCENTILES), "over": "images"},
    }


def fingerprint(model: torch.nn.Module) -> str:
    """`weights_fingerprint` of a model; of an exported model, the one of the model that it was made from."""
    manifest = getattr(model, "manifest", None)
    return weights_fingerprint(model) if manifest is None else str(manifest.fingerprint)
