"""Training the study: what learns, that a stop costs nothing, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cora.data.coco import CocoDataset, targets_of
from cora.errors import DataError, TrainingError
from cora.study import train as module
from cora.study.build import FrozenPart, build_model
from cora.study.config import LossPart, StudyConfig
from cora.study.train import Stretch, StudyTask, assert_only_study_learns, cam_tower_of, mean_size, train_study
from tests.study.conftest import COLOURS, CONFIG

one_tower = pytest.mark.parametrize("frozen", ["resnet"], indirect=True)


def run(frozen: FrozenPart, dataset: CocoDataset, folder: Path, config: StudyConfig = CONFIG) -> dict[str, Tensor]:
    study, result = train_study(
        config=config, frozen=frozen, dataset=dataset, run_dir=folder, progress=False, tensorboard=False
    )
    assert not result.interrupted
    assert result.epochs == config.train.epochs
    return {name: value.clone() for name, value in study.model.state_dict().items()}


def make_task(frozen: FrozenPart) -> StudyTask:
    model = build_model(CONFIG.model, feature_width=frozen.tower.feature_width, seed=0)
    return StudyTask(cam_tower=cam_tower_of(frozen, tuple(COLOURS)), model=model, loss=LossPart())


def photos(frozen: FrozenPart, dataset: CocoDataset, indices: tuple[int, ...]):  # type: ignore[no-untyped-def]
    stretch = Stretch(size_hw=CONFIG.tower.image_size)
    items = [stretch(*dataset[index][:2]) for index in indices]
    return frozen.preprocessor.collate([image for image, _ in items]), tuple(targets for _, targets in items)


def test_head_and_image_encoder_learn_and_the_tower_stays(
    frozen: FrozenPart, dataset: CocoDataset, tmp_path: Path
) -> None:
    tower = frozen.tower
    assert isinstance(tower, torch.nn.Module)
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    start = build_model(
        CONFIG.model, feature_width=tower.feature_width, seed=CONFIG.train.seed, prior_wh=mean_size(dataset)
    ).state_dict()
    learned = run(frozen, dataset, tmp_path / "run")
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())
    same = [name for name, value in learned.items() if torch.equal(value, start[name])]
    assert same == ["head.prior_wh"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4
    assert {"loss", "l1", "giou", "best_iou", "cells", "lr", "grad_norm"} <= lines[-1].keys()
    assert lines[-1]["lr"] < lines[0]["lr"]  # the cosine


@one_tower
def test_more_steps_fit_better(frozen: FrozenPart, dataset: CocoDataset) -> None:
    task = make_task(frozen)
    batch = photos(frozen, dataset, (0, 1, 2))
    optimiser = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        found = task(batch)
        found["loss"].backward()
        optimiser.step()
        losses.append(float(found["loss"].detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    frozen: FrozenPart, dataset: CocoDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(frozen, dataset, tmp_path / "whole")
    steps = 0
    real = module.study_loss

    def failing(*arguments: Tensor) -> dict[str, Tensor]:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise RuntimeError("power cut")
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "study_loss", failing)
        with pytest.raises(RuntimeError, match="power cut"):
            run(frozen, dataset, tmp_path / "cut")
    torch.manual_seed(123)  # of another process
    resumed = run(frozen, dataset, tmp_path / "cut")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_cached_maps_train_like_photos(frozen: FrozenPart, dataset: CocoDataset) -> None:
    task = make_task(frozen)
    batch, targets = photos(frozen, dataset, (0, 4, 6))
    joined, pixels = task.cam_tower.features(batch)
    direct, cached = task((batch, targets)), task((joined, pixels, targets))
    assert direct.keys() == cached.keys()
    for name, value in direct.items():
        torch.testing.assert_close(cached[name], value)


@one_tower
def test_only_the_channel_of_a_boxs_own_class_is_used(frozen: FrozenPart, dataset: CocoDataset) -> None:
    task = make_task(frozen)
    batch, targets = photos(frozen, dataset, (0,))
    joined, pixels = task.cam_tower.features(batch)
    changed = joined.features.clone()
    unused = ({0, 1, 2} - set(targets[0].classes.tolist())).pop()
    changed[:, -3 + unused] = 0.123
    before = task((joined, pixels, targets))
    assert torch.equal(task((replace(joined, features=changed), pixels, targets))["loss"], before["loss"])
    changed[:, -3 + int(targets[0].classes[0])] = 0.123
    assert not torch.equal(task((replace(joined, features=changed), pixels, targets))["loss"], before["loss"])


@one_tower
def test_photos_without_boxes_teach_nothing(frozen: FrozenPart, dataset: CocoDataset) -> None:
    losses = make_task(frozen)(photos(frozen, dataset, (6,)))
    assert float(losses["loss"]) == 0.0
    assert not losses["loss"].requires_grad


@one_tower
def test_nothing_else_may_learn(frozen: FrozenPart) -> None:
    task = make_task(frozen)
    assert_only_study_learns(task)
    next(task.cam_tower.parameters()).requires_grad_(True)
    with pytest.raises(TrainingError, match="head and image encoder to learn and nothing else, got 1 parameters"):
        assert_only_study_learns(task)
    next(task.cam_tower.parameters()).requires_grad_(False)
    task.model.head.sides.bias.requires_grad_(False)
    with pytest.raises(TrainingError, match=r"such as model\.head\.sides\.bias"):
        assert_only_study_learns(task)


@one_tower
def test_a_run_folder_of_another_study_is_refused(frozen: FrozenPart, dataset: CocoDataset, tmp_path: Path) -> None:
    run(frozen, dataset, tmp_path)
    other = replace(CONFIG, loss=LossPart(radius=2))
    with pytest.raises(TrainingError, match="is a run of another configuration: loss was"):
        run(frozen, dataset, tmp_path, other)
    more_workers = replace(CONFIG, train=replace(CONFIG.train, max_gigabytes=3.0))
    run(frozen, dataset, tmp_path, more_workers)  # which changes no number


def test_an_image_size_that_patches_do_not_divide(frozen: FrozenPart, dataset: CocoDataset, tmp_path: Path) -> None:
    other = replace(CONFIG, tower=replace(CONFIG.tower, image_size=(64, 100)))
    with pytest.raises(DataError, match=r"image_size: expected multiples of (16|32) pixels.*got \(64, 100\)"):
        run(frozen, dataset, tmp_path / "run", other)
    assert not (tmp_path / "run").exists()


@one_tower
def test_without_boxes_there_is_nothing_to_learn(frozen: FrozenPart, dataset: CocoDataset, tmp_path: Path) -> None:
    dataset.records = dataset.records[6:]
    with pytest.raises(DataError, match="expected boxes to learn from, got none in 1 image"):
        run(frozen, dataset, tmp_path / "run")


def test_mean_size_is_geometric(dataset: CocoDataset) -> None:
    boxes = torch.cat([targets_of(record).boxes_cxcywh for record in dataset.records])
    assert mean_size(dataset) == pytest.approx(tuple(boxes[:, 2:].log().mean(dim=0).exp().tolist()), rel=1e-5)


def test_stretching_changes_no_fraction(dataset: CocoDataset) -> None:
    image, targets, _ = dataset[0]
    found, same = Stretch(size_hw=(64, 96))(image, targets)
    assert found.size == (96, 64)
    assert same is targets
    assert repr(Stretch(size_hw=(64, 96))) != repr(Stretch(size_hw=(64, 64)))
