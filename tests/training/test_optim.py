import math

import pytest
from torch import nn

from cora.errors import TrainingError
from cora.training.optim import OptimizerConfig, ScheduleConfig, build_adamw, build_schedule


def module() -> nn.ModuleDict:
    return nn.ModuleDict(
        {"frozen": nn.Linear(2, 2).requires_grad_(False), "body": nn.Linear(2, 2), "head": nn.Linear(2, 2)}
    )


def test_groups_hold_trainable_parameters_with_their_rates() -> None:
    net = module()
    optimiser = build_adamw(net, OptimizerConfig(lr=1.0, lr_factors={"body": 0.5, "body.bias": 0.1}))
    rates = {id(p): g["lr"] for g in optimiser.param_groups for p in g["params"]}
    assert len(rates) == 4
    assert rates[id(net["head"].weight)] == 1.0
    assert rates[id(net["body"].weight)] == 0.5
    assert rates[id(net["body"].bias)] == pytest.approx(0.1)


def test_vectors_can_do_without_decay() -> None:
    optimiser = build_adamw(module(), OptimizerConfig(weight_decay=0.2, decay_vectors=False))
    for group in optimiser.param_groups:
        assert all((p.ndim > 1) == (group["weight_decay"] == 0.2) for p in group["params"])


def test_schedules() -> None:
    step = ScheduleConfig(kind="step", milestones=(3, 5), gamma=0.1)
    assert [round(step.factor(i), 6) for i in range(6)] == [1, 1, 1, 0.1, 0.1, 0.01]
    cosine = ScheduleConfig(kind="cosine", warmup_steps=2, total_steps=12, final_factor=0.1)
    assert cosine.factor(0) == pytest.approx(1 / 3)
    assert cosine.factor(2) == 1.0
    assert cosine.factor(7) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert cosine.factor(12) == cosine.factor(50) == pytest.approx(0.1)
    assert ScheduleConfig(warmup_steps=4).factor(100) == 1.0


def test_schedule_drives_every_group() -> None:
    optimiser = build_adamw(module(), OptimizerConfig(lr=1.0, lr_factors={"body": 0.5}))
    schedule = build_schedule(optimiser, ScheduleConfig(kind="step", milestones=(1,), gamma=0.1))
    optimiser.step()
    schedule.step()
    assert sorted(g["lr"] for g in optimiser.param_groups) == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: build_adamw(module(), OptimizerConfig(lr_factors={"tail": 0.1})),
            "no trainable parameter begins with",
        ),
        (
            lambda: build_adamw(nn.Linear(1, 1).requires_grad_(False), OptimizerConfig()),
            "everything is frozen",
        ),
        (lambda: OptimizerConfig(lr=0.0), "lr > 0"),
        (lambda: ScheduleConfig(kind="cosine"), "total_steps > warmup_steps"),
        (lambda: ScheduleConfig(kind="step"), "needs milestones"),
    ],
)
def test_wrong_configs_are_refused(build: object, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        build()  # type: ignore[operator]
