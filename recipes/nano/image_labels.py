"""Teaches the strict model names of novel classes from image labels, and what is no object of a class.

Command: python recipes/nano/image_labels.py --start runs/nano/ovcoco_decoder.safetensors --kit ../shared/kit \\
    --voc VOC --caltech CALTECH --flickr FLICKR --run runs/nano/image_labels \\
    --output runs/nano/ovcoco_labels.safetensors

An image label says that a class is in an image, not where. So the model's own proposals are regions, and two heads of
the tower, `text_space` and `fine`, learn from them with everything else frozen:

- A region that overlaps a base box by `POSITIVE_IOU` or more has its class (cross-entropy over the 65 class names).
- Any other region of an image whose base boxes are all known has none of the base classes: it is background to them.
- For every novel class that an image label names, one region is taken for it: that of the highest probability times a
  factor that favours the best proposals, and large ones in an image of one object. Regions that overlap it get the
  same class.
- A KL term over LVIS's names without the base classes holds what the model says of regions without a class.

The second round chooses the regions of the image labels by what the first has learned, and starts anew from the
weights at the start.

Pooled regions are computed once and kept in `--run`, 0.5 s an image; after a stop the command goes on there.

Numbers: on the held-out images of coco_more, 65 names, AP50 novel / base 15.5 / 21.3 before, 17.4 / 23.0 after.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
from heads import DROPOUT, LearningHead
from labelled_images import image_labelled
from names import class_weights, drift, jitter, take_step, tower_of, zero_shot
from PIL import Image
from safetensors.torch import load_file
from sources import ALL, Source, part_of
from torch import Tensor, nn
from torch.nn import functional as F

from cora.boxes import cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from cora.detector import Detector, load
from cora.files import write_safetensors
from cora.images import read_image
from cora.names import spoken_name
from cora.regions import RegionClassifier
from cora.roi_align import roi_align
from cora.towers import TimmTower

#: Overlap with a base box from which a region has its class, and below which it is background.
POSITIVE_IOU, NEGATIVE_IOU = 0.55, 0.5
#: Jittered copies of a base box; regions of an image with base boxes, and of any other.
COPIES, REGIONS, OTHER_REGIONS = 2, 32, 8
#: Proposals that an image label may mean, best first; rank at which their factor is 1/e.
CANDIDATES, RANK_SCALE = 60, 40.0
#: Overlap from which a region gets the class of the chosen one, and how many at most.
SAME_IOU, SAME = 0.6, 4
#: Regions of a step, and those of image labels beside them; steps of the two rounds; rate; weight of the KL term.
BATCH, LABEL_BATCH, STEPS, RATE, KL = 1024, 256, (600, 400), 1e-3, 0.3
FINE_DROPOUT, WEIGHT_DECAY = 0.2, 0.05


@dataclass
class Regions:
    """Pooled regions of all images, and the class names.

    Attributes:
        pooled: [R, features] float16, what the first head reads; with the region prompt.
        fine: [R, C, bins, bins] float16, what the fine head reads.
        classes: [R] int64, index into the class names; -1 for none.
        background: [R] bool, of no base class.
    """

    pooled: Tensor
    fine: Tensor
    classes: Tensor
    background: Tensor


@dataclass
class Candidates:
    """Regions of one image that its image labels may mean, best proposals first.

    Attributes:
        pooled, fine: as in `Regions`.
        boxes_xyxy: [N, 4] in 0..1.
        factors: [N] that favour the best proposals, and large ones in an image of one object.
        labels: the novel classes of the image, as indices into the class names.
    """

    pooled: Tensor
    fine: Tensor
    boxes_xyxy: Tensor
    factors: Tensor
    labels: tuple[int, ...]


@torch.inference_mode()
def pool(detector: Detector, sources: list[Source], folder: Path) -> None:
    """Pool the regions of each image: its boxes, jittered copies of them and the proposals, into one file an image."""
    tower = tower_of(detector).for_inference(torch.float32)
    prompt = detector.prompt.offset.T.reshape(1, -1, tower.pool_size, tower.pool_size)
    generator = torch.Generator().manual_seed(0)
    for number, source in enumerate(sources):
        path = folder / f"{source.key}.safetensors"
        if path.exists():
            continue
        c3, _ = tower.features(detector.preprocessor([_in_shape(source)]))
        proposals = cxcywh_to_xyxy(detector.anchors(detector.encode_map(c3))[0])
        copies = [jitter(source.boxes_xyxy, generator) for _ in range(COPIES)]
        corners = torch.cat([source.boxes_xyxy, *copies, proposals])
        boxes, extents = xyxy_to_cxcywh(corners)[None], c3.extents_hw
        cells = roi_align(tower.deep(c3.features).float(), boxes, extents, bins=tower.pool_size)[0] + prompt
        fine_map = tower.fine_map(c3.features)
        assert fine_map is not None
        assert tower.fine is not None
        fine = roi_align(fine_map, boxes, 2 * extents, bins=tower.fine.bins)[0]
        content = {"pooled": tower.head(cells).half(), "fine": fine.half(), "boxes_xyxy": corners}
        write_safetensors(path, {name: value.contiguous() for name, value in content.items()})
        if number % 100 == 0:
            print(f"pooled {number}/{len(sources)} images", flush=True)


def divide(sources: list[Source], folder: Path, names: list[str], base: int) -> tuple[Regions, list[Candidates]]:
    """Regions that have a class or are background, and those that image labels choose from."""
    index = {name: place for place, name in enumerate(names)}
    generator, parts, candidates = torch.Generator().manual_seed(0), [], []
    for source in sources:
        content = load_file(folder / f"{source.key}.safetensors")
        pooled, fine, boxes = content["pooled"], content["fine"], content["boxes_xyxy"]
        own = torch.tensor([index[source.names[label]] for label in source.labels.tolist()], dtype=torch.int64)
        first = len(own) * (COPIES + 1)
        overlaps, nearest = _overlaps(boxes[first:], source.boxes_xyxy)
        positive = _drawn(overlaps >= POSITIVE_IOU, REGIONS // 2, generator)
        wanted = REGIONS - len(positive) if source.all_boxes else OTHER_REGIONS
        negative = _drawn(overlaps < NEGATIVE_IOU, wanted, generator)
        chosen = torch.cat([torch.arange(first), first + positive, first + negative])
        classes = torch.cat([own.repeat(COPIES + 1), own[nearest[positive]], torch.full((len(negative),), -1)])
        background = (classes < 0) & source.all_boxes
        parts.append(Regions(pooled[chosen], fine[chosen], classes, background))
        labels = tuple(index[name] for name in source.image_labels if index.get(name, 0) >= base)
        free = (overlaps[:CANDIDATES] < NEGATIVE_IOU).nonzero()[:, 0]
        if labels and len(free):
            places = first + free
            factors = torch.exp(-free / RANK_SCALE)
            if source.object_centric:
                factors = factors * (boxes[places, 2:] - boxes[places, :2]).prod(1)
            candidates.append(Candidates(pooled[places], fine[places], boxes[places], factors, labels))
    return _together(parts), candidates


class Heads(nn.Module):
    """The two heads while they learn."""

    def __init__(self, tower: TimmTower, regions: Regions) -> None:
        super().__init__()
        assert tower.fine is not None
        sample = slice(None, None, max(1, len(regions.classes) // 50_000))
        self.zero_shot = partial(zero_shot, tower.text_space)
        self.text = LearningHead(tower.text_space, regions.pooled[sample], dropout=DROPOUT)
        self.fine = LearningHead(tower.fine, regions.fine[sample], dropout=FINE_DROPOUT)

    def forward(self, pooled: Tensor, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings [R, D] of regions, and those without what was learned."""
        known = self.zero_shot(pooled.float())
        return F.normalize(known + self.text(pooled) + self.fine(fine), dim=-1), known

    def store(self) -> None:
        """Give the tower what was learned."""
        self.text.store()
        self.fine.store()


