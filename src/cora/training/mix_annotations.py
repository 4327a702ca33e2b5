"""Merges real annotations and pseudo labels into one COCO file; names that only pseudo labels have become classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cora.boxes import pairwise_iou, xywh_to_xyxy
from cora.data.caption_nouns import english_nouns
from cora.data.captions import NamedPhoto
from cora.data.problems import of_kind
from cora.errors import DataError
from cora.training.pseudo_boxes import real_photos

#: What to do with pseudo boxes of novel classes: raise an error, leave them out, or use and count them.
NovelNames = Literal["refuse", "drop", "keep"]


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """Which pseudo boxes are added to the real ones.

    Attributes:
        score: score threshold, 0..1.
        max_per_class: largest number of boxes per class, those of highest score; None for all.
        min_per_class: classes with fewer boxes are left out.
        known_classes: also add boxes of classes that are in the real annotations.
        real_iou: boxes with at least this IoU with a real box are left out; above 0, at most 1.
        novel: what to do with boxes of novel classes.
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
    """Merged annotations, and counts.

    Attributes:
        content: COCO content of the real annotations, followed by the pseudo boxes (with `score` and `source`).
        class_names: names of the real categories in their order, then the extra ones, those with most boxes first.
        extra: names of pseudo boxes that are not real categories.
        pseudo_boxes: name -> number of pseudo boxes added.
        new_photos: number of images that are not in the real annotations.
        left_out: reason -> number of pseudo boxes left out.
        novel: name -> number of pseudo boxes of novel classes, added or not.
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
    """Pseudo annotations to add, each with its class name in the merged file, and counts of the others."""

    entries: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    novel: Counter[str] = field(default_factory=Counter)


def mix_annotations(
    real: Mapping[str, Any], pseudo: Mapping[str, Any], *, config: MixConfig | None = None, novel: Sequence[str] = ()
) -> Mixed:
    """Add pseudo boxes to real ones.

    Images with the same file name are merged, and so are classes whose names differ only in case or number ("Dogs" and
    "dog"). Real ids are kept; a new image whose id is taken gets another one. The arguments are not changed.

    Args:
        real: COCO content, e.g. `dataset.to_coco()`.
        pseudo: COCO content of pseudo boxes; an annotation without `score` has the score 1.
        config: which pseudo boxes are added.
        novel: names of the novel classes.

    Raises:
        DataError: there are boxes of novel classes and `config.novel` is "refuse"; or the sizes of an image differ.
    """
    config = MixConfig() if config is None else config
    fold = english_nouns().fold
    known = {fold(category["name"]): category["name"] for category in real["categories"]}
    folded_novel = {fold(name) for name in novel}
    file_of = {image["id"]: image for image in pseudo["images"]}
    name_of = {category["id"]: category["name"] for category in pseudo["categories"]}
    chosen = _Chosen()
    spelling: dict[str, str] = dict(known)
    for entry in pseudo["annotations"]:
        folded = fold(name_of[entry["category_id"]])
        name = spelling.setdefault(folded, name_of[entry["category_id"]])
        if folded in folded_novel:
            chosen.novel[name] += 1
        if folded in folded_novel and config.novel != "keep":
            chosen.left_out["of novel classes"] += 1
        elif folded in known and not config.known_classes:
            chosen.left_out["of classes with real boxes"] += 1
        elif entry.get("score", 1.0) < config.score:
            chosen.left_out["below the score"] += 1
        else:
            chosen.entries.append((name, entry))
    if chosen.novel and config.novel == "refuse":
        raise DataError(novel_message(chosen.novel, "boxes"))
    _remove_overlaps(chosen, real, file_of, config.real_iou)
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
    """Apply the policy for novel class names to images before they are pseudo-labelled.

    Returns:
        The images that still have a name, and novel name -> number of its images.

    Raises:
        DataError: there are novel names and the policy is "refuse", or no image is left.
    """
    fold = english_nouns().fold
    folded_novel = {fold(name) for name in novel}
    found = Counter(name for photo in photos for name in photo.names if fold(name) in folded_novel)
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


def novel_message(found: Counter[str], unit: str) -> str:
    """Error message about novel names: their number, and the options to choose from."""
    first = ", ".join(f"{name} ({of_kind(n, unit)})" for name, n in found.most_common(5))
    return (
        f"expected no names of the split's novel classes, got {len(found)}: {first}; leave them out "
        "(--novel-names drop), or use them and report it (--novel-names keep)"
    )


def _remove_overlaps(
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
