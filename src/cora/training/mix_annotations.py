"""Merge real and pseudo boxes into one annotation file. Classes that only pseudo boxes have become extra classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from cora.boxes import pairwise_iou, xywh_to_xyxy
from cora.data.caption_nouns import english_nouns
from cora.data.captions import NamedPhoto
from cora.data.coco import CocoImage
from cora.data.problems import of_kind
from cora.errors import DataError
from cora.training.pseudo_boxes import real_photos

#: What happens to names of the evaluation's novel classes: an error, left out, or used and counted.
NovelNames = Literal["refuse", "drop", "keep"]


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Which pseudo boxes join the real ones.

    Attributes:
        score: least score.
        max_per_class: at most so many boxes of a class, the best ones; None: all.
        min_per_class: classes with fewer boxes are left out.
        known_classes: also take boxes of classes that real boxes have.
        real_iou: boxes that overlap a real one by as much are left out.
        novel: what to do with names of novel classes.
    """

    score: float = 0.0
    max_per_class: int | None = None
    min_per_class: int = 1
    known_classes: bool = True
    real_iou: float = 0.5
    novel: NovelNames = "refuse"

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise ValueError(f"score: expected 0..1, got {self.score}")
        if not 0 < self.real_iou <= 1:
            raise ValueError(f"real_iou: expected above 0 and at most 1, got {self.real_iou}")
        if self.min_per_class < 1 or (self.max_per_class is not None and self.max_per_class < self.min_per_class):
            raise ValueError(
                f"expected 1 <= min_per_class <= max_per_class, got {self.min_per_class} and {self.max_per_class}"
            )
        if self.novel not in ("refuse", "drop", "keep"):
            raise ValueError(f"novel: expected refuse, drop or keep, got {self.novel!r}")


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """A mixture and what went into it.

    Attributes:
        content: COCO content: the real one, pseudo boxes (with `score` and `source`) after its own.
        class_names: base names in the real order, then the extra ones, those with most boxes first.
        extra: of them, names without a real category.
        pseudo_boxes: pseudo boxes that joined, by name.
        new_photos: images that the real annotations do not have.
        left_out: pseudo boxes that did not join, by reason.
        novel: pseudo boxes of novel names, by name, whether dropped or kept.
    """

    content: dict[str, Any]
    class_names: tuple[str, ...]
    extra: tuple[str, ...]
    pseudo_boxes: Counter[str]
    new_photos: int
    left_out: Counter[str]
    novel: Counter[str]


@dataclass
class _Chosen:
    """Pseudo annotations, with the name each has in the mixture."""

    entries: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    novel: Counter[str] = field(default_factory=Counter)


def mix_annotations(
    real: Mapping[str, Any], pseudo: Mapping[str, Any], *, config: MixConfig | None = None, novel: Sequence[str] = ()
) -> Mixed:
    """Add pseudo boxes to real ones.

    Images are the same if their file names are, classes if their names are (whatever the case and number: "Dogs" joins
    "dog"). Real ids stay; colliding ids of new images change. Neither argument is changed.

    Args:
        real: COCO content, e.g. `dataset.to_coco()`.
        pseudo: COCO content of pseudo boxes; an annotation without `score` counts as certain.
        config: limits.
        novel: names of the classes that are evaluated as unseen (the open-vocabulary protocol).

    Raises:
        DataError: pseudo boxes of novel names while `config.novel` refuses them; or an image whose sizes differ.
    """
    config = MixConfig() if config is None else config
    fold = english_nouns().fold
    known = {fold(category["name"]): category["name"] for category in real["categories"]}
    unseen = {fold(name) for name in novel}
    file_of = {image["id"]: image for image in pseudo["images"]}
    name_of = {category["id"]: category["name"] for category in pseudo["categories"]}
    chosen = _Chosen()
    spelling: dict[str, str] = dict(known)
    for entry in pseudo["annotations"]:
        folded = fold(name_of[entry["category_id"]])
        name = spelling.setdefault(folded, name_of[entry["category_id"]])
        if folded in unseen:
            chosen.novel[name] += 1
        if folded in unseen and config.novel != "keep":
            chosen.left_out["of novel classes"] += 1
        elif folded in known and not config.known_classes:
            chosen.left_out["of classes with real boxes"] += 1
        elif entry.get("score", 1.0) < config.score:
            chosen.left_out["below the score"] += 1
        else:
            chosen.entries.append((name, entry))
    if chosen.novel and config.novel == "refuse":
        raise DataError(novel_message(chosen.novel, "boxes"))
    _leave_overlaps(chosen, real, file_of, config.real_iou)
    _limit(chosen, config)
    counts = Counter(name for name, _ in chosen.entries)
    extra = tuple(sorted(counts.keys() - set(known.values()), key=lambda name: (-counts[name], name)))
    content, new_photos = _join(real, chosen, file_of, extra)
    content["info"] = {**(real.get("info") or {}), "pseudo": pseudo.get("info", {}), "mixed": asdict(config)}
    return Mixed(
        content=content,
        class_names=tuple(category["name"] for category in content["categories"]),
        extra=extra,
        pseudo_boxes=counts,
        new_photos=new_photos,
        left_out=chosen.left_out,
        novel=chosen.novel,
    )


