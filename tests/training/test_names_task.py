"""Teaching names: only the classes' own offsets learn, and other names stay where they were."""

import pytest
import torch
from torch import Tensor

from cora.detector import Detector
from cora.regions import Vocabulary
from cora.regions.learned_text import LearnedOffsets
from cora.structures import FeatureMap, ImageBatch, Targets
from cora.training.frozen_maps import TaskBatch
from cora.training.names_task import NamesTask, offsets_for
from cora.training.region_embeddings import RegionEmbeddings


def batch() -> TaskBatch:
    torch.manual_seed(1)
    images = ImageBatch(
        pixels=torch.randn(2, 3, 64, 96),
        mask=torch.zeros(2, 64, 96, dtype=torch.bool),
        sizes=((64, 96), (64, 96)),
        original_sizes=((64, 96), (64, 96)),
    )
    boxes = torch.tensor([[0.3, 0.4, 0.3, 0.4], [0.7, 0.5, 0.4, 0.6]])
    targets = (
        Targets(boxes_cxcywh=boxes, classes=torch.tensor([0, 4])),
        Targets(boxes_cxcywh=boxes[:1], classes=torch.tensor([2])),
    )
    return images, targets


def make(detector: Detector, vocabulary: Vocabulary, **more: float) -> NamesTask:
    others = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    offsets = LearnedOffsets(width=16, rank=0, names=vocabulary.names)
    return NamesTask(detector=detector, vocabulary=vocabulary, others=others, offsets=offsets, **more)


def test_only_the_own_offsets_learn(detector: Detector, vocabulary: Vocabulary) -> None:
    task = make(detector, vocabulary)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=0.1)
    losses: list[float] = []
    for _ in range(20):
        optimiser.zero_grad()
        found = task(batch())
        found["loss"].backward()
        optimiser.step()
        losses.append(float(found["loss"].detach()))
    assert losses[-1] < losses[0]
    changed = {name for name, value in task.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"offsets.own"}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in task.parameters() if p.requires_grad)


def test_maps_of_a_cache_give_the_same_as_photos(detector: Detector, vocabulary: Vocabulary) -> None:
    task = make(detector, vocabulary).eval()
    images, targets = batch()
    maps: tuple[FeatureMap, FeatureMap] = detector.encode(images)
    torch.testing.assert_close(task((images, targets))["loss"], task((*maps, targets))["loss"])


def test_boxes_move_in_training_only(detector: Detector, vocabulary: Vocabulary) -> None:
    def loss(task: NamesTask, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return task(one)["loss"].detach()

    one, task = batch(), make(detector, vocabulary)
    assert loss(task.train(), 0) != loss(task, 1)
    assert loss(task.eval(), 0) == loss(task, 1)
    still = make(detector, vocabulary, box_noise=0.0, background=0.0).train()
    assert loss(still, 0) == loss(still, 1)


def test_background_is_kept_from_the_classes(detector: Detector, vocabulary: Vocabulary) -> None:
    one = batch()
    probability = []
    for weight in (0.0, 100.0):
        torch.manual_seed(0)
        task = make(detector, vocabulary, background=weight)
        optimiser = torch.optim.Adam([task.offsets.own], lr=0.1)
        for _ in range(30):
            optimiser.zero_grad()
            task(one)["loss"].backward()
            optimiser.step()
        embeddings = task.offsets(task.class_embeddings, task.names).detach()
        torch.manual_seed(5)
        task.background = 1.0
        elsewhere = [task._background_boxes(boxes.boxes_cxcywh) for boxes in one[1]]
        assert sum(map(len, elsewhere)) > 0
        pooled, _ = task._embed(*detector.encode(one[0]), elsewhere)
        probability.append(float(detector.classifier(pooled, embeddings).sum(dim=1).mean()))
    assert probability[1] < probability[0] / 2


def test_the_background_is_the_classifiers(detector: Detector, vocabulary: Vocabulary) -> None:
    losses = []
    one, task = batch(), make(detector, vocabulary).train()
    for background in (0.0, 0.5, 1.0):  # the likelier nothing is, the less there is to learn from boxes that hold none
        detector.classifier.background = background
        torch.manual_seed(5)
        losses.append(float(task(one)["loss"].detach()))
    assert losses[0] > losses[1] > losses[2]


def test_a_batch_without_boxes_teaches_nothing(detector: Detector, vocabulary: Vocabulary) -> None:
    task = make(detector, vocabulary)
    images, targets = batch()
    empty = tuple(Targets(boxes_cxcywh=torch.zeros(0, 4), classes=torch.zeros(0, dtype=torch.int64)) for _ in targets)
    found = task((images, empty))
    assert found["loss"].item() == 0
    found["loss"].backward()
    assert float(task.offsets.own.grad.abs().sum()) == 0


def test_learning_starts_from_prototypes_where_there_are_boxes(detector: Detector, vocabulary: Vocabulary) -> None:
    task = make(detector, vocabulary)
    torch.nn.init.normal_(task.offsets.shift, std=0.2)  # what was learned before stays below the prototypes
    torch.nn.init.normal_(task.offsets.own, std=0.2)
    before = task.offsets(task.class_embeddings, task.names).detach()
    found = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    regions = RegionEmbeddings(
        regions=found,
        labels=torch.tensor([0, 2, 2]),
        image_index=torch.zeros(3, dtype=torch.int64),
        areas_px=torch.ones(3),
        images=1,
        class_names=vocabulary.names,
    )
    task.start_from(regions, share=0.25)
    after = task.offsets(task.class_embeddings, task.names).detach()
    unit = torch.nn.functional.normalize
    expected = before.clone()
    expected[0] = unit(0.75 * before[0] + 0.25 * found[0], dim=0)
    expected[2] = unit(0.75 * before[2] + 0.25 * unit(found[1] + found[2], dim=0), dim=0)
    torch.testing.assert_close(after, expected)
    assert task.offsets.own.requires_grad


def test_offsets_grow_by_new_names_and_keep_the_old() -> None:
    old = LearnedOffsets(width=16, rank=2, names=("cat", "dog"))
    torch.nn.init.normal_(old.own)
    torch.nn.init.normal_(old.up)
    new = offsets_for(("Dog", "bus"), learned=old, width=16)
    assert new.names == ("cat", "dog", "bus")
    embeddings = torch.nn.functional.normalize(torch.randn(3, 16), dim=-1)
    names = ("cat", "dog", "tree")
    torch.testing.assert_close(new(embeddings, names), old(embeddings, names))
    fresh = offsets_for(("bus",), learned=None, width=16)
    torch.testing.assert_close(fresh(embeddings, ("bus", "a", "b")), embeddings)


@pytest.mark.parametrize("names", [("cat",), ("cat", "dog")])
def test_taught_names_leave_others_alone(detector: Detector, names: tuple[str, ...]) -> None:
    encoder = detector.vocabulary_encoder
    before = encoder.encode(["tree", *names]).embeddings
    offsets = offsets_for(names, learned=None, width=16)
    torch.nn.init.normal_(offsets.own)
    detector.learn_text(offsets)
    after = encoder.encode(["tree", *names]).embeddings
    torch.testing.assert_close(after[0], before[0])
    assert (after[1:] - before[1:]).norm(dim=1).min() > 0.1
