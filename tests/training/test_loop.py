import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cora.data.feature_cache import collate_features
from cora.errors import TrainingError
from cora.training.ema import Ema, trainable_state
from cora.training.engine import Engine
from cora.training.loop import BEST, LAST, METRICS, NON_FINITE, TrainResult, train
from cora.training.optim import OptimizerConfig, ScheduleConfig, build_adamw, build_schedule
from tests.tolerances import assert_near
from tests.training import two_processes
from tests.training.toy_run import BATCHES, Batches, Regression, run


def stop_at(*where: int) -> Batches:
    def act(epoch: int, position: int, x: Tensor) -> Tensor:
        if (epoch, position) == where:
            os.kill(os.getpid(), signal.SIGINT)
        return x

    return Batches(act=act)


def nan_at(*where: int) -> Batches:
    return Batches(act=lambda epoch, position, x: x * float("nan") if (epoch, position) == where else x)


def assert_same(a: tuple[Regression, Ema, TrainResult], b: tuple[Regression, Ema, TrainResult]) -> None:
    for name, tensor in trainable_state(a[0]).items():
        assert torch.equal(tensor, trainable_state(b[0])[name]), name
        assert torch.equal(a[1].shadow[name], b[1].shadow[name]), name
    assert a[2] == b[2]


@pytest.mark.parametrize("at", [(0, 0), (1, 2), (1, 4)])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path, at: tuple[int, int]) -> None:
    whole = run(tmp_path / "whole", Batches())
    stopped = run(tmp_path / "parts", stop_at(*at))[2]
    assert stopped == TrainResult(steps=5 * at[0] + at[1] + 1, epochs=at[0], interrupted=True)
    assert_same(whole, run(tmp_path / "parts", Batches()))
    assert whole[2] == TrainResult(steps=15, epochs=3, interrupted=False)
    lines = [json.loads(line) for line in (tmp_path / "parts" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert sum("evaluation" in line for line in lines) == 3


def test_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "toy", Batches())
    assert "finished" not in capsys.readouterr().err
    run(tmp_path / "toy", Batches())
    assert "cora: toy: this run is finished, with 15 steps; to train anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("boxes", "about", "message"),
    [
        ("b", "3 boxes", "boxes was a, now b: before 2 boxes, now 3 boxes; use another run folder"),
        ("b", "2 boxes", "boxes was a, now b: both have 2 boxes, but not the same ones; use"),
        ("b", None, "boxes was a, now b; use another run folder"),
        ("a", "other words for the same", None),
    ],
)
def test_what_differs_of_an_old_run_is_said(tmp_path: Path, boxes: str, about: str | None, message: str | None) -> None:
    run(tmp_path, Batches(), config={"boxes": "a", "about boxes": "2 boxes", "decay": 0.9})
    config = {"boxes": boxes, "decay": 0.9} | ({} if about is None else {"about boxes": about})
    if message is None:
        run(tmp_path, Batches(), config=config)
    else:
        with pytest.raises(TrainingError, match=message):
            run(tmp_path, Batches(), config=config)


def test_more_epochs_go_on(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Batches())
    run(tmp_path / "parts", Batches(), epochs=1)
    assert_same(whole, run(tmp_path / "parts", Batches()))
    assert_same(whole, run(tmp_path / "parts", Batches()))  # nothing left to do


def test_a_crash_costs_only_the_steps_since_the_last_save(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Batches())
    with pytest.raises(TrainingError):
        run(tmp_path / "parts", nan_at(2, 3))
    assert_same(whole, run(tmp_path / "parts", Batches()))
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / METRICS).read_text().splitlines()]
    assert steps == [json.loads(line)["step"] for line in (tmp_path / "whole" / METRICS).read_text().splitlines()]


def test_a_loss_that_is_not_finite_stops_and_saves(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=rf"got nan at step 7 \(epoch 1, batch 2\).*{NON_FINITE}"):
        run(tmp_path, nan_at(1, 2))
    state = torch.load(tmp_path / NON_FINITE, weights_only=True)
    assert state["position"] == {"epoch": 1, "batch": 2, "step": 7}
    assert all(tensor.isfinite().all() for name, tensor in state["model"].items() if "running" not in name)
    assert not list(tmp_path.glob("*.part"))


