"""Embeddings of ground-truth regions, computed once, as training data for learned text.

The image tower is frozen, so its output can be stored: D numbers per box instead of feature maps. 100 000 boxes of RN50
take 400 MB, and an epoch takes seconds.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from cora.boxes import box_area
from cora.console import Bars
from cora.data.coco import CocoDataset, targets_of
from cora.detector import Detector
from cora.errors import DataError
from cora.files import read_safetensors, write_safetensors

logger = logging.getLogger(__name__)


class RegionBatch(NamedTuple):
    """Unit region embeddings [n, D] float32 and their labels [n] int64."""

    regions: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class RegionEmbeddings:
    """Embeddings of the n ground-truth boxes of a dataset, without crowds.

    Attributes:
        regions: [n, D] float32, unit norm, from exact pooling with the region prompt.
        labels: [n] int64 indices into `class_names`.
        image_index: [n] int64, index of the image in the dataset.
        areas_px: [n] float32, area of the box in px² of the original image.
        images: number of images in the dataset, including those without boxes.
        class_names: of the dataset.
        fingerprint: hash of the model, images and boxes that the embeddings come from; empty if unknown.
    """

    regions: Tensor
    labels: Tensor
    image_index: Tensor
    areas_px: Tensor
    images: int
    class_names: tuple[str, ...]
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def class_counts(self) -> Tensor:
        """Number of boxes of each class: [C] int64."""
        return torch.bincount(self.labels, minlength=len(self.class_names))


class RegionLoader:
    """Batches of region embeddings in random order; a `cora.training.loop.Loader`.

    The order depends on (seed, epoch) only. The last batch may be smaller.

    Args:
        data: the regions.
        batch_size: regions in a batch.
        seed: of the order.

    Raises:
        DataError: there are no regions.
    """

    def __init__(self, *, data: RegionEmbeddings, batch_size: int, seed: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if not len(data):
            raise DataError("expected at least one box to learn from, got none; look at the classes and the file")
        self.data, self.batch_size, self.seed = data, batch_size, seed

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[RegionBatch]:
        """Batches of `epoch` (from 0), from batch number `start` on."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(self.data), generator=generator)
        for chosen in order.split(self.batch_size)[start:]:
            yield RegionBatch(self.data.regions[chosen], self.data.labels[chosen])


def embed_regions(
    *,
    detector: Detector,
    dataset: CocoDataset,
    file: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> RegionEmbeddings:
    """Embed all ground-truth boxes of a dataset, or read them from `file`.

    Args:
        detector: its image tower and prompt are used, in evaluation mode.
        dataset: images with boxes and classes.
        file: file of the embeddings. It is written if it is missing, unreadable, or of another tower, prompt or
            dataset.
        on_progress: called with (images done, number of images); not called if the file can be used.

    Raises:
        ImageError: an image cannot be read.
        DataError: the size of an image differs from its annotation.
        CoraError: the file cannot be written.
    """
    fingerprint = _fingerprint(detector, dataset)
    tensors = _read(file, fingerprint) if file is not None else None
    if tensors is None:
        tensors = _compute(detector, dataset, on_progress)
        if file is not None:
            write_safetensors(file, tensors, {"fingerprint": fingerprint})
    return RegionEmbeddings(**tensors, images=len(dataset), class_names=dataset.class_names, fingerprint=fingerprint)


@torch.no_grad()
def _compute(
    detector: Detector, dataset: CocoDataset, on_progress: Callable[[int, int], None] | None
) -> dict[str, Tensor]:
    detector.eval()
    regions, image_index = [torch.zeros(0, detector.image_tower.embed_dim)], []
    for index, record in enumerate(dataset.records):
        if len(record.classes):
            batch = detector.preprocessor([dataset[index][0]]).to(detector.device)
            c3, _ = detector.encode(batch)
            boxes = targets_of(record).boxes_cxcywh[None].to(detector.device)
            regions.append(detector.embed_exact(c3, boxes)[0].float().cpu())
        image_index.append(torch.full((len(record.classes),), index, dtype=torch.int64))
        if on_progress is not None:
            on_progress(index + 1, len(dataset.records))
    boxes = torch.cat([torch.zeros(0, 4), *(record.boxes_xyxy_px for record in dataset.records)])
    return {
        "regions": torch.cat(regions),
        "labels": torch.cat([torch.zeros(0, dtype=torch.int64), *(record.classes for record in dataset.records)]),
        "image_index": torch.cat([torch.zeros(0, dtype=torch.int64), *image_index]),
        "areas_px": box_area(boxes),
    }


def _fingerprint(detector: Detector, dataset: CocoDataset) -> str:
    """Hash of everything that the embeddings depend on: preprocessing, tower, prompt, images and boxes."""
    digest = hashlib.sha256(repr(detector.preprocessor.config).encode())
    for name, tensor in [*sorted(detector.image_tower.state_dict().items()), ("prompt", detector.prompt.offset)]:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for record in dataset.records:
        # Only the file name, so that the folder may be moved.
        digest.update(f"{record.path.name} {record.size}".encode())
        digest.update(record.boxes_xyxy_px.numpy().tobytes() + record.classes.numpy().tobytes())
    return digest.hexdigest()[:32]


def _read(file: Path, fingerprint: str) -> dict[str, Tensor] | None:
    if not file.is_file():
        return None
    try:
        metadata, tensors = read_safetensors(file)
        if metadata.get("fingerprint") == fingerprint:
            return tensors
        logger.warning("%s holds regions of another model or dataset and is made again", file)
    except (SafetensorError, OSError) as error:
        logger.warning("%s cannot be read and is made again: %s", file, error)
    return None


def embed_dataset(detector: Detector, dataset: CocoDataset, cache: Path | None, name: str) -> RegionEmbeddings:
    """`embed_regions` with a progress bar on stderr and a file in the folder `cache`; None for no file."""
    file = None if cache is None else cache / f"regions_{name}.safetensors"
    with Bars() as bars:
        on_progress = partial(bars.update, f"boxes of {name}")
        return embed_regions(detector=detector, dataset=dataset, file=file, on_progress=on_progress)
