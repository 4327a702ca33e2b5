"""Distillation: a large detector, or any model that classifies regions, teaches a small image tower and localizer.

Images need no labels. The teacher's output for an image has regions with class probabilities and embeddings. If the
teacher finds boxes, it also says where it moves given anchors and how likely an object is there.
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

#: The student's images and whatever the teacher looks at instead: its own resizing of them, or answers stored before.
DistillBatch = tuple[ImageBatch, Any]
#: Random regions cover this share of an image, least and greatest.
REGION_AREA = (0.01, 0.7)
#: Classes of which a mean embedding is made (ConSE, Norouzi et al., 2014, arXiv 1312.5650).
BEST_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """What is distilled, and how much each part counts.

    Attributes:
        tower: train the student's image tower; its text tower and prompt stay.
        localizer: train the student's localizer; needs a teacher that finds boxes.
        boxes: "direct": teacher and student decode the same anchors, the student's, and each of its boxes and
            objectness is to be the teacher's; "targets": the teacher's best boxes are ground truth for matching.
        kl: weight of KL(teacher, student) over the classes of a vocabulary.
        cosine: weight of 1 - cosine to the teacher's embedding, in the student's space.
        box: weight of everything about boxes.
        regions: regions an image.
        least_objectness: boxes of the teacher above it are targets.
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
        embeddings: [C, D] unit, in the student's space.
        weight: of its KL among those of all lexicons.
    """

    embeddings: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Followed:
    """The teacher's boxes for given anchors.

    Attributes:
        classes: [B, N] int64 class that each query looked for.
        boxes_cxcywh: [B, N, 4], 0..1.
        objectness: [B, N] probability.
    """

    classes: Tensor
    boxes_cxcywh: Tensor
    objectness: Tensor


@dataclass(frozen=True)
class TeacherOutput:
    """The output of a teacher for a batch.

    Attributes:
        boxes_cxcywh: [B, R, 4] regions, 0..1 of the unpadded image.
        log_probabilities: of the classes of every lexicon [B, R, C], by its name.
        embeddings: [B, R, D] unit, in the student's space; None if the teacher has none.
        follow: moves anchors [B, N, 4]; None if the teacher finds no boxes.
        targets: the teacher's best boxes of every image; empty if it finds none.
    """

    boxes_cxcywh: Tensor
    log_probabilities: Mapping[str, Tensor]
    embeddings: Tensor | None = None
    follow: Callable[[Tensor], Followed] | None = None
    targets: tuple[Targets, ...] = field(default=())


class Teacher(nn.Module, ABC):
    """Base class for distillation teachers: frozen, and always in evaluation mode."""

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode; `mode` is accepted because parents call this on all of their children."""
        return super().train(False)

    @abstractmethod
    def lesson(self, seen: Any, regions: int) -> TeacherOutput:
        """Classify `regions` regions of every image, without gradients.

        Args:
            seen: second part of a batch.
            regions: how many of each image.
        """