def test_evaluation_sees_averaged_weights_in_evaluation_mode(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    torch.manual_seed(0)
    task = Regression()
    optimiser = build_adamw(task, OptimizerConfig(lr=1e-2))
    ema = Ema(task, decay=0.9)

    def look(_epoch: int, module: nn.Module) -> None:
        assert not module.training
        seen.append(trainable_state(module)["net.0.weight"].clone())

    schedule = build_schedule(optimiser, ScheduleConfig())
    train(
        task, Batches(), optimiser, schedule, epochs=1, run_dir=tmp_path, ema=ema, on_epoch_end=look, tensorboard=False
    )
    torch.testing.assert_close(seen[0], ema.shadow["net.0.weight"])
    assert not torch.equal(seen[0], task.net[0].weight.detach())
    saved = torch.load(tmp_path / LAST, weights_only=True)["ema"]["shadow"]["net.0.weight"]
    torch.testing.assert_close(saved, seen[0])


def test_frozen_parts_stay_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = Regression().frozen.weight.clone()
    assert torch.equal(run(tmp_path, Batches())[0].frozen.weight, before)


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    run(tmp_path, Batches(), epochs=1)
    with pytest.raises(TrainingError, match=r"decay was 0\.9, now 0\.5; use another run folder"):
        run(tmp_path, Batches(), decay=0.5)


def test_a_damaged_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / LAST).write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match="delete it to start anew"):
        run(tmp_path, Batches())


