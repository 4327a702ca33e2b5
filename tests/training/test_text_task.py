"""Learned text: only the learned part moves, losses fall, names without boxes are held in place."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from cora.detector import Detector
from cora.errors import DataError, TrainingError
from cora.regions import LearnedOffsets
from cora.training.region_embeddings import RegionBatch, RegionEmbeddings, RegionLoader
from cora.training.text_task import ContextTask, OffsetsTask, TextTask, TextTowerTask, default_context
from cora.training.text_training import (
    DEFAULTS,
    METHODS,
    TextTrainConfig,
    build_text_task,
    class_balance,
    train_text,
)

NAMES = ("cat", "dog", "bus")
KEPT = ("tree", "Dog", "house")
LEARNED = {
    ContextTask: ["context.vectors"],
    OffsetsTask: ["offsets.down", "offsets.own", "offsets.shift", "offsets.up"],
}


def regions_of(detector: Detector, boxes: int = 60) -> RegionEmbeddings:
    """Boxes whose embeddings are their names', turned and blurred: what the text side can learn to undo."""
    generator = torch.Generator().manual_seed(1)
    names = detector.vocabulary_encoder.encode(NAMES).embeddings
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    labels = torch.arange(boxes) % len(NAMES)
    regions = normalize(names @ turn, dim=-1)[labels] + 0.1 * torch.randn(boxes, 16, generator=generator)
    return RegionEmbeddings(
        regions=normalize(regions, dim=-1),
        labels=labels,
        image_index=torch.arange(boxes) // 4,
        areas_px=torch.ones(boxes),
        images=boxes // 4,
        class_names=NAMES,
    )


def whole(data: RegionEmbeddings) -> RegionBatch:
    return RegionBatch(data.regions, data.labels)


def make(task: type[TextTask], detector: Detector, **settings: float) -> TextTask:
    return task(detector=detector, names=NAMES, kept_names=KEPT, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [ContextTask, OffsetsTask, TextTowerTask])
def test_only_the_learned_part_changes_and_the_loss_falls(detector: Detector, kind: type[TextTask]) -> None:
    task = make(kind, detector, keep=0.1).train()
    batch = whole(regions_of(detector))
    before = {name: value.clone() for name, value in task.state_dict().items()}
    trainable = {name: value for name, value in task.named_parameters() if value.requires_grad}
    expected = LEARNED.get(kind)
    if expected is None:
        expected = [name for name in trainable if name.startswith("tuned.net.")]
        assert "tuned.net.token_embedding.weight" not in expected
        assert "tuned.net.text_projection" in expected
    assert sorted(trainable) == sorted(expected)
    optimiser = torch.optim.AdamW(trainable.values(), lr=2e-2, weight_decay=0.0)
    entropies = []
    for _ in range(40):
        optimiser.zero_grad()
        losses = task(batch)
        losses["loss"].backward()
        entropies.append(float(losses["entropy"].detach()))
        assert all(value.grad is not None for value in trainable.values())
        optimiser.step()
    changed = [name for name, value in task.state_dict().items() if not torch.equal(value, before[name])]
    assert sorted(changed) == sorted(expected)
    assert entropies[-1] < 0.7 * entropies[0]
    task.eval()
    with torch.no_grad():
        assert float(task(batch)["accuracy"]) > float(make(kind, detector).eval()(batch)["accuracy"])


@pytest.mark.parametrize("kind", [ContextTask, OffsetsTask, TextTowerTask])
def test_at_the_start_nothing_has_moved(detector: Detector, kind: type[TextTask]) -> None:
    task = make(kind, detector)
    expected = detector.vocabulary_encoder.encode(["cat", "dog", "bus", "tree", "house"]).embeddings
    torch.testing.assert_close(task.class_embeddings(), expected)
    losses = task(whole(regions_of(detector)))
    assert float(losses["drift"].detach()) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(losses["loss"], losses["entropy"])


