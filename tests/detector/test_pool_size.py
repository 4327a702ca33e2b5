"""Another grid of cells for regions: what changes with S, for every kind of image tower."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import cora
from cora.detector import Detector
from cora.detector.variants import CropDetector
from cora.errors import ModelError
from cora.images import PreprocessConfig
from cora.regions import FastAlignment, RegionPrompt
from cora.structures import Targets
from cora.towers import ResNetTower, interpolate_positions
from cora.training.prompt_task import PromptTask
from tests import toys
from tests.tolerances import assert_near
from tests.toy_nano import nano_config, picture, toy_nano

NAMES = ["cat", "dog", "house"]
BOXES = torch.tensor([[[0.3, 0.4, 0.2, 0.3], [0.6, 0.5, 0.7, 0.9]]])
SIZES = PreprocessConfig(short_side=96, long_side=160)


def resnet(cache: Path) -> Detector:
    return toys.toy_detector(toys.toy_config(preprocess=SIZES, fast_alignment=True), cache, residual=1.0)


def convnext(cache: Path) -> Detector:
    config = toys.toy_config(
        tower=toys.CONVNEXT, preprocess=PreprocessConfig(short_side=96, long_side=160, multiple=32, whole=True)
    )
    return toys.toy_detector(config, cache, residual=1.0)


def nano(cache: Path) -> Detector:
    return toy_nano(cache)


def strict_nano(cache: Path) -> Detector:
    return toy_nano(cache, nano_config(detector=False, box_stages=(3, 4), fine_bins=2))


@pytest.fixture(params=[resnet, convnext, nano, strict_nano], ids=lambda build: str(build.__name__))
def detector(request: pytest.FixtureRequest, tmp_path: Path) -> Detector:
    """One of each kind, with a prompt that is not zero."""
    build: Callable[[Path], Detector] = request.param
    made = build(tmp_path / "cache")
    torch.manual_seed(1)
    torch.nn.init.normal_(made.prompt.offset, std=0.1)
    return made


@torch.no_grad()
def embedded(detector: Detector) -> tuple[Tensor, Tensor]:
    """Regions of one image by exact and by fast pooling."""
    c3, c4 = detector.encode(detector.preprocessor([picture(96, 128)]))
    return detector.embed_exact(c3, BOXES), detector.embed_fast(c4, BOXES)


@pytest.mark.parametrize("first", [0, 1], ids=["cells", "mean token and cells"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_a_constant_prompt_stays_constant(first: int, size: int) -> None:
    prompt = RegionPrompt(cells=first + 9, channels=4)
    with torch.no_grad():
        prompt.offset[first:] = torch.tensor([0.5, -1.0, 0.0, 2.0])
        prompt.offset[:first] = 7.0
    prompt.resample(size)
    assert prompt.offset.shape == (first + size**2, 4)
    assert_near(prompt.offset[first:], torch.tensor([0.5, -1.0, 0.0, 2.0]).expand(size**2, 4))
    assert bool((prompt.offset[:first] == 7).all())


@pytest.mark.parametrize("rows", [9, 10])
def test_the_same_size_is_the_identity(rows: int) -> None:
    prompt = RegionPrompt(cells=rows, channels=5)
    torch.nn.init.normal_(prompt.offset)
    before = prompt.offset.detach().clone()
    prompt.resample(3)
    assert torch.equal(prompt.offset, before)


def test_rows_and_columns_keep_their_order() -> None:
    prompt = RegionPrompt(cells=9, channels=1)
    with torch.no_grad():
        prompt.offset.copy_(torch.arange(3.0).repeat_interleave(3)[:, None])  # grows downwards
    prompt.resample(6)
    grid = prompt.offset.detach().view(6, 6)
    assert_near(grid, grid[:, :1].expand(6, 6))
    assert bool((grid[1:, 0] > grid[:-1, 0]).all())


def test_the_prompted_positions_are_those_of_before_on_another_grid(detector: Detector) -> None:
    before, size = detector.prompted_positions().detach(), detector.image_tower.pool_size + 2
    detector.set_pool_size(size)
    assert_near(detector.prompted_positions(), interpolate_positions(before, (size, size)))
    assert not any(parameter.requires_grad for parameter in detector.image_tower.parameters())
    if isinstance(detector.image_tower, ResNetTower):
        assert detector.image_tower.positions.shape[0] == size**2 + 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 5])
def test_regions_are_embedded_and_a_file_keeps_the_size(detector: Detector, size: int, tmp_path: Path) -> None:
    before, own = embedded(detector), detector.image_tower.pool_size
    detector.set_pool_size(size)
    after = embedded(detector)
    assert detector.config.tower.pool_size == detector.image_tower.pool_size == size
    for old, new in zip(before, after, strict=True):
        assert_near(new.norm(dim=-1), torch.ones(1, 2))
        # The same regions seen through other cells: alike, and not the same.
        assert float(F.cosine_similarity(old, new, dim=-1).mean()) > 0.5
        assert torch.equal(old, new) == (size == own)
    detector.save(tmp_path / "model.safetensors", dtype=torch.float32)
    loaded = cora.load(tmp_path / "model.safetensors").detector
    assert loaded.config == detector.config
    assert loaded.image_tower.pool_size == size
    for new, read in zip(after, embedded(loaded), strict=True):
        assert_near(read, new)


def test_the_own_size_changes_nothing(detector: Detector) -> None:
    before, config = {name: value.clone() for name, value in detector.state_dict().items()}, detector.config
    detector.set_pool_size(detector.image_tower.pool_size)
    assert detector.config is config
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())


def test_the_new_prompt_learns_and_nothing_else(detector: Detector) -> None:
    detector.set_pool_size(4)
    vocabulary = detector.vocabulary_encoder.encode(NAMES)
    task = PromptTask(detector=detector, vocabulary=vocabulary).train()
    targets = (Targets(boxes_cxcywh=BOXES[0], classes=torch.tensor([0, 2])),)
    task((detector.preprocessor([picture(96, 128)]), targets))["loss"].backward()
    learning = [name for name, value in task.named_parameters() if value.requires_grad]
    assert learning == ["detector.prompt.offset"]
    gradient = detector.prompt.offset.grad
    assert gradient is not None
    assert gradient.shape == detector.prompt.offset.shape
    assert bool(gradient.abs().sum(dim=1).gt(0).all())  # every cell


def test_a_fast_alignment_of_other_cells_is_no_longer_used(tmp_path: Path) -> None:
    detector = resnet(tmp_path / "cache")
    alignment = FastAlignment(embed_dim=16)
    torch.nn.init.normal_(alignment.shift.weight)
    detector.align_fast_pooling(alignment)
    detector.set_pool_size(3)
    assert detector.fast_alignment is not None
    assert not detector.fast_alignment.shift.weight.any()
    assert detector.config.fast_alignment


@pytest.mark.parametrize("size", [0, -1, 33, 100])
def test_sizes_that_make_no_sense_are_refused(detector: Detector, size: int) -> None:
    own, rows = detector.image_tower.pool_size, len(detector.prompt.offset)
    with pytest.raises(ModelError, match=f"pool_size: expected 1 to 32 cells a side, got {size}; the model has {own}$"):
        detector.set_pool_size(size)
    assert (detector.config.tower.pool_size, len(detector.prompt.offset)) == (own, rows)


def test_variants_keep_their_size(tmp_path: Path) -> None:
    variant = CropDetector.of(resnet(tmp_path / "cache"))
    with pytest.raises(ModelError, match="pool_size 4: expected CORA itself, got its variant 'crops'"):
        variant.set_pool_size(4)


@pytest.mark.slow
def test_a_predictor_that_has_detected_notices(tmp_path: Path) -> None:
    toy_nano(tmp_path / "cache").save(tmp_path / "nano.safetensors")
    predictor, other = (cora.load(tmp_path / "nano.safetensors") for _ in range(2))
    image = picture(96, 128)
    before = predictor.predict(image, NAMES, score=0)
    for one in (predictor, other):
        one.detector.set_pool_size(5)
    after, expected = (one.predict(image, NAMES, score=0) for one in (predictor, other))
    assert_near(after.scores, expected.scores)
    assert not torch.equal(after.scores, before.scores)
