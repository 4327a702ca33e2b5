import pytest
import torch

from cora.training.class_dropout import complementary_groups


@pytest.mark.parametrize("count", [2, 3, 48, 65])
def test_groups_are_complementary_and_none_is_empty(count: int) -> None:
    torch.manual_seed(count)
    first, second = complementary_groups(count)
    assert torch.equal(first, ~second)
    assert abs(int(first.sum()) - int(second.sum())) <= 1
    assert first.any()
    assert second.any()


def test_groups_change() -> None:
    torch.manual_seed(0)
    assert not torch.equal(complementary_groups(48)[0], complementary_groups(48)[0])
