"""An offset of the region prompt for each class (a class-aware visual prompt), for `few_labels.py` only.

CORA adds one prompt to the pooled cells of a region, so a region has one embedding for all classes. Here class c adds
an offset of its own, and its logit is scale * cos(embed(cells + prompt + offset_c), text_c). So a region has an
embedding for each class. The head's 1x1 convolution is linear and comes before the nonlinearity: it runs once for a
region and once for an offset, and only what follows runs for each pair.

The offsets start at zero, which is the detector as it was, and learn from the boxes, jittered copies of them and
proposals that are background, by cross-entropy over the classes and the background of the classifier. All else is
frozen. Pre-matching keeps the shared prompt: only the class probabilities of the final boxes change.

Rate and steps were chosen with 30 boxes of steel_defects, on 60 images that are neither held out nor learned from.
The names alone have an AP50 of 0.5 there; after 200 steps it is 0.7 with a rate of 0.003, 5.4 with 0.03, 9.5 with 0.1
and 11.2 with 0.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cora import Predictor
from cora.boxes import cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.detector.variants import DetectorVariant
from cora.predictor.model import TorchModel
from cora.predictor.precision import at_precision
from cora.regions import Prepared, RegionClassifier, Vocabulary
from cora.regions.cell_pooling import CellMap, cell_map
from cora.roi_align import roi_align
from cora.structures import FeatureMap
from cora.towers import TimmTower
from cora.towers.timm_tower import box_class_scores

#: Jittered copies of a box, and the deviation of their corners as a share of its sides.
COPIES, JITTER = 8, 0.08
#: Most proposals of an image that are taken as background, and the IoU with every box that they are below.
BACKGROUND, BACKGROUND_IOU = 16, 0.3
#: Half of a batch are objects, half are background.
STEPS, BATCH, RATE, DECAY = 200, 64, 0.3, 1e-2


@dataclass(frozen=True)
class Regions:
    """Pooled regions.

    Attributes:
        hidden: [R, features, S, S] what the head's convolution makes of the cells with the shared prompt.
        seen: [R, 80] what the box detector saw in them; None without one.
        fine: [R, C, bins, bins] what the fine head reads; None without one.
    """

    hidden: Tensor
    seen: Tensor | None
    fine: Tensor | None

    def __getitem__(self, rows: Tensor) -> Regions:
        """Some of them."""
        return Regions(*(None if part is None else part[rows] for part in self._parts()))  # type: ignore[arg-type]

    @classmethod
    def of(cls, every: list[Regions]) -> Regions:
        """All of several."""
        columns = zip(*(one._parts() for one in every), strict=True)
        return cls(*(None if parts[0] is None else torch.cat(parts) for parts in columns))  # type: ignore[arg-type]

    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.hidden, self.seen, self.fine


def pool(detector: Detector, cells: CellMap, boxes_cxcywh: Tensor) -> Regions:
    """Pool boxes [B, N, 4], as `cora.regions.cell_pooling` does: B * N regions."""
    tower = tower_of(detector)
    side = tower.pool_size
    boxes = boxes_cxcywh.to(cells.extents_hw.dtype)
    prompt = detector.prompted_positions().T.reshape(1, 1, -1, side, side).to(cells.deep.dtype)
    pooled = roi_align(cells.deep, boxes, cells.extents_hw, bins=side) + prompt
    seen, fine = None, None
    if cells.top_boxes is not None:
        seen = box_class_scores(cxcywh_to_xyxy(boxes), cells.top_boxes).flatten(0, 1)
    if cells.fine is not None and tower.fine is not None:
        fine = roi_align(cells.fine, boxes, 2 * cells.extents_hw, bins=tower.fine.bins).flatten(0, 1)
    return Regions(tower.net.conv_head(pooled.flatten(0, 1)), seen, fine)


def class_logits(
    tower: TimmTower, classifier: RegionClassifier, regions: Regions, text: Tensor, offsets: Tensor
) -> Tensor:
    """Logits [R, C + 1] of regions for classes with text embeddings [C, D] and offsets [C, S*S, C']; background last.

    Class c gets that of the regions' embeddings under its own offset.
    """
    side = tower.pool_size
    maps = offsets.transpose(1, 2).unflatten(2, (side, side)).to(tower.dtype)
    columns = []
    for label, shift in enumerate(F.conv2d(maps, tower.net.conv_head.weight)):
        features = tower.net.bn2(regions.hidden + shift).mean(dim=(2, 3))
        embeddings = tower.embed(features, regions.seen, regions.fine)
        columns.append(classifier.logits(embeddings, text)[:, label])
    return F.pad(torch.stack(columns, dim=1), (0, 1), value=classifier.background_logit)


class ClassPromptDetector(DetectorVariant):
    """Takes the class probabilities of all final boxes from the classes' own embeddings of them.

    Args:
        offsets: [C, S*S, C'] offsets of the shared prompt, for the classes of every vocabulary in their order.
        parts: arguments of `Detector`.
    """

    variant = ""  # never in a file

    def __init__(self, *, offsets: Tensor, **parts: Any) -> None:
        super().__init__(**parts)
        self.offsets = offsets

    def classify_best(
        self,
        c3: FeatureMap,
        prepared: Prepared,
        boxes_cxcywh: Tensor,
        objectness: Tensor,
        vocabulary: Vocabulary,
        score_threshold: float = 0.0,
    ) -> Tensor:
        """Class probabilities [B, K, C] of boxes [B, K, 4], all by exact pooling.

        Raises:
            ValueError: the vocabulary has another number of classes, or distractors.
        """
        text = vocabulary.all_embeddings
        if len(text) != len(self.offsets):
            raise ValueError(f"class prompts: expected {len(self.offsets)} classes, got {len(text)}")
        tower = tower_of(self)
        regions = pool(self, cell_map(c3, tower), boxes_cxcywh)
        logits = class_logits(tower, self.classifier, regions, text, self.offsets.to(self.device))
        probabilities: Tensor = logits.softmax(dim=-1)[:, :-1].unflatten(0, boxes_cxcywh.shape[:2])
        return probabilities


def teach(predictor: Predictor, few: CocoDataset) -> None:
    """Learn the offsets of a dataset's classes, and let the predictor detect with them."""
    detector = predictor.detector
    offsets = learn(detector, few)
    taught = ClassPromptDetector.of(detector, offsets=offsets, precision=detector.precision)
    predictor.model = TorchModel(taught)


def learn(detector: Detector, few: CocoDataset, *, steps: int = STEPS, rate: float = RATE) -> Tensor:
    """Offsets [C, S*S, C'] of the shared prompt for the classes of a dataset."""
    view = at_precision(detector, "float32")
    tower, generator = tower_of(view), torch.Generator().manual_seed(0)
    regions, labels = few_regions(view, few, generator)
    text = view.vocabulary_encoder.encode(few.class_names).embeddings.clone()
    offsets = torch.zeros(len(text), *view.prompt.offset.shape, device=view.device, requires_grad=True)
    optimiser = torch.optim.AdamW([offsets], lr=rate, weight_decay=DECAY)
    objects = labels < len(text)
    halves = [half for mask in (objects, ~objects) if len(half := mask.nonzero()[:, 0])]
    for step in range(steps):
        chosen = torch.cat([half[torch.randint(len(half), (BATCH // 2,), generator=generator)] for half in halves])
        loss = F.cross_entropy(class_logits(tower, view.classifier, regions[chosen], text, offsets), labels[chosen])
        optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + cos(pi * step / steps))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return offsets.detach()


@torch.no_grad()
def few_regions(detector: Detector, few: CocoDataset, generator: torch.Generator) -> tuple[Regions, Tensor]:
    """Regions to learn from, and their labels [R]; the number of classes stands for background."""
    tower, every, labels = tower_of(detector), [], []
    for index, record in enumerate(few.records):
        c3, _ = detector.encode(detector.preprocessor([few[index][0]]).to(detector.device))
        scale = torch.tensor([*reversed(record.size)] * 2)
        own = record.boxes_xyxy_px / scale
        anchors = cxcywh_to_xyxy(detector.anchors(detector.encode_map(c3))[0].cpu())
        objects = [own, *(jitter(own, generator) for _ in range(COPIES))]
        empty = background(anchors, torch.cat([own, record.crowd_boxes_xyxy_px / scale]), generator)
        boxes = xyxy_to_cxcywh(torch.cat([*objects, empty])).to(detector.device)
        every.append(pool(detector, cell_map(c3, tower), boxes[None]))
        labels += [*[record.classes] * len(objects), torch.full((len(empty),), len(few.class_names))]
    return Regions.of(every), torch.cat(labels).to(detector.device)


def jitter(boxes_xyxy: Tensor, generator: torch.Generator) -> Tensor:
    """Boxes [T, 4] in 0..1 with corners moved at random."""
    sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).repeat(1, 2)
    moved = boxes_xyxy + torch.randn(boxes_xyxy.shape, generator=generator) * JITTER * sides
    return torch.cat([torch.minimum(moved[:, :2], moved[:, 2:] - 0.005), moved[:, 2:]], dim=1).clamp(0, 1)


def background(proposals_xyxy: Tensor, boxes_xyxy: Tensor, generator: torch.Generator) -> Tensor:
    """Some of the proposals [N, 4] that hardly overlap any of the boxes [T, 4]."""
    free = proposals_xyxy[(pairwise_iou(proposals_xyxy, boxes_xyxy) < BACKGROUND_IOU).all(dim=1)]
    return free[torch.randperm(len(free), generator=generator)[:BACKGROUND]]


def tower_of(detector: Detector) -> TimmTower:
    """The image tower.

    Raises:
        TypeError: it is of another kind than nano's.
    """
    if not isinstance(detector.image_tower, TimmTower):
        raise TypeError(f"class prompts: expected a TimmTower, got {type(detector.image_tower).__name__}")
    return detector.image_tower
