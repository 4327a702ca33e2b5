"""A cache of image features: a frozen tower encodes several augmented versions of every image once.

On a CPU the image tower takes most of the time of a training step, and a frozen one computes the same for the same
input in every epoch. The cache keeps the feature maps C3 and C4 of K augmented versions of each image on disk, in half
precision; where both are one map, it is stored once. Each version is a file of its own, so that the cache can be built
in parts and read in any order. Epoch e reads version (e + offset of the image) modulo K.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cora.data.coco import CocoImage
from cora.data.loader import AugmentedDataset, Transform
from cora.errors import DataError
from cora.files import whole_file, write_json
from cora.structures import FeatureMap, ImageBatch, Targets

INDEX = "cache.json"
#: Number of written files after which the size of the whole cache is estimated.
SIZE_SAMPLE = 16

FeatureBatch = tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]


class Tower(Protocol):
    """The part of an image tower that the cache uses."""

    def features(self, batch: ImageBatch) -> tuple[FeatureMap, FeatureMap]:
        """Feature maps C3 and C4 of a batch."""

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, by which the cache notices another tower."""


class CachedItem(NamedTuple):
    """One version of an image: float16 c3 [C3, h, w] and c4 [C4, h', w'] without padding, maybe one and the same."""

    c3: Tensor
    c4: Tensor
    targets: Targets


class FeatureCache(Dataset[CachedItem]):
    """The items of a finished cache, indexed by (epoch, index) like every dataset of an `EpochLoader`.

    Args:
        folder: folder of the cache.

    Raises:
        DataError: the folder holds no cache, or an unfinished one.
    """

    def __init__(self, *, folder: Path) -> None:
        index = _read_index(folder)
        if index is None or "shapes" not in index:
            raise DataError(f"no finished feature cache in {folder}; build it with build_feature_cache")
        self.folder = folder
        self.versions = int(index["versions"])
        self.class_names = tuple(index["class_names"])
        self.shapes: list[list[tuple[int, int]]] = [[(h, w) for h, w in row] for row in index["shapes"]]
        self.offsets = np.random.default_rng(int(index["seed"])).integers(self.versions, size=len(self.shapes))

    def __len__(self) -> int:
        return len(self.shapes)

    def version(self, epoch: int, index: int) -> int:
        """Which of the K versions of an image an epoch reads."""
        return int((epoch + self.offsets[index]) % self.versions)

    def aspect(self, epoch: int, index: int) -> float:
        """Height over width of C3, for `EpochLoader(shape_key=...)`: similar maps need little padding in a batch."""
        height, width = self.shapes[index][self.version(epoch, index)]
        return height / width

    def __getitem__(self, key: tuple[int, int]) -> CachedItem:
        epoch, index = key
        tensors = load_file(_item_path(self.folder, self.version(epoch, index), index))
        targets = Targets(boxes_cxcywh=tensors["boxes_cxcywh"], classes=tensors["classes"])
        return CachedItem(c3=tensors["c3"], c4=tensors.get("c4", tensors["c3"]), targets=targets)


def collate_features(items: Sequence[CachedItem]) -> FeatureBatch:
    """A batch (C3, C4, targets): float32 maps, padded to the largest of the batch."""
    c3 = _pad([item.c3 for item in items])
    c4 = c3 if all(item.c4 is item.c3 for item in items) else _pad([item.c4 for item in items])
    return c3, c4, tuple(item.targets for item in items)


def build_feature_cache(
    *,
    dataset: Any,
    transform: Transform,
    tower: Tower,
    to_batch: Callable[[list[Image.Image]], ImageBatch],
    folder: Path,
    versions: int,
    seed: int = 0,
    max_gigabytes: float = 20.0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> FeatureCache:
    """Compute the missing files of a cache and open it.

    Args:
        dataset: items (image, Targets, id) with `class_names`.
        transform: augmentation, seeded by (seed, version, index). Its repr is stored, so that another one is noticed.
        tower: frozen image tower, already on `device`.
        to_batch: normalises and pads a list of images without resizing them.
        folder: folder of the cache; an interrupted build resumes from its files.
        versions: K, the number of augmented versions of each image.
        seed: seed of the augmentation, and of the order in which epochs read the versions.
        max_gigabytes: greatest size of the whole cache on disk. The build stops as soon as the first files show that
            the cache would be larger.
        device: device of the tower.
        workers: processes that read and augment images.
        on_progress: called with (files done, files in all).

    Raises:
        DataError: the folder holds a cache of other data, weights or settings, or the cache would be too large.
    """
    if versions < 1:
        raise DataError(f"a feature cache needs at least one version of each image, got {versions}")
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "fingerprint": _fingerprint(dataset, transform, tower),
        "versions": versions,
        "seed": seed,
        "class_names": list(dataset.class_names),
    }
    existing = _read_index(folder)
    if existing is None:
        write_json(folder / INDEX, header, indent=None)
    elif any(existing.get(key) != value for key, value in header.items()):
        differing = [key for key, value in header.items() if existing.get(key) != value]
        raise DataError(
            f"{folder} holds a feature cache of other {', '.join(differing)}; name another folder or delete it"
        )
    elif "shapes" in existing:
        return FeatureCache(folder=folder)
    keys = [(version, index) for version in range(versions) for index in range(len(dataset))]
    done = [key for key in keys if _item_path(folder, *key).exists()]
    _compute(
        keys=sorted(set(keys).difference(done)),
        used_bytes=sum(_item_path(folder, *key).stat().st_size for key in done),
        dataset=AugmentedDataset(dataset=dataset, transform=transform, seed=seed),
        tower=tower,
        to_batch=to_batch,
        folder=folder,
        total=len(keys),
        max_bytes=max_gigabytes * 1e9,
        device=torch.device(device),
        workers=workers,
        on_progress=on_progress,
    )
    shapes = [[_shape(_item_path(folder, version, i)) for version in range(versions)] for i in range(len(dataset))]
    write_json(folder / INDEX, header | {"shapes": shapes}, indent=None)
    return FeatureCache(folder=folder)


