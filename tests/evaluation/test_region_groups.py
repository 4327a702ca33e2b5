"""Numbers of groups of regions: each beside the same by brute force, or beside what must hold for any regions."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from cora.evaluation.agreement import Agreement
from cora.evaluation.bootstrap import resample_counts
from cora.evaluation.coarse_to_fine import choose_coarse_to_fine, measure_by_examples, measure_coarse_to_fine
from cora.evaluation.confusion import nearest_class
from cora.evaluation.embedded_regions import EmbeddedRegions
from cora.evaluation.region_groups import draw_regions, group_regions, main_plane
from cora.evaluation.separation import separation, silhouette
from cora.regions import Vocabulary
from cora.regions.groups import TwoLevels, two_levels

NAMES = ("cat", "dog", "bus", "car", "cup")
DIM = 8


def noise(count: int, seed: int) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def vocabulary(seed: int = 0) -> Vocabulary:
    return Vocabulary(NAMES, F.normalize(noise(len(NAMES), seed), dim=-1))


def embedded(count: int, *, prompted: float, plain: float, seed: int = 0) -> EmbeddedRegions:
    """Regions around the embeddings of their classes, with so much noise."""
    classes = torch.arange(count) % len(NAMES)
    centres = vocabulary().embeddings[classes]
    return EmbeddedRegions(
        prompted=F.normalize(centres + prompted * noise(count, seed + 1), dim=-1),
        plain=F.normalize(centres + plain * noise(count, seed + 2), dim=-1),
        classes=classes,
        image_index=torch.arange(count) // 3,
        images=count // 3 + 2,
        class_names=NAMES,
    )


labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30)


def agreement(pairs: list[tuple[int, int]]) -> Agreement:
    classes, clusters = torch.tensor(pairs).unbind(1)
    return Agreement.of(classes, clusters, (4, 5))


@settings(max_examples=60, deadline=None)
@given(labels)
def test_agreement_is_what_counting_pairs_and_boxes_gives(pairs: list[tuple[int, int]]) -> None:
    found = agreement(pairs)
    clusters = {cluster for _, cluster in pairs}
    most = [max(pairs.count((own, cluster)) for own in range(4)) for cluster in clusters]
    assert found.purity == pytest.approx(sum(most) / len(pairs))
    alike = [(a[0] == b[0], a[1] == b[1]) for a, b in itertools.combinations(pairs, 2)]
    both = sum(one and other for one, other in alike)
    same_class, same_cluster = (sum(pair[i] for pair in alike) for i in (0, 1))
    expected = same_class * same_cluster / len(alike) if alike else 0.0
    largest = (same_class + same_cluster) / 2
    rand = 1.0 if largest == expected else (both - expected) / (largest - expected)
    assert found.adjusted_rand == pytest.approx(rand)

    def entropy(parts: list[int]) -> float:
        return -sum(part / len(pairs) * math.log(part / len(pairs)) for part in parts if part)

    by_class, by_cluster = ([sum(pair[i] == n for pair in pairs) for n in range(5)] for i in (0, 1))
    joint = entropy([pairs.count(pair) for pair in {*pairs}])
    mean = (entropy(by_class) + entropy(by_cluster)) / 2
    information = (entropy(by_class) + entropy(by_cluster) - joint) / mean if mean else 1.0
    assert found.mutual_information == pytest.approx(information, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(labels, st.permutations(range(5)))
def test_numbers_of_clusters_do_not_count(pairs: list[tuple[int, int]], order: list[int]) -> None:
    one, other = agreement(pairs), agreement([(own, order[cluster]) for own, cluster in pairs])
    for number in ("purity", "mutual_information", "adjusted_rand"):
        assert getattr(one, number) == pytest.approx(getattr(other, number))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=30))
def test_the_same_division_agrees_entirely(classes: list[int]) -> None:
    found = agreement([(own, own) for own in classes])
    assert found.purity == 1
    assert found.mutual_information == pytest.approx(1)
    assert found.adjusted_rand == pytest.approx(1)


def test_a_random_division_agrees_by_chance_alone() -> None:
    generator = np.random.default_rng(0)
    pairs = [(int(a), int(b)) for a, b in generator.integers(0, 4, size=(4000, 2))]
    assert abs(agreement(pairs).adjusted_rand) < 0.01
    assert agreement(pairs).mutual_information < 0.01


def test_the_main_cluster_of_a_class_holds_most_of_its_boxes() -> None:
    found = agreement([(0, 1), (0, 1), (0, 2), (2, 4)])
    assert found.main_cluster() == [(1, pytest.approx(2 / 3)), None, (4, 1.0), None]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 25), st.integers(2, 4), st.integers(0, 999))
def test_silhouettes_are_those_of_all_distances(count: int, kinds: int, seed: int) -> None:
    vectors = noise(count, seed)
    own = torch.randint(kinds, (count,), generator=torch.Generator().manual_seed(seed))
    own[:2] = torch.tensor([0, 1])
    directions = F.normalize(vectors.double(), dim=-1)
    distances = 1 - directions @ directions.T
    wanted = []
    for i in range(count):
        same = [j for j in range(count) if own[j] == own[i] and j != i]
        others = [float(distances[i, own == kind].mean()) for kind in own.unique().tolist() if kind != own[i]]
        inner = float(distances[i, same].mean()) if same else 0.0
        wanted.append((min(others) - inner) / max(min(others), inner) if same else 0.0)
    torch.testing.assert_close(silhouette(vectors, own), torch.tensor(wanted, dtype=torch.float64))
    turned = vectors @ torch.linalg.qr(noise(DIM, 1))[0] * 3
    torch.testing.assert_close(silhouette(turned, own), silhouette(vectors, own), atol=1e-5, rtol=1e-5)


def test_silhouettes_at_their_ends() -> None:
    apart, own = torch.eye(2).repeat_interleave(3, dim=0), torch.tensor([0, 0, 0, 1, 1, 1])
    assert silhouette(apart, own).tolist() == [1.0] * 6
    assert silhouette(torch.ones(6, 2), own).tolist() == [0.0] * 6
    assert silhouette(apart, torch.zeros(6, dtype=torch.int64)).isnan().all()


def test_separation_sees_what_the_prompt_changes() -> None:
    better = embedded(60, prompted=0.2, plain=0.5)
    counts = resample_counts(better.images)
    change = separation(better, better.classes, counts)
    assert change.difference.low is not None
    assert change.difference.low > 0
    assert change.after.value == pytest.approx(float(silhouette(better.prompted, better.classes).mean()))
    same = EmbeddedRegions(**{**vars(better), "plain": better.prompted})
    assert separation(same, same.classes, counts).difference.as_dict() == {"value": 0, "low": 0, "high": 0}
    assert separation(better, torch.zeros(60, dtype=torch.int64), counts).after.value is None


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(1, 5), st.integers(1, 3))
def test_coarse_to_fine_goes_down_from_group_to_class(seed: int, groups: int, subgroups: int) -> None:
    words, regions = vocabulary(seed), F.normalize(noise(15, seed + 1), dim=-1)
    levels = two_levels(words.embeddings, groups, subgroups)
    chosen, classes = choose_coarse_to_fine(regions, words.embeddings, levels)
    for region, group, own in zip(regions.double(), chosen.tolist(), classes.tolist(), strict=True):
        assert group == int((levels.coarse.centres @ region).argmax())
        assert int(levels.coarse.labels[own]) == group
        parts = [i for i, parent in enumerate(levels.parents.tolist()) if parent == group]
        part = max(parts, key=lambda i: float(levels.fine.centres[i] @ region))
        members = (levels.fine.labels == part).nonzero()[:, 0].tolist()
        assert own == max(members, key=lambda i: float(words.embeddings[i].double() @ region))


@pytest.mark.parametrize(("groups", "subgroups"), [(1, 1), (len(NAMES), 2), (1, len(NAMES))])
def test_one_group_or_a_group_for_each_class_is_the_flat_way(groups: int, subgroups: int) -> None:
    words, regions = vocabulary(), F.normalize(noise(40, 5), dim=-1)
    _, classes = choose_coarse_to_fine(regions, words.embeddings, two_levels(words.embeddings, groups, subgroups))
    assert torch.equal(classes, nearest_class(regions, words.embeddings))


def test_coarse_to_fine_is_counted_by_group() -> None:
    regions, words = embedded(90, prompted=0.6, plain=0.6), vocabulary()
    levels = two_levels(words.embeddings, 2, 2)
    whole, *parts = measure_coarse_to_fine(regions, words.embeddings, levels, resample_counts(regions.images))
    _, chosen = choose_coarse_to_fine(regions.prompted, words.embeddings, levels)
    assert whole.top1.before.value == pytest.approx(
        float((nearest_class(regions.prompted, words.embeddings) == regions.classes).double().mean())
    )
    assert whole.top1.after.value == pytest.approx(float((chosen == regions.classes).double().mean()))
    assert [part.group for part in parts] == [0, 1]
    assert sum(part.boxes for part in parts) == whole.boxes == 90
    for numbers in ([(p.boxes, p.top1.after.value, whole.top1.after.value) for p in parts],
                    [(p.boxes, p.group_right.value, whole.group_right.value) for p in parts]):  # fmt: skip
        assert sum(boxes * (value or 0) for boxes, value, _ in numbers) == pytest.approx(90 * (numbers[0][2] or 0))


def test_examples_of_other_images_stand_for_a_class() -> None:
    regions = embedded(90, prompted=0.5, plain=0.5)
    counts = resample_counts(regions.images)
    found = measure_by_examples(regions, count=2, subgroups=2, seed=0, counts=counts)
    assert found is not None
    right = []
    for i in range(90):
        others = regions.image_index % 2 != regions.image_index[i] % 2
        means = [regions.prompted[others & (regions.classes == own)].mean(dim=0) for own in range(len(NAMES))]
        cosines = F.normalize(torch.stack(means), dim=-1) @ regions.prompted[i]
        right.append(int(cosines.argmax()) == int(regions.classes[i]))
    assert found.top1.before.value == pytest.approx(sum(right) / 90)
    assert found.top1.after.value is not None
    assert found.group_right.value is not None
    assert found.top1.after.value <= found.group_right.value
    flat = measure_by_examples(regions, count=9, subgroups=2, seed=0, counts=counts)  # more groups than classes
    assert flat is not None
    assert flat.top1.difference.as_dict() == {"value": 0, "low": 0, "high": 0}


def test_a_class_without_an_example_is_never_right() -> None:
    regions = embedded(90, prompted=0.0, plain=0.0)
    halves = regions.image_index % 2
    rare = EmbeddedRegions(**{**vars(regions), "classes": torch.where(halves == 0, regions.classes, 4)})
    found = measure_by_examples(rare, count=2, subgroups=2, seed=0, counts=resample_counts(rare.images))
    assert found is not None
    known = (halves == 0) & (regions.classes == 4)
    assert found.top1.before.value is not None
    assert found.top1.before.value <= float((known | (halves == 1)).double().mean())


@pytest.mark.parametrize("shift", [0, 1])
def test_examples_need_boxes_in_both_halves(shift: int) -> None:
    regions = embedded(20, prompted=0.1, plain=0.1)
    one = EmbeddedRegions(**{**vars(regions), "image_index": regions.image_index * 2 + shift, "images": 50})
    assert measure_by_examples(one, count=2, subgroups=1, seed=0, counts=resample_counts(one.images)) is None


def grouped(regions: EmbeddedRegions) -> tuple[TwoLevels, dict[str, object]]:
    levels = two_levels(vocabulary().embeddings, 2, 2)
    found = group_regions(regions, vocabulary(), levels, count=5, subgroups=1)
    return found.prompted, json.loads(json.dumps(found.as_dict(), allow_nan=False))


def test_regions_close_to_their_class_are_grouped_and_named_as_it() -> None:
    _, report = grouped(embedded(60, prompted=0.05, plain=0.05))
    assert report["boxes"] == 60
    groups = report["groups"]
    assert isinstance(groups, list)
    assert [list(group["classes"]) for group in groups] == [[group["nearest"][0]] for group in groups]
    assert len({group["nearest"][0] for group in groups}) == 5
    for ways in report["agreement"].values():  # type: ignore[attr-defined]
        assert ways["prompt"] == {"purity": 1, "normalised_mutual_information": 1, "adjusted_rand": 1}
    classes = report["classes"]
    assert isinstance(classes, list)
    assert [row["share"] for row in classes] == [1.0] * 5
    assert [row["silhouette_prompted"] for row in classes] == sorted(row["silhouette_prompted"] for row in classes)


def test_regions_of_one_class_have_no_silhouette_and_still_a_report() -> None:
    regions = embedded(30, prompted=0.3, plain=0.3)
    _, report = grouped(EmbeddedRegions(**{**vars(regions), "classes": torch.zeros(30, dtype=torch.int64)}))
    assert report["silhouette"]["classes"]["after"]["value"] is None  # type: ignore[index]
    assert [row["silhouette_prompted"] for row in report["classes"]] == [None]  # type: ignore[attr-defined]


def test_the_plane_is_that_of_largest_spread_and_depends_on_no_order() -> None:
    regions = embedded(60, prompted=0.3, plain=0.3)
    plane = main_plane(regions)
    torch.testing.assert_close(plane.T @ plane, torch.eye(2, dtype=torch.float64))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    moved = {name: getattr(regions, name)[order] for name in ("prompted", "plain", "classes", "image_index")}
    torch.testing.assert_close(main_plane(EmbeddedRegions(**{**vars(regions), **moved})), plane)
    ways = torch.cat([w.double() - w.double().mean(0) for w in (regions.prompted, regions.plain)])
    spread = (ways @ plane).square().sum()
    for seed in range(20):
        other = torch.linalg.qr(noise(DIM, seed).double()[:, :2])[0]
        assert float((ways @ other).square().sum()) <= float(spread)


def test_a_single_region_is_drawn() -> None:
    regions = embedded(1, prompted=0.1, plain=0.1)
    levels = two_levels(vocabulary().embeddings, 1, 1)
    picture = draw_regions(group_regions(regions, vocabulary(), levels, count=1, subgroups=1), "toy")
    assert picture.width > 1000