def without_novel(
    photos: Sequence[NamedPhoto], novel: Sequence[str], policy: NovelNames
) -> tuple[tuple[NamedPhoto, ...], Counter[str]]:
    """Apply the open-vocabulary protocol to the names of images before any of them is labelled.

    Returns:
        The images that still have a name, and in how many images each novel name was.

    Raises:
        DataError: there are novel names and the policy refuses them, or no image is left.
    """
    fold = english_nouns().fold
    unseen = {fold(name) for name in novel}
    found = Counter(name for photo in photos for name in photo.names if fold(name) in unseen)
    if not found or policy == "keep":
        return tuple(photos), found
    if policy == "refuse":
        raise DataError(novel_message(found, "images"))
    rest = [
        NamedPhoto(
            image_id=photo.image_id,
            path=photo.path,
            file_name=photo.file_name,
            names={name: ids for name, ids in photo.names.items() if name not in found},
        )
        for photo in photos
    ]
    kept = tuple(photo for photo in rest if photo.names)
    if not kept:
        raise DataError(f"expected images with other names than the {len(found)} novel ones, got none in {len(photos)}")
    return kept, found


def photo_weights(content: Mapping[str, Any], records: Sequence[CocoImage], *, pseudo: float) -> Tensor:
    """How often an image is drawn, for a loader that samples by weight.

    Returns:
        [n] float64 in the order of the records: 1 for images of the real annotations, `pseudo` for those that have
        pseudo boxes only.
    """
    if not 0 < pseudo < float("inf"):
        raise ValueError(f"pseudo: expected a weight above 0, got {pseudo}")
    with_real = {entry["image_id"] for entry in content["annotations"] if "source" not in entry}
    with_pseudo = {entry["image_id"] for entry in content["annotations"] if "source" in entry}
    only = with_pseudo - with_real
    return torch.tensor([pseudo if record.image_id in only else 1.0 for record in records], dtype=torch.float64)


def novel_message(found: Counter[str], unit: str) -> str:
    """What an error says about novel names: how many there are and what to choose."""
    first = ", ".join(f"{name} ({of_kind(n, unit)})" for name, n in found.most_common(5))
    return (
        f"expected no names of the split's novel classes, got {len(found)}: {first}; leave them out "
        "(--novel-names drop), or use them and report it (--novel-names keep)"
    )


def _leave_overlaps(
    chosen: _Chosen, real: Mapping[str, Any], file_of: Mapping[int, Mapping[str, Any]], real_iou: float
) -> None:
    photos = real_photos(real)
    by_image: dict[int, list[int]] = {}
    for place, (_, entry) in enumerate(chosen.entries):
        by_image.setdefault(entry["image_id"], []).append(place)
    dropped: set[int] = set()
    for image_id, places in by_image.items():
        image = file_of[image_id]
        photo = photos.get(image["file_name"])
        if photo is None:
            continue
        if photo.size != (image["height"], image["width"]):
            raise DataError(
                f"{image['file_name']}: the real annotations say {photo.size[1]}x{photo.size[0]} px, the pseudo boxes "
                f"{image['width']}x{image['height']}; they are of different images"
            )
        boxes = xywh_to_xyxy([chosen.entries[place][1]["bbox"] for place in places])
        overlaps = (pairwise_iou(boxes, photo.boxes_xyxy_px) >= real_iou).any(dim=1).tolist()
        dropped |= {place for place, overlap in zip(places, overlaps, strict=True) if overlap}
    if dropped:
        chosen.left_out["on real boxes"] += len(dropped)
        chosen.entries = [pair for place, pair in enumerate(chosen.entries) if place not in dropped]


def _limit(chosen: _Chosen, config: MixConfig) -> None:
    places: dict[str, list[int]] = {}
    for place, (name, _) in enumerate(chosen.entries):
        places.setdefault(name, []).append(place)
    kept: set[int] = set()
    for own in places.values():
        best = sorted(own, key=lambda place: -chosen.entries[place][1].get("score", 1.0))[: config.max_per_class]
        if len(own) < config.min_per_class:
            chosen.left_out["of classes with too few boxes"] += len(own)
        else:
            kept |= set(best)
            if len(best) < len(own):
                chosen.left_out["beyond the most per class"] += len(own) - len(best)
    chosen.entries = [pair for place, pair in enumerate(chosen.entries) if place in kept]


def _join(
    real: Mapping[str, Any], chosen: _Chosen, file_of: Mapping[int, Mapping[str, Any]], extra: Sequence[str]
) -> tuple[dict[str, Any], int]:
    images, annotations, categories = (list(real[key]) for key in ("images", "annotations", "categories"))
    following = 1 + max((category["id"] for category in categories), default=0)
    categories += [{"id": number, "name": name} for number, name in enumerate(extra, start=following)]
    category_of = {category["name"]: category["id"] for category in categories}
    image_of = {image["file_name"]: image["id"] for image in images}
    taken = set(image_of.values())
    next_image = 1 + max([0, *taken, *file_of])
    next_id = 1 + max((entry["id"] for entry in annotations if isinstance(entry.get("id"), int)), default=0)
    for number, (name, entry) in enumerate(chosen.entries, start=next_id):
        image = file_of[entry["image_id"]]
        if image["file_name"] not in image_of:
            image_id = image["id"]
            if image_id in taken:
                image_id, next_image = next_image, next_image + 1
            taken.add(image_id)
            image_of[image["file_name"]] = image_id
            images.append({**image, "id": image_id})
        placed = {"id": number, "image_id": image_of[image["file_name"]], "category_id": category_of[name]}
        annotations.append({"source": {}, **entry, **placed})
    content = {**real, "images": images, "annotations": annotations, "categories": categories}
    return content, len(images) - len(real["images"])
