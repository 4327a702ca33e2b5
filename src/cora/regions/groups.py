"""Groups of class names or regions: spherical k-means of their embeddings, on one level or two.

Classes of one group have close embeddings, so the model confuses them. LVIS training therefore relaxes matching: a
query may match boxes of any class of its group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cora.errors import VocabularyError
from cora.regions.vocabulary import Vocabulary


@dataclass(frozen=True)
class Clusters:
    """Result of clustering C vectors by direction.

    Attributes:
        labels: [C] int64 cluster of each vector. No cluster is empty. `spherical_kmeans` numbers the clusters in the
            order in which they first appear in `labels`.
        centres: [K, D] unit norm, float64 on the CPU.
        cosine: mean cosine of a vector with the centre of its cluster, which k-means maximises.
    """

    labels: Tensor
    centres: Tensor
    cosine: float


def spherical_kmeans(
    vectors: Tensor, count: int, *, seed: int = 0, restarts: int = 10, iterations: int = 100
) -> Clusters:
    """Cluster vectors by cosine similarity (Dhillon & Modha, 2001).

    Initial centres are drawn as in k-means++. The best of several runs is kept; the same seed gives the same clusters.

    Args:
        vectors: [C, D] of any norm above 0.
        count: K, 1..C.
        seed: seed of the initial centres.
        restarts: number of runs.
        iterations: most iterations of a run; it ends earlier when no label changes.

    Raises:
        VocabularyError: more clusters than vectors, fewer than one, or a vector of zeros.
    """
    if not 1 <= count <= len(vectors):
        raise VocabularyError(f"groups: expected 1 to {len(vectors)} groups of {len(vectors)} classes, got {count}")
    if not bool((vectors.norm(dim=-1) > 0).all()):
        raise VocabularyError("groups: expected embeddings with a direction, got one of length 0")
    # On the CPU in double precision, so that every machine finds the same groups; there are few classes.
    directions = F.normalize(vectors.detach().double().cpu(), dim=-1)
    generator = torch.Generator().manual_seed(seed)
    found = [_run_kmeans(directions, count, generator, iterations) for _ in range(restarts)]
    return max(found, key=lambda clusters: clusters.cosine)


@dataclass(frozen=True)
class TwoLevels:
    """Groups, each split into subgroups.

    Attributes:
        coarse: the groups.
        fine: the F subgroups of all groups; those of the first group come first.
        parents: [F] int64 group of each subgroup.
    """

    coarse: Clusters
    fine: Clusters
    parents: Tensor


def two_levels(vectors: Tensor, count: int, subgroups: int, *, seed: int = 0) -> TwoLevels:
    """Cluster vectors into groups, and each group into subgroups.

    Args:
        vectors: [C, D] of any norm above 0.
        count: number of groups, 1..C.
        subgroups: subgroups per group, at least 1. A group with fewer members gets one subgroup per member.
        seed: seed of the initial centres.

    Raises:
        VocabularyError: as `spherical_kmeans`.
    """
    coarse = spherical_kmeans(vectors, count, seed=seed)
    labels = torch.empty_like(coarse.labels)
    centres: list[Tensor] = []
    parents: list[int] = []
    for group in range(count):
        members = (coarse.labels == group).nonzero()[:, 0]
        parts = spherical_kmeans(vectors[members.to(vectors.device)], min(subgroups, len(members)), seed=seed)
        labels[members] = parts.labels + len(parents)
        centres.append(parts.centres)
        parents += [group] * len(parts.centres)
    joined = torch.cat(centres)
    directions = F.normalize(vectors.detach().double().cpu(), dim=-1)
    cosine = float((directions * joined[labels]).sum(dim=-1).mean())
    return TwoLevels(coarse=coarse, fine=Clusters(labels, joined, cosine), parents=torch.tensor(parents))


def class_groups(vocabulary: Vocabulary, count: int, *, seed: int = 0) -> dict[str, int]:
    """Group classes by their text embeddings: class name -> 0..count-1, in the order of the vocabulary.

    Raises:
        VocabularyError: more groups than classes, or fewer than one.
    """
    labels = spherical_kmeans(vocabulary.embeddings, count, seed=seed).labels
    return dict(zip(vocabulary.names, labels.tolist(), strict=True))


def _run_kmeans(directions: Tensor, count: int, generator: torch.Generator, iterations: int) -> Clusters:
    """One run of k-means over unit vectors [C, D]."""
    centres = _initial_centres(directions, count, generator)
    labels = torch.full((len(directions),), -1)
    for _ in range(iterations):
        new_labels = _assign(directions, centres)
        if torch.equal(new_labels, labels):
            break
        labels = new_labels
        sums = torch.zeros_like(centres).index_add_(0, labels, directions)
        # Opposite directions may cancel out; such a centre stays where it is.
        centres = torch.where(sums.norm(dim=-1, keepdim=True) > 1e-12, F.normalize(sums, dim=-1), centres)
    # Number the clusters in the order of their first members.
    order = torch.stack([(labels == cluster).nonzero()[0, 0] for cluster in range(count)]).argsort()
    cosine = float((directions * centres[labels]).sum(dim=-1).mean())
    return Clusters(labels=order.argsort()[labels], centres=centres[order], cosine=cosine)


def _initial_centres(directions: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centres [K, D] by k-means++: rows, each drawn in proportion to its distance from those already drawn."""
    chosen = [int(torch.randint(len(directions), (), generator=generator))]
    while len(chosen) < count:
        distance = (1 - directions @ directions[chosen].T).amin(dim=1).clamp(min=0)
        distance[chosen] = 0
        if not bool(distance.any()):
            distance = torch.ones_like(distance).index_fill(0, torch.tensor(chosen), 0)  # only duplicates are left
        chosen.append(int(torch.multinomial(distance, 1, generator=generator)))
    return directions[chosen]


def _assign(directions: Tensor, centres: Tensor) -> Tensor:
    """Nearest centre of each row: [C] int64. An empty cluster takes over the row farthest from its own centre."""
    cosine = directions @ centres.T
    labels = cosine.argmax(dim=1)
    for cluster in range(len(centres)):
        sizes = labels.bincount(minlength=len(centres))
        if not sizes[cluster]:
            # Rows that are alone in their cluster stay, or that cluster would become empty.
            own_cosine = cosine.gather(1, labels[:, None])[:, 0].masked_fill(sizes[labels] == 1, torch.inf)
            labels[own_cosine.argmin()] = cluster
    return labels
