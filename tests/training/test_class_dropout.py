import pytest
import torch

from cora.training.class_sampling import complementary_groups


@pytest.mark.parametrize("count", [1, 2, 3, 48, 65])
def test_groups_are_complementary(count: int) -> None:
    torch.manual_seed(count)
    for _ in range(20):
        first, second = complementary_groups(count)
        assert first.shape == (count,)
        assert torch.equal(first, ~second)


def test_every_class_falls_to_either_group_by_itself() -> None:
    torch.manual_seed(0)
    drawn = torch.stack([complementary_groups(48)[0] for _ in range(4000)]).double()
    # Standard errors are 0.008 for a class, and 0.016 for a correlation.
    assert (drawn.mean(dim=0) - 0.5).abs().max() < 0.04
    assert (torch.corrcoef(drawn.T) - torch.eye(48)).abs().max() < 0.08
    # Exact halves would have no spread; single draws have that of 48 coins, the root of 12.
    assert abs(float(drawn.sum(dim=1).std()) - 12**0.5) < 0.2


def test_one_of_two_classes_may_be_alone() -> None:
    torch.manual_seed(0)
    sizes = {int(complementary_groups(2)[0].sum()) for _ in range(50)}
    assert sizes == {0, 1, 2}
