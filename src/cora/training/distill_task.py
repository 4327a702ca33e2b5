"""Distillation into a small image tower and localizer. Teachers are detectors or other models that classify regions.

Images need no annotations. For each image, the teacher gives regions with class probabilities and embeddings. A teacher
with a localizer also refines the student's anchors, as targets for the student's boxes and objectness.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cora.detector import Detector
from cora.localizer import Memory
from cora.regions import Vocabulary
from cora.structures import FeatureMap, ImageBatch, Targets
from cora.towers import resnet_of
from cora.training.criterion import Criterion
from cora.training.localizer_task import LocalizerTask, LocalizerTaskConfig
from cora.training.losses import giou_loss
from cora.training.proposal_loss import proposal_losses

#: Images for the student, and the teacher's input: the same images in its own size, or its stored outputs.
DistillBatch = tuple[ImageBatch, Any]
#: Smallest and largest area of random regions, as a share of the image.
REGION_AREA = (0.01, 0.7)
#: Number of classes whose embeddings `mean_embedding` averages (ConSE, Norouzi et al., 2014, arXiv 1312.5650).
BEST_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """What is distilled, and the weights of the losses.

    Attributes:
        tower: train the student's image tower; its text tower and prompt stay frozen.
        localizer: train the student's localizer; needs a teacher with a localizer.
        boxes: "direct": teacher and student decode the student's anchors, and the teacher's box and objectness are the
            targets of each query; "targets": the teacher's best boxes serve as ground truth for matching.
        kl: weight of KL(teacher, student) over the classes of each lexicon.
        cosine: weight of 1 - cosine to the teacher's embedding, in the student's text space.
        box: weight of all losses of the localizer.
        regions: regions per image.
        least_objectness: 0..1; boxes of the teacher with a higher objectness are targets.
    """

    tower: bool = True
    localizer: bool = True
    boxes: Literal["direct", "targets"] = "direct"
    kl: float = 1.0
    cosine: float = 5.0
    box: float = 1.0
    regions: int = 24
    least_objectness: float = 0.3

    def __post_init__(self) -> None:
        if not (self.tower or self.localizer):
            raise ValueError("distillation: expected the tower, the localizer or both to learn, got neither")
        if self.boxes not in ("direct", "targets"):
            raise ValueError(f'boxes: expected "direct" or "targets", got {self.boxes!r}')
        if self.regions < 1:
            raise ValueError(f"regions: expected at least 1, got {self.regions}")
        if min(self.kl, self.cosine, self.box) < 0:
            raise ValueError(f"weights: expected 0 or more, got kl {self.kl}, cosine {self.cosine}, box {self.box}")
        if not 0 <= self.least_objectness < 1:
            raise ValueError(f"least_objectness: expected 0 to below 1, got {self.least_objectness}")


@dataclass(frozen=True)
class Lexicon:
    """Class names among which regions are classified.

    Attributes:
        embeddings: [C, D] unit, in the student's text space.
        weight: factor on the KL of this lexicon.
    """

    embeddings: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Followed:
    """Anchors as the teacher's localizer refines them.

    Attributes:
        classes: [B, N] int64 class that the teacher pre-matched each anchor with.
        boxes_cxcywh: [B, N, 4] refined boxes, 0..1.
        objectness: [B, N] probability, 0..1.
    """

    classes: Tensor
    boxes_cxcywh: Tensor
    objectness: Tensor


@dataclass(frozen=True)
class TeacherOutput:
    """The output of a teacher for a batch.

    Attributes:
        boxes_cxcywh: [B, R, 4] regions, 0..1 of the unpadded image.
        log_probabilities: name of a lexicon -> log probabilities [B, R, C] of its classes.
        embeddings: [B, R, D] unit, in the student's text space; None if the teacher has none.
        follow: refines anchors [B, N, 4] by the teacher's localizer; None if it has none.
        targets: the teacher's best boxes of each image; empty if it has no localizer.
    """

    boxes_cxcywh: Tensor
    log_probabilities: Mapping[str, Tensor]
    embeddings: Tensor | None = None
    follow: Callable[[Tensor], Followed] | None = None
    targets: tuple[Targets, ...] = field(default=())


class Teacher(nn.Module, ABC):
    """Base class for distillation teachers: frozen, and always in evaluation mode."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode. `mode` is ignored; parent modules pass it to their children."""
        return super().train(False)

    @abstractmethod
    def lesson(self, seen: Any, regions: int) -> TeacherOutput:
        """Classify `regions` regions of every image, without gradients.

        Args:
            seen: the teacher's input, the second part of a `DistillBatch`.
            regions: regions per image.
        """


