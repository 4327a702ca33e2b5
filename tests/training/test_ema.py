import pytest
import torch
from torch import nn

from cora.errors import TrainingError
from cora.training.ema import Ema, load_trainable_state, trainable_state


def test_shadow_follows_the_formula() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    ema = Ema(module, decay=0.5)
    expected = 1.0
    for n in range(12):
        nn.init.constant_(module.weight, float(n))
        decay = min(0.5, (1 + n) / (10 + n))
        assert ema.current_decay() == pytest.approx(decay)
        ema.update(module)
        expected = decay * expected + (1 - decay) * n
        assert float(ema.shadow["weight"]) == pytest.approx(expected)


def test_without_warmup_the_decay_is_constant() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = Ema(module, decay=0.9, warmup=False)
    nn.init.ones_(module.weight)
    ema.update(module)
    assert float(ema.shadow["weight"]) == pytest.approx(0.1)


def test_swap_restores_the_own_weights_even_after_an_error() -> None:
    module = nn.Linear(2, 2)
    ema = Ema(module)
    own = module.weight.detach() + 1
    module.weight.data.copy_(own)

    def evaluate() -> None:
        with ema.swapped(module):
            torch.testing.assert_close(module.weight.detach(), ema.shadow["weight"])
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        evaluate()
    torch.testing.assert_close(module.weight.detach(), own)


def test_trainable_state_leaves_frozen_parts_out() -> None:
    module = nn.Sequential(
        nn.Linear(2, 2).requires_grad_(False), nn.BatchNorm1d(2), nn.BatchNorm1d(2).requires_grad_(False)
    )
    assert set(trainable_state(module)) == {
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }


def test_other_shapes_are_refused() -> None:
    state = trainable_state(nn.Linear(2, 2))
    with pytest.raises(TrainingError, match=r"weight has shape \[2, 2\], expected \[2, 3\]"):
        load_trainable_state(nn.Linear(3, 2), state, source="last.pt")
    with pytest.raises(TrainingError, match="1 tensors missing, 0 unknown"):
        load_trainable_state(nn.Linear(2, 2), {"weight": state["weight"]}, source="last.pt")
    with pytest.raises(TrainingError, match=r"0\.\.1"):
        Ema(nn.Linear(1, 1), decay=1.0)
