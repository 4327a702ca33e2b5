"""Groups of classes with similar embeddings, and which classes the model confuses."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cora.plots import draw_confusion, draw_matrix, side_by_side
from cora.regions import Vocabulary
from cora.regions.groups import TwoLevels


@dataclass(frozen=True)
class GroupedClasses:
    """C classes in the order of their groups.

    Attributes:
        names: class names.
        groups: group of each class.
        subgroups: subgroup of each class.
        cosine: [C, C] cosine of the class embeddings.
        confusion: [C, C] boxes by annotated and chosen class; None where it was not measured.
    """

    names: tuple[str, ...]
    groups: tuple[int, ...]
    subgroups: tuple[int, ...]
    cosine: Tensor
    confusion: Tensor | None

    @property
    def breaks(self) -> list[int]:
        """Indices of the classes at which a new group begins."""
        return [i for i in range(1, len(self.names)) if self.groups[i] != self.groups[i - 1]]

    def alike(self, count: int) -> list[tuple[str, str, float]]:
        """The `count` pairs of names with the highest cosine, the highest first."""
        size = len(self.names)
        pairs = [(float(self.cosine[i, j]), i, j) for i in range(size) for j in range(i + 1, size)]
        return [(self.names[i], self.names[j], c) for c, i, j in sorted(pairs, reverse=True)[:count]]

    def confused(self, count: int) -> list[tuple[str, str, int, float]]:
        """The `count` most frequent confusions: annotated class, chosen class, boxes, share of the annotated class."""
        if self.confusion is None:
            return []
        boxes = self.confusion.sum(dim=1)
        wrong = self.confusion.clone().fill_diagonal_(0)
        order = wrong.flatten().argsort(descending=True, stable=True)[:count].tolist()
        places = [(place // len(self.names), place % len(self.names)) for place in order]
        return [
            (self.names[i], self.names[j], int(wrong[i, j]), float(wrong[i, j] / boxes[i]))
            for i, j in places
            if wrong[i, j]
        ]

    def within_group(self) -> tuple[int, int]:
        """Number of boxes with a wrong class, and of those whose wrong class is of the same group."""
        if self.confusion is None:
            return 0, 0
        wrong = self.confusion.clone().fill_diagonal_(0)
        same = [[a == b for b in self.groups] for a in self.groups]
        return int(wrong.sum()), int((wrong * wrong.new_tensor(same)).sum())


def group_in_order(vocabulary: Vocabulary, levels: TwoLevels, confusion: Tensor | None) -> GroupedClasses:
    """Sort classes by group and subgroup; within a subgroup, the classes nearest to its centre come first.

    Args:
        vocabulary: of C classes.
        levels: groups and subgroups of their embeddings.
        confusion: [C, C] of `region_confusion`; None where it was not measured.
    """
    directions = F.normalize(vocabulary.embeddings.detach().double().cpu(), dim=-1)
    subgroups = levels.fine.labels
    near = (directions * levels.fine.centres[subgroups]).sum(dim=-1)
    order = sorted(range(len(vocabulary)), key=lambda i: (int(subgroups[i]), -float(near[i])))
    cosine = directions @ directions.T
    return GroupedClasses(
        names=tuple(vocabulary.names[i] for i in order),
        groups=tuple(int(levels.coarse.labels[i]) for i in order),
        subgroups=tuple(int(subgroups[i]) for i in order),
        cosine=cosine[order][:, order],
        confusion=None if confusion is None else confusion[order][:, order],
    )


def draw_groups(found: GroupedClasses, model: str) -> Image.Image:
    """Draw the cosines of the classes and, if measured, their confusion; `model` is the name in the titles."""
    cosine = found.cosine.clone()
    off_diagonal = [float(cosine[i, j]) for i in range(len(cosine)) for j in range(len(cosine)) if i != j]
    pictures = [
        draw_matrix(
            cosine.tolist(),
            found.names,
            title=f"Names that {model} finds alike",
            subtitle="cosine of class embeddings; lines divide the groups",
            low=min(off_diagonal, default=0.0),
            breaks=found.breaks,
        )
    ]
    if found.confusion is not None:
        title = f"Objects that {model} takes for one another"
        pictures.append(draw_confusion(found.confusion.tolist(), found.names, title=title, breaks=found.breaks))
    return side_by_side(pictures)