class CoraTeacher(Teacher):
    """Uses a detector as teacher, with or without its localizer.

    Args:
        detector: is frozen.
        vocabulary: class names with embeddings in the teacher's text space.
        student_embeddings: [C, D] embeddings of the same names in the student's text space.
        localizes: whether its localizer is trained; False for a plain CLIP tower.
        least_objectness: 0..1; its boxes with a higher objectness are targets.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        vocabulary: Vocabulary,
        student_embeddings: Tensor,
        localizes: bool = True,
        least_objectness: float = 0.3,
    ) -> None:
        super().__init__()
        self.detector = detector.requires_grad_(False).eval()
        self.vocabulary, self.localizes, self.least_objectness = vocabulary, localizes, least_objectness
        own = vocabulary.embeddings
        #: Whether teacher and student share a text space; embeddings then need no conversion.
        self.same_space = own.shape == student_embeddings.shape and bool(
            torch.allclose(own, student_embeddings.to(own), atol=1e-3)
        )
        self.register_buffer("student_embeddings", student_embeddings.clone(), persistent=False)
        self.student_embeddings: Tensor

    @torch.no_grad()
    def lesson(self, seen: ImageBatch, regions: int) -> TeacherOutput:
        """Classify regions; if the teacher has a localizer, half of them are its best boxes. The others are random."""
        detector, vocabulary = self.detector, self.vocabulary.to(seen.pixels.device)
        c3, c4 = detector.encode(seen)
        boxes = random_regions(len(seen), regions, device=seen.pixels.device)
        follow: Callable[[Tensor], Followed] | None = None
        targets: tuple[Targets, ...] = ()
        if self.localizes:
            memory = detector.encode_map(c3)

            @torch.no_grad()
            def refine(anchors_cxcywh: Tensor) -> Followed:
                matched = detector.pre_match(c4, anchors_cxcywh, vocabulary)
                decoded = detector.decode(memory, matched)
                return Followed(matched.classes, decoded.boxes_cxcywh[-1], decoded.objectness[-1].sigmoid())

            follow = refine
            own = refine(detector.anchors(memory))
            best = own.objectness.topk(min(regions // 2, own.objectness.shape[1]), dim=1).indices
            boxes[:, : best.shape[1]] = own.boxes_cxcywh.gather(1, best[..., None].expand(-1, -1, 4))
            targets = tuple(
                Targets(boxes_cxcywh=refined[likely], classes=classes[likely])
                for refined, classes, likely in zip(
                    own.boxes_cxcywh, own.classes, own.objectness > self.least_objectness, strict=True
                )
            )
        embeddings = detector.embed_exact(c3, boxes)
        logits = detector.classifier.logits(embeddings, vocabulary.embeddings)
        log_probabilities = logits.log_softmax(dim=-1)
        return TeacherOutput(
            boxes_cxcywh=boxes,
            log_probabilities={"names": log_probabilities},
            embeddings=embeddings if self.same_space else mean_embedding(log_probabilities, self.student_embeddings),
            follow=follow,
            targets=targets,
        )


def mean_embedding(log_probabilities: Tensor, class_embeddings: Tensor) -> Tensor:
    """Unit mean [..., D] of the embeddings [C, D] of the likeliest classes, weighted by probability [..., C]."""
    best = log_probabilities.exp().topk(min(BEST_CLASSES, log_probabilities.shape[-1]), dim=-1)
    return F.normalize((best.values[..., None] * class_embeddings[best.indices]).sum(dim=-2), dim=-1)


def random_regions(images: int, count: int, *, device: torch.device | None = None) -> Tensor:
    """Random boxes [images, count, 4] cxcywh, 0..1, inside the image: log-uniform areas, ratios of sides up to 2."""
    least, greatest = (torch.tensor(area).log() for area in REGION_AREA)
    area = (least + (greatest - least) * torch.rand(images, count)).exp()
    ratio = (torch.rand(images, count) - 0.5).mul(torch.tensor(2.0).log()).exp()
    sides = torch.stack([(area.sqrt() * ratio), (area.sqrt() / ratio)], dim=-1).clamp(max=1)
    centres = sides / 2 + (1 - sides) * torch.rand(images, count, 2)
    return torch.cat([centres, sides], dim=-1).to(device)


class DistillTask(nn.Module):
    """Losses of a student against a teacher's outputs; `DistillConfig` lists the parts.

    The BatchNorm statistics of the student's tower are updated, too. Its text tower, its prompt and the teacher are
    frozen.

    Args:
        student: detector to train.
        teacher: is frozen.
        lexicons: name -> lexicon, for the names in the teacher's outputs.
        config: what is distilled.

    Raises:
        ModelError: the tower is to be trained, but is not a CLIP ResNet.
        ValueError: the localizer is to be trained, but there is no lexicon "names" for its queries.
    """

    def __init__(
        self,
        *,
        student: Detector,
        teacher: Teacher,
        lexicons: Mapping[str, Lexicon],
        config: DistillConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config or DistillConfig()
        if self.config.localizer and "names" not in lexicons:
            raise ValueError('lexicons: expected one called "names" for the localizer, got none')
        self.student, self.teacher = student, teacher
        self.weights = {name: lexicon.weight for name, lexicon in lexicons.items()}
        for name, lexicon in lexicons.items():
            self.register_buffer(f"lexicon_{name}", lexicon.embeddings.clone(), persistent=False)
        self.matching: LocalizerTask | None = None
        if self.config.localizer and self.config.boxes == "targets":
            names = Vocabulary(tuple(map(str, range(len(self._lexicon("names"))))), self._lexicon("names"))
            self.matching = LocalizerTask(
                detector=student,
                vocabulary=names,
                criterion=Criterion(),
                config=LocalizerTaskConfig(class_dropout=0.0, target_repeats=3),
            )
        student.requires_grad_(False)
        student.localizer.requires_grad_(self.config.localizer)
        if self.config.tower:
            resnet_of(student.image_tower, "distillation into a tower").net.requires_grad_(True)
        teacher.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the parts that learn; the teacher stays in evaluation mode."""
        super().train(mode)
        # Directly on the network: `train` of the tower does nothing, since towers are frozen everywhere else.
        if self.config.tower:
            resnet_of(self.student.image_tower, "distillation into a tower").net.train(mode)
        return self

    def forward(self, batch: DistillBatch) -> dict[str, Tensor]:
        """Losses of a batch; minimise "loss"."""
        images, seen = batch
        with torch.no_grad():
            lesson = self.teacher.lesson(seen, self.config.regions)
        with torch.set_grad_enabled(self.config.tower and torch.is_grad_enabled()):
            c3, c4 = self.student.encode(images)
            losses = self._region_losses(c3, lesson) if self.config.tower else {}
        if self.config.localizer:
            memory = self.student.encode_map(c3)
            found = self._matched(memory, c4, lesson) if self.matching is not None else self._direct(memory, lesson)
            losses |= {name: self.config.box * value for name, value in found.items()}
        return losses | {"loss": torch.stack([value for value in losses.values()]).sum()}

    def _region_losses(self, c3: FeatureMap, lesson: TeacherOutput) -> dict[str, Tensor]:
        """KL of every lexicon and cosine loss, on the teacher's regions."""
        regions = self.student.embed_exact(c3, lesson.boxes_cxcywh)
        losses = {}
        for name, target in lesson.log_probabilities.items():
            logits = self.student.classifier.logits(regions, self._lexicon(name))
            divergence = F.kl_div(logits.log_softmax(dim=-1), target, log_target=True, reduction="none").sum(dim=-1)
            losses[f"kl_{name}"] = self.config.kl * self.weights[name] * divergence.mean()
        if lesson.embeddings is not None:
            losses["cosine"] = self.config.cosine * (1 - (regions * lesson.embeddings).sum(dim=-1)).mean()
        return losses

    def _matched(self, memory: Memory, c4: FeatureMap, lesson: TeacherOutput) -> dict[str, Tensor]:
        assert self.matching is not None
        _require_localizer(lesson)
        return {"boxes": self.matching.learn(memory, c4, lesson.targets)["total"]}

    def _direct(self, memory: Memory, lesson: TeacherOutput) -> dict[str, Tensor]:
        """For each query and student layer: box and objectness against those of the teacher's last layer."""
        localizer = self.student.localizer
        anchors = localizer.anchors(memory)
        followed = _require_localizer(lesson)(anchors.detach())
        content = localizer.query_content(self._lexicon("names"), followed.classes)
        output = localizer.decode(memory, anchors, content)
        losses = direct_losses(output.boxes_cxcywh, output.objectness, followed)
        if localizer.proposals is not None:
            losses["proposals"] = proposal_losses(localizer.propose(memory), lesson.targets)["proposals"]
        return losses

    def _lexicon(self, name: str) -> Tensor:
        return self.get_buffer(f"lexicon_{name}")


