"""What a model is measured on, read and checked before any waiting, and what a report says about a run."""

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


def read_setting(
    *,
    images: Path | None,
    annotations: Path,
    split: Path | str | None = None,
    limit: int | None = None,
    resamples: int = 200,
) -> Setting:
    """Read what is measured on; the number of a benchmark's images is printed.

    Args:
        images: their folder; None where only finished predictions are measured.
        annotations: their boxes.
        split: of the classes: a file, or the name of a benchmark.
        limit: only the first so many images.
        resamples: of the images, for intervals.

    Raises:
        DataError: an input cannot be read, or there is nothing to measure on.
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
    # Images of a file are in its order, and so are those of the truth.
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
    """What a reader needs to repeat the run.

    Args:
        setting: what was measured on.
        command: the words of the command line.
        annotations: the file or folder of the setting's boxes.
        model: its name and itself; None where predictions came from a file.
        sentences: around and about class names.
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
    """`weights_fingerprint`, of an exported file that of the model it was made of."""
    manifest = getattr(model, "manifest", None)
    return weights_fingerprint(model) if manifest is None else str(manifest.fingerprint)