@dataclass(frozen=True)
class Vocabulary:
    """Text embeddings of what the heads learn to tell apart.

    Attributes:
        names: [65, D] of the base classes, then of the novel classes.
        base: number of base classes.
        others: [L, D] of LVIS's names without the base classes.
    """

    names: Tensor
    base: int
    others: Tensor


def regions_of_labels(
    heads: Heads, candidates: list[Candidates], names: Tensor, classifier: RegionClassifier
) -> tuple[Regions, Tensor]:
    """The regions that image labels are taken for by what the heads know, and those that overlap them.

    The second part are their shares [R]: those of one image label sum to 1.
    """
    heads.eval()
    parts, shares = [], []
    with torch.inference_mode():
        for one in candidates:
            regions, _ = heads(one.pooled, one.fine)
            favoured = classifier(regions, names) * one.factors.unsqueeze(1)
            for label in one.labels:
                best = favoured[:, label].argmax()
                overlaps = pairwise_iou(one.boxes_xyxy[best : best + 1], one.boxes_xyxy)[0]
                chosen = torch.cat([(overlaps >= SAME_IOU).nonzero()[:SAME, 0], best[None]]).unique()
                classes = torch.full((len(chosen),), label)
                parts.append(Regions(one.pooled[chosen], one.fine[chosen], classes, classes < 0))
                shares.append(torch.full((len(chosen),), 1 / len(chosen)))
    heads.train()
    return _together(parts), torch.cat(shares)