def test_the_signal_handler_is_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run(tmp_path, Batches(), epochs=1)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.integration
def test_a_run_killed_at_any_moment_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Batches(), checkpoint_steps=3, best="noise")
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "tests.training.killed_run", str(tmp_path / "parts")]
    subprocess.run(command, check=True, cwd=root, timeout=120)
    for name in (LAST, BEST):
        expected, found = (torch.load(tmp_path / run / name, weights_only=True) for run in ("whole", "parts"))
        for part in ("model", "optimiser", "ema", "best", "position"):
            torch.testing.assert_close(found[part], expected[part], rtol=0, atol=0)
        assert torch.equal(found["random"]["torch"], expected["random"]["torch"])
    assert_same(whole, run(tmp_path / "parts", Batches(), checkpoint_steps=3, best="noise"))
    steps = [
        [json.loads(line)["step"] for line in (tmp_path / name / METRICS).read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    assert steps[0] == steps[1]


class Halves:
    """Every batch of another loader in two halves."""

    def __len__(self) -> int:
        return 2 * BATCHES

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in Batches().epoch(epoch, start=start // 2):
            yield x[:3], y[:3]
            yield x[3:], y[3:]


def plain(folder: Path, batches: Any, **options: Any) -> dict[str, Tensor]:
    """Weights after training without batch statistics or dropout, whose result depends on the size of a batch."""
    torch.manual_seed(0)
    task = Regression(dropout=0.0)
    task.net[1] = nn.Identity()
    optimiser = build_adamw(task, OptimizerConfig(lr=1e-2))
    schedule = build_schedule(optimiser, ScheduleConfig())
    train(task, batches, optimiser, schedule, epochs=2, run_dir=folder, tensorboard=False, log_steps=1, **options)
    return trainable_state(task)


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    whole, halves = plain(tmp_path / "whole", Batches()), plain(tmp_path / "halves", Halves(), accumulate=2)
    for name, tensor in whole.items():
        assert_near(halves[name], tensor)
    lines = [
        [json.loads(line) for line in (tmp_path / name / METRICS).read_text().splitlines()]
        for name in ("whole", "halves")
    ]
    for one, other in zip(*lines, strict=True):
        assert one["step"] == other["step"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def test_batches_left_over_from_accumulation_are_not_used(tmp_path: Path) -> None:
    result = run(tmp_path, Batches(), accumulate=2)[2]
    assert result == TrainResult(steps=6, epochs=3, interrupted=False)
    with pytest.raises(TrainingError, match="expected at least 6 batches an epoch to accumulate, got 5"):
        run(tmp_path, Batches(), accumulate=6)


def test_an_interrupted_accumulation_is_finished_first(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Batches(), accumulate=2)
    stopped = run(tmp_path / "parts", stop_at(1, 0), accumulate=2)[2]
    assert stopped == TrainResult(steps=3, epochs=1, interrupted=True)
    assert_same(whole, run(tmp_path / "parts", Batches(), accumulate=2))


def test_mixed_precision_keeps_float32_weights(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []
    torch.manual_seed(0)
    task = Regression()
    task.net[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    optimiser = build_adamw(task, OptimizerConfig(lr=1e-2))
    schedule = build_schedule(optimiser, ScheduleConfig())
    train(task, Batches(), optimiser, schedule, epochs=1, run_dir=tmp_path, precision="bf16", tensorboard=False)
    assert set(seen) == {torch.bfloat16}
    assert {tensor.dtype for tensor in trainable_state(task).values()} == {torch.float32, torch.int64}
    with pytest.raises(TrainingError, match="precision 16 needs a GPU, got the device cpu; take bf16"):
        run(tmp_path / "half", Batches(), precision="16")


def test_half_precision_scales_the_loss(tmp_path: Path, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("half precision needs a GPU: run with --device cuda")
    torch.manual_seed(0)
    task = Regression().to(device)
    optimiser = build_adamw(task, OptimizerConfig(lr=1e-2))
    options: dict[str, Any] = {"run_dir": tmp_path, "precision": "16", "tensorboard": False}
    for epochs in (1, 2):
        train(task, Batches(), optimiser, build_schedule(optimiser, ScheduleConfig()), epochs=epochs, **options)
    state = torch.load(tmp_path / LAST, weights_only=True)
    assert state["scaler"]["scale"] > 1
    assert all(tensor.isfinite().all() for tensor in trainable_state(task).values())


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    def run_on(epochs: int) -> None:
        measured = ({"ap": 0.3}, {"ap": float("nan")}, {"ap": 0.5}, None, {"ap": 0.4})
        run(tmp_path, Batches(), epochs=epochs, best="ap", on_epoch_end=lambda epoch, _module: measured[epoch])

    kept = []
    for epochs in (1, 2, 3, 4, 5):
        run_on(epochs)
        kept.append(torch.load(tmp_path / BEST, weights_only=True)["position"]["epoch"])
    assert kept == [1, 1, 3, 3, 3]
    with pytest.raises(TrainingError, match="got 'AP50'; there are: noise, training"):
        run(tmp_path / "other", Batches(), best="AP50")
    with pytest.raises(TrainingError, match="needs on_epoch_end"):
        run(tmp_path / "none", Batches(), best="ap", on_epoch_end=None)


def test_curves_for_tensorboard_go_on_after_a_crash(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(TrainingError):
        run(tmp_path, nan_at(2, 3), tensorboard=True)
    run(tmp_path, Batches(), tensorboard=True)
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    written = {line["step"]: line["loss"] for line in lines if "loss" in line}
    drawn = {event.step: event.value for event in curves.Scalars("train/loss")}
    assert drawn == pytest.approx(written)
    assert [event.step for event in curves.Scalars("evaluation/noise")] == [5, 10, 15]


def test_a_loader_for_other_processes_is_refused(tmp_path: Path) -> None:
    batches = Batches()
    batches.rank, batches.world = 1, 2  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match="a loader for process 0 of 1, got one for 1 of 2"):
        run(tmp_path, batches)


def test_the_localizer_trains_in_mixed_precision(tmp_path: Path) -> None:
    seen: dict[str, torch.dtype] = {}
    task = two_processes.localizer_task(tmp_path)
    for name in ("encoder.layers.0", "decoder.layers.0"):
        layer = task.detector.localizer.get_submodule(name)
        linear = next(module for module in layer.modules() if isinstance(module, nn.Linear))
        linear.register_forward_hook(lambda _m, _i, output, name=name: seen.update({name: output.dtype}))
    task.criterion.register_forward_hook(lambda _m, inputs, _o: seen.update(criterion=inputs[0].objectness.dtype))
    loader = two_processes.share(two_processes.Maps(), Engine(), collate=collate_features)
    two_processes.fit(Engine(), task, tmp_path / "run", loader=loader, precision="bf16")
    layers = {"encoder.layers.0": torch.bfloat16, "decoder.layers.0": torch.bfloat16}
    assert seen == layers | {"criterion": torch.float32}
    assert all(tensor.isfinite().all() for tensor in trainable_state(task).values())