def test_a_context_starts_at_the_only_template(detector: Detector) -> None:
    task = ContextTask(detector=detector, names=NAMES)
    torch.testing.assert_close(task.class_embeddings(), detector.vocabulary_encoder.encode(NAMES).embeddings)
    assert ContextTask(detector=detector, names=NAMES, context="a b").context.vectors.shape == (2, 16)
    assert default_context(("a drone photo of a {}",)) == "a drone photo of a"
    assert default_context(("a {} from above",)) == default_context("imagenet") == "a photo of a"


def test_keeping_holds_names_without_boxes(detector: Detector) -> None:
    drifts = []
    for keep in (0.0, 100.0):
        torch.manual_seed(0)
        task = OffsetsTask(detector=detector, names=NAMES, kept_names=KEPT, keep=keep).train()
        optimiser = torch.optim.Adam([value for value in task.parameters() if value.requires_grad], lr=1e-2)
        for _ in range(30):
            optimiser.zero_grad()
            task(whole(regions_of(detector)))["loss"].backward()
            optimiser.step()
        moved = task.eval().class_embeddings().detach()
        drifts.append(float((1 - (moved * task.handwritten).sum(dim=-1))[len(NAMES) :].mean()))
    assert drifts[1] < 0.5 * drifts[0]


def test_own_offsets_are_dropped_in_training_only(detector: Detector) -> None:
    task = OffsetsTask(detector=detector, names=NAMES, own_dropout=0.9)
    with torch.no_grad():
        task.offsets.own.normal_()
    still = task.eval().class_embeddings()
    torch.testing.assert_close(task.class_embeddings(), still)
    torch.manual_seed(0)
    drawn = torch.stack([task.train().class_embeddings() for _ in range(50)])
    dropped = (drawn - task.handwritten).abs().amax(dim=-1) < 1e-6
    assert 0.75 < float(dropped.float().mean()) < 1
    shared = OffsetsTask(detector=detector, names=NAMES, own=False)
    assert shared.offsets.own.numel() == 0


def test_templates_are_drawn_in_training_only(detector: Detector) -> None:
    detector.vocabulary_encoder.templates = ("a {}", "the {}", "my {}")
    task = TextTowerTask(detector=detector, names=NAMES, templates_per_step=1)
    torch.testing.assert_close(task.eval().class_embeddings(), task.handwritten)
    torch.manual_seed(0)
    assert len({float(task.train().class_embeddings()[0, 0].detach()) for _ in range(20)}) == 3


@pytest.mark.parametrize("method", METHODS)
def test_a_run_ends_in_an_artefact_that_a_detector_takes(detector: Detector, tmp_path: Path, method: str) -> None:
    data = regions_of(detector)
    plain = detector.vocabulary_encoder.encode([*NAMES, "cow"]).embeddings
    config = TextTrainConfig(epochs=3, batch_size=16, lr=1e-2, keep=0.1)
    task = build_text_task(method, detector=detector, data=data, kept_names=KEPT, config=config)  # type: ignore[arg-type]
    result = train_text(task, data, config, tmp_path / "run")
    assert (result.steps, result.epochs) == (12, 3)
    with torch.no_grad():
        expected = task.eval().class_embeddings()[: len(NAMES)]
    task.artefact().apply(detector)
    found = detector.vocabulary_encoder.encode([*NAMES, "cow"]).embeddings
    torch.testing.assert_close(found[:3], expected, atol=2e-3, rtol=0)
    assert not torch.allclose(found[3], plain[3], atol=1e-4)  # names without a box move, too