def learn(
    heads: Heads,
    regions: Regions,
    labelled: tuple[Regions, Tensor],
    vocabulary: Vocabulary,
    classifier: RegionClassifier,
    *,
    steps: int,
) -> None:
    """One round: the heads learn from both kinds of regions."""
    names, base, scale = vocabulary.names, vocabulary.base, classifier.scale
    optimiser = torch.optim.AdamW(heads.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(0)
    weights = class_weights(regions.classes, len(names)).clamp(max=3).sqrt()
    meant, shares = labelled
    chances = shares * class_weights(meant.classes, len(names))[meant.classes]
    for step in range(steps):
        chosen = torch.randint(len(regions.classes), (BATCH,), generator=generator)
        others = torch.multinomial(chances, LABEL_BATCH, replacement=True, generator=generator)
        embeddings, known = heads(
            torch.cat([regions.pooled[chosen], meant.pooled[others]]),
            torch.cat([regions.fine[chosen], meant.fine[others]]),
        )
        with_box, by_label = scale * embeddings[:BATCH] @ names.T, scale * embeddings[BATCH:] @ names.T
        classes, background = regions.classes[chosen], regions.background[chosen]
        none = classes < 0
        to_base = F.pad(with_box[background, :base], (0, 1), value=classifier.background_logit)
        loss = F.cross_entropy(with_box[~none], classes[~none], weight=weights)
        loss = loss + F.cross_entropy(to_base, torch.full((len(to_base),), base))
        loss = loss + F.cross_entropy(by_label, meant.classes[others])
        loss = loss + KL * drift(embeddings[:BATCH][none], known[:BATCH][none], vocabulary.others, scale)
        take_step(optimiser, loss, RATE, step / steps)
        if step % 100 == 0:
            print(f"step {step}/{steps}: {float(loss.detach()):.3f}", flush=True)


def _in_shape(source: Source) -> Image.Image:
    """The image, stretched to its true shape if its file was squashed."""
    image = read_image(source.path)
    width = round(image.height * source.aspect)
    return image if abs(width - image.width) < 2 else image.resize((width, image.height))


def _overlaps(boxes_xyxy: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Best IoU [N] with a box of the image, and which one [N]; zeros in an image without boxes."""
    if not len(own):
        return torch.zeros(len(boxes_xyxy)), torch.zeros(len(boxes_xyxy), dtype=torch.int64)
    best = pairwise_iou(boxes_xyxy, own).max(dim=1)
    return best.values, best.indices


def _drawn(wanted: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most `count` of the places at which a mask is set."""
    places = wanted.nonzero()[:, 0]
    return places[torch.randperm(len(places), generator=generator)[:count]]


def _together(parts: list[Regions]) -> Regions:
    return Regions(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Regions)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("start", "kit", "voc", "caltech", "flickr", "run", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--part", default=ALL, help="pool one part of the images only, as 0/2 and 1/2 in two processes")
    options = parser.parse_args()
    torch.manual_seed(0)
    detector = load(options.start)
    sources = image_labelled(options.kit, options.voc, options.caltech, options.flickr)
    pool(detector, part_of(sources, options.part), options.run)
    if options.part != ALL:
        return
    split = json.loads((options.kit / "coco_ovd_mini/class_split.json").read_text())
    listed = json.loads((options.kit / "clip_rn50_text/names.json").read_text())["lvis"]
    lvis = [name for name in dict.fromkeys(map(spoken_name, listed)) if name not in split["base"]]
    names = [*split["base"], *split["novel"]]
    regions, candidates = divide(sources, options.run, names, len(split["base"]))
    print(f"{len(regions.classes)} regions, {len(candidates)} images with labels of novel classes")
    with torch.no_grad():
        vocabulary = Vocabulary(
            detector.vocabulary_encoder.encode(names).embeddings.clone(),
            len(split["base"]),
            detector.vocabulary_encoder.encode(lvis).embeddings.clone(),
        )
    knows = Heads(tower_of(detector), regions)
    for steps in STEPS:
        labelled = regions_of_labels(knows, candidates, vocabulary.names, detector.classifier)
        knows = Heads(tower_of(detector), regions)
        learn(knows, regions, labelled, vocabulary, detector.classifier, steps=steps)
    knows.store()
    detector.save(options.output)


if __name__ == "__main__":
    main()