class _Augmented(Dataset[tuple[tuple[int, int], Image.Image, Targets]]):
    def __init__(self, dataset: AugmentedDataset, keys: list[tuple[int, int]]) -> None:
        self.dataset, self.keys = dataset, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: int) -> tuple[tuple[int, int], Image.Image, Targets]:
        image, targets = self.dataset[self.keys[position]]
        return self.keys[position], image, targets


def _compute(
    *,
    keys: list[tuple[int, int]],
    dataset: AugmentedDataset,
    tower: Tower,
    to_batch: Callable[[list[Image.Image]], ImageBatch],
    folder: Path,
    total: int,
    used_bytes: int,
    max_bytes: float,
    device: torch.device,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    done = total - len(keys)
    loader = DataLoader(_Augmented(dataset, keys), batch_size=None, num_workers=workers)
    for count, (key, image, targets) in enumerate(loader, start=1):
        # One image at a time: no padding, hence exactly the maps that an image alone gets at test time.
        with torch.inference_mode():
            c3, c4 = tower.features(to_batch([image]).to(device))
        tensors = {
            "c3": _half(c3, key),
            **({} if c4 is c3 else {"c4": _half(c4, key)}),
            "boxes_cxcywh": targets.boxes_cxcywh.contiguous(),
            "classes": targets.classes.contiguous(),
        }
        path = _item_path(folder, *key)
        with whole_file(path, temporary=path.with_suffix(".part")) as part:
            save_file(tensors, part)
            used_bytes += part.stat().st_size
            expected = used_bytes / (done + count) * total
            if used_bytes > max_bytes or (count == SIZE_SAMPLE and expected > max_bytes):
                raise DataError(
                    f"the feature cache would need {expected / 1e9:.1f} GB, more than the bound of "
                    f"{max_bytes / 1e9:.1f} GB; take fewer versions, smaller images or a higher bound"
                )
        if on_progress is not None:
            on_progress(done + count, total)


def _half(single: FeatureMap, key: tuple[int, int]) -> Tensor:
    """The map of a batch of one image in half precision, without padding; `key`: version and index of the image."""
    height, width = (int(extent) for extent in single.extents_hw[0])
    half = single.features[0, :, :height, :width].to("cpu", torch.float16).contiguous()
    if not bool(half.isfinite().all()):
        raise DataError(f"features of image {key[1]} do not fit half precision; this tower cannot be cached")
    return half


def _pad(maps: list[Tensor]) -> FeatureMap:
    height, width = max(m.shape[1] for m in maps), max(m.shape[2] for m in maps)
    features = torch.zeros(len(maps), maps[0].shape[0], height, width)
    mask = torch.ones(len(maps), height, width, dtype=torch.bool)
    for i, one in enumerate(maps):
        features[i, :, : one.shape[1], : one.shape[2]] = one
        mask[i, : one.shape[1], : one.shape[2]] = False
    return FeatureMap(features=features, mask=mask)


def _item_path(folder: Path, version: int, index: int) -> Path:
    return folder / f"version_{version:03d}" / f"{index:07d}.safetensors"


def _shape(path: Path) -> tuple[int, int]:
    """Height and width of C3 from the header of a safetensors file, whose first 8 bytes are the header's length."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    height, width = header["c3"]["shape"][-2:]
    return int(height), int(width)


def _fingerprint(dataset: Any, transform: Transform, tower: Tower) -> dict[str, str]:
    weights = hashlib.sha256()
    for name, tensor in sorted(tower.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    boxes = hashlib.sha256()
    for record in getattr(dataset, "records", range(len(dataset))):
        # The file name alone, so that a moved folder of images keeps its cache.
        boxes.update((record.path.name if isinstance(record, CocoImage) else str(record)).encode())
        if isinstance(record, CocoImage):
            boxes.update(record.boxes_xyxy_px.numpy().tobytes() + record.classes.numpy().tobytes())
    return {"tower": weights.hexdigest()[:16], "boxes": boxes.hexdigest()[:16], "transform": repr(transform)}


def _read_index(folder: Path) -> dict[str, Any] | None:
    path = folder / INDEX
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
