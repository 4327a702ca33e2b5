import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cora.errors import TrainingError
from cora.training.ema import Ema, trainable_state
from cora.training.loop import LAST, METRICS, NON_FINITE, TrainResult, train
from cora.training.optim import OptimizerConfig, ScheduleConfig, build_adamw, build_schedule
from cora.training.run_state import load_weights


class Regression(nn.Module):
    """Dropout and batch statistics: the run depends on the random state and on buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))

    def forward(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, y = batch
        loss = (self.net(self.frozen(x))[:, 0] - y).square().mean()
        return {"loss": loss, "half": loss / 2}


class Batches:
    """Batches by (epoch, position); optionally raises, acts, or spoils at one of them."""

    def __init__(self, *, stop_at: tuple[int, int] | None = None, nan_at: tuple[int, int] | None = None) -> None:
        self.stop_at, self.nan_at = stop_at, nan_at

    def __len__(self) -> int:
        return 5

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for position in range(start, 5):
            generator = torch.Generator().manual_seed(100 * epoch + position)
            x = torch.randn(6, 4, generator=generator)
            if self.stop_at == (epoch, position):
                os.kill(os.getpid(), signal.SIGINT)
            if self.nan_at == (epoch, position):
                x = x * float("nan")
            yield x, x.sum(dim=1)


def run(folder: Path, batches: Batches, *, epochs: int = 3, decay: float = 0.9) -> tuple[Regression, Ema, TrainResult]:
    torch.manual_seed(0)
    task = Regression()
    optimiser = build_adamw(task, OptimizerConfig(lr=1e-2))
    schedule = build_schedule(optimiser, ScheduleConfig(kind="cosine", warmup_steps=2, total_steps=15))
    ema = Ema(task, decay=decay)
    result = train(
        task,
        batches,
        optimiser,
        schedule,
        epochs=epochs,
        run_dir=folder,
        ema=ema,
        log_steps=2,
        on_epoch_end=lambda _epoch, module: {
            "noise": float(torch.rand(())),
            "training": float(module.training),
        },
        config={"decay": decay},
    )
    return task, ema, result


def assert_same(a: tuple[Regression, Ema, TrainResult], b: tuple[Regression, Ema, TrainResult]) -> None:
    for name, tensor in trainable_state(a[0]).items():
        assert torch.equal(tensor, trainable_state(b[0])[name]), name
        assert torch.equal(a[1].shadow[name], b[1].shadow[name]), name
    assert a[2] == b[2]


@pytest.mark.parametrize("at", [(0, 0), (1, 2), (1, 4)])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path, at: tuple[int, int]) -> None:
    whole = run(tmp_path / "whole", Batches())
    stopped = run(tmp_path / "parts", Batches(stop_at=at))[2]
    assert stopped == TrainResult(steps=5 * at[0] + at[1] + 1, epochs=at[0], interrupted=True)
    assert_same(whole, run(tmp_path / "parts", Batches()))
    assert whole[2] == TrainResult(steps=15, epochs=3, interrupted=False)
    lines = [json.loads(line) for line in (tmp_path / "parts" / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert sum("evaluation" in line for line in lines) == 3


def test_more_epochs_go_on(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Batches())
    run(tmp_path / "parts", Batches(), epochs=1)
    assert_same(whole, run(tmp_path / "parts", Batches()))
    assert_same(whole, run(tmp_path / "parts", Batches()))  # nothing left to do


def test_a_crash_costs_only_the_steps_since_the_last_save(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", Batches())
    with pytest.raises(TrainingError):
        run(tmp_path / "parts", Batches(nan_at=(2, 3)))
    assert_same(whole, run(tmp_path / "parts", Batches()))
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / METRICS).read_text().splitlines()]
    assert steps == [json.loads(line)["step"] for line in (tmp_path / "whole" / METRICS).read_text().splitlines()]


def test_a_loss_that_is_not_finite_stops_and_saves(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=rf"got nan at step 7 \(epoch 1, batch 2\).*{NON_FINITE}"):
        run(tmp_path, Batches(nan_at=(1, 2)))
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
    train(task, Batches(), optimiser, schedule, epochs=1, run_dir=tmp_path, ema=ema, on_epoch_end=look)
    torch.testing.assert_close(seen[0], ema.shadow["net.0.weight"])
    assert not torch.equal(seen[0], task.net[0].weight.detach())
    fresh = Regression()
    load_weights(tmp_path / LAST, fresh)
    torch.testing.assert_close(fresh.net[0].weight.detach(), seen[0])


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
