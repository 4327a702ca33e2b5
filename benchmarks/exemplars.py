"""Classes by images: how often regions are named right, and what the ways of embedding them do.

    python benchmarks/exemplars.py --images coco_ovd_mini/val --annotations coco_ovd_mini/val.json

Every ground-truth box is embedded in its image. The images are split in two at random, `--rounds` times: exemplars come
from one half, the boxes of the other half are named among all classes that have enough exemplars (boxes of 24 x 24
pixels or more). Three kinds of vocabulary:

  alone   every class by images;
  mixed   a random quarter of the classes by images, the others by words; right names of both parts, and how often a
          class by images was named beside how often that is true: a way that lets them claim everything is no use;
  both    every class by words and images, these counting a quarter (as in `cora.predictor.exemplars`) or a half.

The ways: words (no images), as it is (the unit mean of the exemplars), centred (the mean of all regions of the first
half subtracted, that of the names added), in words (what `cora.predictor.exemplars` does).

Last, one thing instead of a class: each of up to 300 boxes is a class by itself beside all classes by words; what must
be found is the box in the image, and no box of another image. Its exemplar is the box cut out of the image ("cut out"),
or the box in a part of the image that is three times as high and wide ("around"), so that the tower sees it at another
size.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import cora
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.evaluation.bootstrap import estimate, resample_counts
from cora.predictor.exemplars import IMAGE_SHARE, embed_region, to_name_space
from cora.regions.everyday import EVERYDAY_NAMES

LEAST_SIDE_PX, THINGS, SWITCHED_OFF = 24, 300, -9.0
SHARES = (IMAGE_SHARE, 0.5)
COLUMNS = ("alone", "mixed", "pictured", "worded", "named pict.", "truly", *(f"both {share:g}" for share in SHARES))


class Boxes(NamedTuple):
    """Embeddings [M, D], classes [M], images [M], whether [M] they may be exemplars; of some, the other views."""

    embeddings: Tensor
    classes: Tensor
    photos: Tensor
    usable: Tensor
    views: dict[str, dict[int, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--photos", type=int, help="only the first so many")
    parser.add_argument("--exemplars", type=int, nargs="+", default=[1, 5], help="images of a class")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    detector = cora.load(arguments.model).detector
    dataset = CocoDataset(annotations=arguments.annotations, images=arguments.images)
    with torch.no_grad():
        boxes = embed(detector, dataset, arguments.photos or len(dataset))
        words = detector.vocabulary_encoder.encode(dataset.class_names).embeddings
        everyday = detector.vocabulary_encoder.encode(EVERYDAY_NAMES).embeddings
        scale = detector.config.tower.logit_scale
        for count in arguments.exemplars:
            rounds = [one_round(boxes, words, everyday, scale, count, seed) for seed in range(arguments.rounds)]
            print(f"{count} exemplars a class, mean ± standard deviation of {len(rounds)} splits, right names in %:")
            print(" " * 20 + "".join(f"{column:>14}" for column in COLUMNS))
            for key in rounds[0]:
                row = 100 * torch.tensor([part[key] for part in rounds])
                cells = zip(row.nanmean(dim=0).tolist(), row.std(dim=0).tolist(), strict=True)
                print(f"  {key:<18}" + "".join(f"{mean:7.1f} ± {spread:4.1f}" for mean, spread in cells))
        cosines(boxes, words)
        things(boxes, words, everyday, scale)


def embed(detector: Detector, dataset: CocoDataset, count: int) -> Boxes:
    """All ground-truth boxes of the first images."""
    embeddings, classes, photos, usable = [], [], [], []
    views: dict[str, dict[int, Tensor]] = {"cut out": {}, "around": {}}
    for index in range(min(count, len(dataset))):
        photo, targets, _ = dataset[index]
        if not len(targets):
            continue
        c3, _ = detector.encode(detector.preprocessor([photo]))
        start = sum(len(part) for part in classes)
        embeddings.append(detector.embed_exact(c3, targets.boxes_cxcywh[None])[0])
        classes.append(targets.classes)
        photos.append(torch.full_like(targets.classes, index))
        corners = dataset.records[index].boxes_xyxy_px
        usable.append((corners[:, 2:] - corners[:, :2]).amin(dim=1) >= LEAST_SIDE_PX)
        for row in usable[-1].nonzero()[:2, 0].tolist():
            if len(views["around"]) < THINGS:
                box = tuple(round(corner) for corner in corners[row].tolist())
                views["cut out"][start + row] = embed_region(detector, photo.crop(box))
                views["around"][start + row] = embed_region(detector, *around(photo, box))
    return Boxes(torch.cat(embeddings), torch.cat(classes), torch.cat(photos), torch.cat(usable), views)


def around(photo: Image.Image, box: tuple[int, ...]) -> tuple[Image.Image, tuple[int, ...]]:
    """The part of an image that reaches over a box by its own size on all sides, and the box in it."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    x, y = max(0, left - width), max(0, top - height)
    part = photo.crop((x, y, min(photo.width, right + width), min(photo.height, bottom + height)))
    return part, (left - x, top - y, right - x, bottom - y)


