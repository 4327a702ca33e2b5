"""Which cells have to find which box, and what they learn from it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.detector import Detector, DetectorConfig
from cora.errors import TrainingError
from cora.localizer import Localizer, Proposals
from cora.regions import Vocabulary
from cora.structures import FeatureMap, ImageBatch, Targets
from cora.training.localizer_task import LocalizerTask
from cora.training.proposal_loss import assign_cells, proposal_losses
from cora.training.proposal_task import ProposalTask
from tests.toy_nano import nano_config, toy_nano


def grid(side: int) -> torch.Tensor:
    steps = (torch.arange(side) + 0.5) / side
    return torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).flatten(0, 1)


def targets(*boxes: tuple[float, ...]) -> Targets:
    return Targets(boxes_cxcywh=torch.tensor(boxes).reshape(-1, 4), classes=torch.zeros(len(boxes), dtype=torch.int64))


def test_cells_in_the_middle_are_responsible() -> None:
    assigned = assign_cells(grid(4), torch.ones(16, dtype=torch.bool), torch.tensor([[0.5, 0.5, 1.0, 1.0]]))
    assert assigned.view(4, 4).eq(0).nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_a_tiny_box_has_its_nearest_cell_and_the_smaller_of_two_wins() -> None:
    boxes = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.4, 0.4, 0.01, 0.01]])
    assigned = assign_cells(grid(4), torch.ones(16, dtype=torch.bool), boxes).view(4, 4)
    assert int(assigned[1, 1]) == 1
    assert int((assigned == 0).sum()) == 3


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 4))
def test_padding_has_no_box(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inside = torch.rand(64, generator=generator) < 0.6
    inside[0] = True
    assigned = assign_cells(grid(8), inside, torch.rand(count, 4, generator=generator))
    assert bool((assigned[~inside] == -1).all())
    assert int(assigned.max()) < max(count, 1)
    if count:
        assert int((assigned >= 0).sum()) >= 1


def exact(boxes: torch.Tensor, objectness: torch.Tensor) -> Proposals:
    return Proposals(boxes, objectness, grid(4)[None], torch.ones(1, 16, dtype=torch.bool))


def test_perfect_proposals_cost_nothing_and_worse_ones_more() -> None:
    one = targets((0.5, 0.5, 0.6, 0.6))
    boxes = one.boxes_cxcywh[None].expand(1, 16, 4).clone()
    sure = torch.where(assign_cells(grid(4), torch.ones(16, dtype=torch.bool), one.boxes_cxcywh) >= 0, 20.0, -20.0)[
        None
    ]
    right = proposal_losses(exact(boxes, sure), [one])
    assert float(right["proposals"]) < 1e-6
    assert float(right["proposal_iou"]) == pytest.approx(1.0)
    shifted = proposal_losses(exact(boxes + 0.1, sure), [one])
    assert float(shifted["proposal_giou"]) > 0.1
    assert float(shifted["proposal_objectness"]) > float(right["proposal_objectness"])


def test_no_box_teaches_background_only() -> None:
    losses = proposal_losses(exact(torch.full((1, 16, 4), 0.5), torch.zeros(1, 16)), [targets()])
    assert float(losses["proposal_l1"]) == float(losses["proposal_giou"]) == 0
    assert float(losses["proposal_objectness"]) > 0


@pytest.fixture
def proposing(detector: Detector) -> Detector:
    """The toy detector with proposed anchors."""
    detector.config = replace(
        detector.config, localizer=replace(detector.config.localizer, anchors="proposed", dim=16, num_queries=6)
    )
    detector.localizer = Localizer.from_config(detector.config.localizer)
    return detector


def maps() -> tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]:
    torch.manual_seed(0)
    c3 = FeatureMap(torch.rand(2, 64, 6, 6), torch.zeros(2, 6, 6, dtype=torch.bool))
    c4 = FeatureMap(torch.rand(2, 128, 3, 3), torch.zeros(2, 3, 3, dtype=torch.bool))
    return c3, c4, (targets((0.5, 0.5, 0.4, 0.3)), targets((0.3, 0.6, 0.2, 0.2), (0.7, 0.4, 0.3, 0.3)))


def test_the_task_trains_what_it_needs_and_learns(proposing: Detector) -> None:
    task = ProposalTask(detector=proposing)
    trainable = {name.split(".")[2] for name, p in task.named_parameters() if p.requires_grad}
    assert trainable == {"input_projection", "encoder", "proposals"}
    optimiser = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=3e-3)
    first = last = 0.0
    for step in range(40):
        losses = task(maps())
        optimiser.zero_grad()
        losses["loss"].backward()
        if step == 0:
            assert all(p.grad is not None for p in task.parameters() if p.requires_grad)
            first = losses["loss"].item()
        optimiser.step()
        last = losses["loss"].item()
    assert last < 0.6 * first


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_the_localizer_task_teaches_the_proposals_too(
    proposing: Detector, vocabulary: Vocabulary, mixed_precision: bool
) -> None:
    # Mixed precision as the loop does it: around the whole task.
    task = LocalizerTask(detector=proposing, vocabulary=vocabulary)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision):
        losses = task(maps())
    losses["loss"].backward()
    assert all(p.grad is not None for p in proposing.localizer.proposals.parameters())
    assert losses["loss"].item() > losses["proposals"].item() > 0
    assert proposing.localizer.proposals.reach_head.weight.grad is not None


def test_learned_anchors_have_no_proposals_to_train(detector: Detector) -> None:
    with pytest.raises(TrainingError, match="expected a localizer that proposes"):
        ProposalTask(detector=detector)


def images() -> tuple[ImageBatch, tuple[Targets, ...]]:
    torch.manual_seed(0)
    sizes = ((128, 128),) * 2
    batch = ImageBatch(torch.rand(2, 3, 128, 128), torch.zeros(2, 128, 128, dtype=torch.bool), sizes, sizes)
    return batch, (targets((0.5, 0.5, 0.4, 0.3)), targets((0.3, 0.6, 0.2, 0.2)))


BOX_STAGES = nano_config(detector=False, box_stages=(3, 4))


@pytest.mark.parametrize("config", [nano_config(), nano_config(looks=2), BOX_STAGES], ids=["one", "two", "stages"])
def test_the_trunk_learns_and_what_names_regions_does_not(tmp_path: Path, config: DetectorConfig) -> None:
    nano = toy_nano(tmp_path, config)
    before = {name: value.clone() for name, value in nano.state_dict().items()}
    task = ProposalTask(detector=nano, trunk=True).train()
    optimiser = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=1e-3)
    task(images())["loss"].backward()
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)
    optimiser.step()
    learned = ("image_tower.detector.", "image_tower.box_stages.", "localizer.encoder.", "localizer.proposals.")
    for name, value in nano.state_dict().items():
        if not name.startswith(learned):
            assert torch.equal(value, before[name]), name
    trunk = [name for name in before if name.startswith(learned[:2]) and name.endswith("weight")]
    assert any(not torch.equal(nano.state_dict()[name], before[name]) for name in trunk)


@pytest.mark.parametrize("config", [nano_config(), BOX_STAGES], ids=["NanoDet", "stages"])
def test_the_trunk_sees_what_the_whole_tower_sees(tmp_path: Path, config: DetectorConfig) -> None:
    nano = toy_nano(tmp_path, config)
    batch, _ = images()
    with torch.no_grad():
        whole = nano.encode_map(nano.encode(batch)[0]).proposals
        alone = nano.encode_map(nano.image_tower.box_map(batch)).proposals
    assert torch.equal(alone.boxes_cxcywh, whole.boxes_cxcywh)
    assert torch.equal(alone.objectness, whole.objectness)


def test_a_trunk_needs_images_and_a_tower_that_has_one(tmp_path: Path, detector: Detector) -> None:
    nano = toy_nano(tmp_path)
    c3, c4 = nano.encode(images()[0])
    with pytest.raises(TypeError, match="expected images to train the trunk on"):
        ProposalTask(detector=nano, trunk=True)((c3, c4, images()[1]))
    alone = toy_nano(tmp_path, nano_config(detector=False))
    with pytest.raises(TrainingError, match="expected a tower with a network for boxes beside it"):
        ProposalTask(detector=alone, trunk=True)
    for tower in (alone.image_tower, detector.image_tower):
        with pytest.raises(TypeError, match="expected a tower with a box trunk"):
            tower.box_map(images()[0])