class CoraTeacher(Teacher):
    """Teacher made of a detector, or of a CLIP tower without a trained localizer.

    Args:
        detector: never changed.
        vocabulary: names, in the teacher's space.
        student_embeddings: [C, D] of the same names in the student's space.
        localizes: whether its localizer is worth learning from.
        least_objectness: its boxes above it are targets.
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
        """Classify regions: half are the teacher's own boxes, if it finds any, the others are random."""
        detector, vocabulary = self.detector, self.vocabulary.to(seen.pixels.device)
        c3, c4 = detector.encode(seen)
        boxes = random_regions(len(seen), regions, device=seen.pixels.device)
        follow: Callable[[Tensor], Followed] | None = None
        targets: tuple[Targets, ...] = ()
        if self.localizes:
            memory = detector.encode_map(c3)

            @torch.no_grad()
            def move(anchors_cxcywh: Tensor) -> Followed:
                matched = detector.pre_match(c4, anchors_cxcywh, vocabulary)
                decoded = detector.decode(memory, matched)
                return Followed(matched.classes, decoded.boxes_cxcywh[-1], decoded.objectness[-1].sigmoid())

            follow = move
            own = move(detector.anchors(memory))
            best = own.objectness.topk(min(regions // 2, own.objectness.shape[1]), dim=1).indices
            boxes[:, : best.shape[1]] = own.boxes_cxcywh.gather(1, best[..., None].expand(-1, -1, 4))
            targets = tuple(
                Targets(boxes_cxcywh=moved[sure], classes=classes[sure])
                for moved, classes, sure in zip(
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
    """Boxes [images, count, 4] cxcywh in 0..1 inside the image: areas even in their logarithm, sides up to 1 : 2."""
    least, greatest = (torch.tensor(area).log() for area in REGION_AREA)
    area = (least + (greatest - least) * torch.rand(images, count)).exp()
    ratio = (torch.rand(images, count) - 0.5).mul(torch.tensor(2.0).log()).exp()
    sides = torch.stack([(area.sqrt() * ratio), (area.sqrt() / ratio)], dim=-1).clamp(max=1)
    centres = sides / 2 + (1 - sides) * torch.rand(images, count, 2)
    return torch.cat([centres, sides], dim=-1).to(device)


class DistillTask(nn.Module):
    """Losses of a student against a teacher's outputs; `DistillConfig` lists the parts.

    The tower's BatchNorm statistics are learned too. The student's text tower and prompt and the whole teacher stay
    bit-identical.

    Args:
        student: learns, as far as the configuration says.
        teacher: stays bit-identical.
        lexicons: by name; those of the teacher's outputs.
        config: what is distilled.

    Raises:
        ModelError: the tower is to learn and is no CLIP ResNet.
        ValueError: the localizer is to learn and there is no lexicon "names" for its queries.
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
        """Set the training mode of the parts that learn. Called with False it returns the tower to evaluation mode."""
        super().train(mode)
        # The tower itself refuses, since it is frozen everywhere else.
        if self.config.tower:
            resnet_of(self.student.image_tower, "distillation into a tower").net.train(mode)
        return self

    def forward(self, batch: DistillBatch) -> dict[str, Tensor]:
        """Losses of a batch; "loss" is the one to minimise."""
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
        """KL over every lexicon, and the cosine, of the teacher's regions."""
        regions = self.student.embed_exact(c3, lesson.boxes_cxcywh)
        losses = {}
        for name, wanted in lesson.log_probabilities.items():
            logits = self.student.classifier.logits(regions, self._lexicon(name))
            divergence = F.kl_div(logits.log_softmax(dim=-1), wanted, log_target=True, reduction="none").sum(dim=-1)
            losses[f"kl_{name}"] = self.config.kl * self.weights[name] * divergence.mean()
        if lesson.embeddings is not None:
            losses["cosine"] = self.config.cosine * (1 - (regions * lesson.embeddings).sum(dim=-1)).mean()
        return losses

    def _matched(self, memory: Memory, c4: FeatureMap, lesson: TeacherOutput) -> dict[str, Tensor]:
        assert self.matching is not None
        _wanted(lesson)
        return {"boxes": self.matching.learn(memory, c4, lesson.targets)["total"]}

    def _direct(self, memory: Memory, lesson: TeacherOutput) -> dict[str, Tensor]:
        """Query by query, after every layer of the student: its box and objectness against the teacher's last."""
        localizer = self.student.localizer
        anchors = localizer.anchors(memory)
        followed = _wanted(lesson)(anchors.detach())
        content = localizer.query_content(self._lexicon("names"), followed.classes)
        output = localizer.decode(memory, anchors, content)
        losses = direct_losses(output.boxes_cxcywh, output.objectness, followed)
        if localizer.proposals is not None:
            losses["proposals"] = proposal_losses(localizer.propose(memory), lesson.targets)["proposals"]
        return losses

    def _lexicon(self, name: str) -> Tensor:
        return self.get_buffer(f"lexicon_{name}")


def _wanted(lesson: TeacherOutput) -> Callable[[Tensor], Followed]:
    if lesson.follow is None:
        raise ValueError("distillation of the localizer: expected a teacher that finds boxes, got one that does not")
    return lesson.follow


def direct_losses(boxes_cxcywh: Tensor, objectness: Tensor, followed: Followed) -> dict[str, Tensor]:
    """Boxes [L, B, N, 4] and objectness logits [L, B, N] against one teacher's: weights 5, 2 and 2 as in matching.

    A query's box counts by the teacher's objectness; objectness is taught by the quality focal loss (Li et al., 2020).
    All is divided by the sum of the teacher's objectness, at least 1, and averaged over the layers.
    """
    sure = followed.objectness.expand(len(boxes_cxcywh), -1, -1)
    wanted = followed.boxes_cxcywh.expand_as(boxes_cxcywh)
    boxes, logits = boxes_cxcywh.float(), objectness.float()
    count = followed.objectness.sum().clamp(min=1) * len(boxes)
    entropy = F.binary_cross_entropy_with_logits(logits, sure, reduction="none")
    return {
        "l1": 5 * (sure[..., None] * (boxes - wanted).abs()).sum() / count,
        "giou": 2 * (sure * giou_loss(boxes, wanted)).sum() / count,
        "objectness": 2 * ((sure - logits.sigmoid()).abs().square() * entropy).sum() / count,
    }