def test_a_stopped_run_goes_on_to_the_same_result(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, config = regions_of(detector), TextTrainConfig(epochs=4, batch_size=16, lr=1e-2)

    def run(folder: Path) -> torch.Tensor:
        torch.manual_seed(0)
        task = OffsetsTask(detector=detector, names=NAMES, kept_names=KEPT)
        train_text(task, data, config, folder)
        return task.eval().class_embeddings().detach()

    whole_run = run(tmp_path / "whole")
    batches = RegionLoader.epoch

    def cut(self: RegionLoader, epoch: int, *, start: int = 0) -> Iterator[RegionBatch]:
        if epoch == 2:
            raise KeyboardInterrupt
        yield from batches(self, epoch, start=start)

    with monkeypatch.context() as patch:
        patch.setattr(RegionLoader, "epoch", cut)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts")
    assert torch.equal(run(tmp_path / "parts"), whole_run)
    with pytest.raises(TrainingError, match=r"another configuration: lr was 0.01, now 0.1"):
        train_text(
            OffsetsTask(detector=detector, names=NAMES), data, TextTrainConfig(epochs=4, batch_size=16, lr=0.1),
            tmp_path / "parts",
        )  # fmt: skip


def test_a_run_of_other_boxes_or_another_model_is_refused(detector: Detector, tmp_path: Path) -> None:
    data, config = replace(regions_of(detector), fingerprint="first"), TextTrainConfig(epochs=1, batch_size=16)

    def run(regions: RegionEmbeddings) -> None:
        train_text(OffsetsTask(detector=detector, names=NAMES, kept_names=KEPT), regions, config, tmp_path / "run")

    run(data)
    run(data)
    with pytest.raises(TrainingError, match=r"regions was first, now second: both have .* but not the same ones"):
        run(replace(data, fingerprint="second"))
    with pytest.raises(TrainingError, match="classes was"):
        run(replace(data, class_names=(*NAMES[:-1], "cow")))
    # A run of an earlier version has not stored them.
    file = tmp_path / "run/run.json"
    content = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({k: v for k, v in content.items() if "regions" not in k and k != "classes"}), "utf-8")
    run(replace(data, fingerprint="second"))


def test_impossible_settings(detector: Detector) -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: make(OffsetsTask, detector, keep=-1.0), "keep: expected 0 or more, got -1"),
        (
            lambda: OffsetsTask(detector=detector, names=NAMES, loss_weights=torch.ones(2)),
            r"loss_weights: expected shape \[3\], got \[2\]",
        ),
        (lambda: make(OffsetsTask, detector, own_dropout=1.0), "own_dropout: expected 0..1 without 1"),
    ]
    for build, message in cases:
        with pytest.raises(ValueError, match=message):
            build()
    with pytest.raises(TrainingError, match="layers: expected 0 to 1 blocks of the text tower, got 2"):
        make(TextTowerTask, detector, layers=2)
    with pytest.raises(TrainingError, match="expected epochs >= 1"):
        TextTrainConfig(epochs=0)
    data = regions_of(detector)
    with pytest.raises(TrainingError, match="method: expected one of context, offsets, tower, got 'magic'"):
        build_text_task("magic", detector=detector, data=data, kept_names=(), config=DEFAULTS["tower"])  # type: ignore[arg-type]
    detector.learn_text(LearnedOffsets(width=16))
    with pytest.raises(TrainingError, match="expected a detector without learned text, got one with offsets"):
        make(ContextTask, detector)
    empty = RegionEmbeddings(
        regions=torch.zeros(0, 16), labels=torch.zeros(0).long(), image_index=torch.zeros(0).long(),
        areas_px=torch.zeros(0), images=3, class_names=NAMES,
    )  # fmt: skip
    with pytest.raises(DataError, match="expected at least one box to learn from, got none"):
        RegionLoader(data=empty, batch_size=2)


def test_balance_of_classes() -> None:
    weights = class_balance(torch.tensor([100, 1, 0]), 0.5)
    assert weights[:2].mean() == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(10)
    assert class_balance(torch.tensor([100, 1]), 0.0).tolist() == [1, 1]


def test_an_epoch_holds_every_box_once_in_an_order_of_its_own(detector: Detector) -> None:
    loader = RegionLoader(data=regions_of(detector, 22), batch_size=5, seed=3)
    assert len(loader) == 5
    first, second = (torch.cat([batch.regions for batch in loader.epoch(epoch)]) for epoch in (0, 1))
    assert not torch.equal(first, second)
    torch.testing.assert_close(first.sum(dim=0), second.sum(dim=0))
    assert len(first.unique(dim=0)) == 22
    rest = torch.cat([batch.regions for batch in loader.epoch(0, start=2)])
    assert torch.equal(rest, first[10:])