def _require_localizer(lesson: TeacherOutput) -> Callable[[Tensor], Followed]:
    if lesson.follow is None:
        raise ValueError("distillation of the localizer: expected a teacher that finds boxes, got one that does not")
    return lesson.follow


def direct_losses(boxes_cxcywh: Tensor, objectness: Tensor, followed: Followed) -> dict[str, Tensor]:
    """Losses of the student's boxes [L, B, N, 4] and objectness logits [L, B, N] against the teacher's.

    The box losses of a query are weighted by the teacher's objectness. The objectness has a quality focal loss (Li et
    al., 2020). All losses are divided by the sum of the teacher's objectness, at least 1, and averaged over the layers.

    Returns:
        Scalars `l1`, `giou` and `objectness`, with the weights 5, 2 and 2 of the localizer's losses.
    """
    quality = followed.objectness.expand(len(boxes_cxcywh), -1, -1)
    targets = followed.boxes_cxcywh.expand_as(boxes_cxcywh)
    boxes, logits = boxes_cxcywh.float(), objectness.float()
    count = followed.objectness.sum().clamp(min=1) * len(boxes)
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return {
        "l1": 5 * (quality[..., None] * (boxes - targets).abs()).sum() / count,
        "giou": 2 * (quality * giou_loss(boxes, targets)).sum() / count,
        "objectness": 2 * ((quality - logits.sigmoid()).abs().square() * entropy).sum() / count,
    }