def one_round(
    boxes: Boxes, words: Tensor, everyday: Tensor, scale: float, count: int, seed: int
) -> dict[str, tuple[float, ...]]:
    """One split: way -> alone | mixed: all, of classes by images, of those by words, named and true share | both."""
    generator = torch.Generator().manual_seed(seed)
    order = boxes.photos.unique()
    first = torch.isin(boxes.photos, order[torch.randperm(len(order), generator=generator)[: len(order) // 2]])
    means, known = torch.zeros_like(words), torch.zeros(len(words), dtype=torch.bool)
    for name in range(len(words)):
        rows = (first & boxes.usable & (boxes.classes == name)).nonzero()[:, 0]
        if len(rows) >= count:
            chosen = rows[torch.randperm(len(rows), generator=generator)[:count]]
            means[name], known[name] = F.normalize(boxes.embeddings[chosen].mean(dim=0), dim=0), True
    test = ~first & known[boxes.classes]
    regions, truth = boxes.embeddings[test], boxes.classes[test]
    pictured = known & (torch.randperm(len(words), generator=generator) % 4 == 0)
    gap = boxes.embeddings[first].mean(dim=0) - words[known].mean(dim=0)
    said = torch.stack([to_name_space(one, everyday, scale=scale) for one in means])
    ways = {"words": words, "as it is": means, "centred": F.normalize(means - gap, dim=-1), "in words": said}

    def named(classes: Tensor) -> Tensor:
        return (regions @ classes.T).masked_fill(~known, SWITCHED_OFF).argmax(dim=1)

    answer = {}
    is_pictured = pictured[truth]
    for key, way in ways.items():
        mixed = named(torch.where(pictured[:, None], way, words))
        right = (mixed == truth).float()
        both = [named(F.normalize((1 - share) * words + share * way, dim=-1)) for share in SHARES]
        answer[key] = (
            (named(way) == truth).float().mean().item(),
            right.mean().item(),
            right[is_pictured].mean().item(),
            right[~is_pictured].mean().item(),
            pictured[mixed].float().mean().item(),
            is_pictured.float().mean().item(),
            *((one == truth).float().mean().item() for one in both),
        )
    return answer


def cosines(boxes: Boxes, words: Tensor) -> None:
    """Print how near boxes of different images are to each other, and a box to its own name."""
    others = boxes.photos[:, None] != boxes.photos[None]
    between = (boxes.embeddings @ boxes.embeddings.T)[others].mean()
    named = (boxes.embeddings * words[boxes.classes]).sum(dim=1).mean()
    print(
        f"{len(boxes.classes)} boxes; mean cosine of two of different images {between:.2f}, with the name {named:.2f}"
    )


def things(boxes: Boxes, words: Tensor, everyday: Tensor, scale: float) -> None:
    """Print how often one thing is found, and how often boxes of other images are taken for it."""
    best_word = (boxes.embeddings @ words.T).max(dim=1).values
    for kind, views in boxes.views.items():
        rows = torch.tensor(list(views))
        seen = torch.stack(list(views.values()))
        others = boxes.photos[:, None] != boxes.photos[rows][None]
        print(f"one thing, {kind}, {len(rows)} of them, in %: found, boxes of other images taken for it")
        said = torch.stack([to_name_space(one, everyday, scale=scale) for one in seen])
        for key, way in {"as it is": seen, "in words": said}.items():
            wins = boxes.embeddings @ way.T > best_word[:, None]
            found, wrong = wins[rows, torch.arange(len(rows))], (wins & others).sum() / others.sum()
            print(f"  {key:<18}{by_photo(found, boxes.photos[rows])}{100 * wrong:7.1f}")


def by_photo(found: Tensor, photos: Tensor) -> str:
    """Share in % with its 95 % interval by a bootstrap over images."""
    _, place = photos.unique(return_inverse=True)
    count = torch.zeros(int(place.max()) + 1, dtype=torch.float64).index_add(0, place, torch.ones(len(place)).double())
    right = torch.zeros_like(count).index_add(0, place, found.double())
    drawn = torch.from_numpy(resample_counts(len(count))).double()
    share = estimate(found.double().mean().item(), ((drawn @ right) / (drawn @ count)).numpy())
    return f"{100 * (share.value or 0):7.1f} ({100 * (share.low or 0):.1f}-{100 * (share.high or 0):.1f})"


if __name__ == "__main__":
    main()
