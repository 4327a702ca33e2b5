"""Positions are those of cell centres within the unpadded image."""

import torch

from cora.localizer.position import anchor_positions, map_positions, sine_features


def test_positions_depend_on_the_unpadded_extent_only() -> None:
    small = map_positions(torch.tensor([[3.0, 2.0]]), height=3, width=2, dim=16).view(1, 3, 2, 16)
    padded = map_positions(torch.tensor([[3.0, 2.0]]), height=5, width=6, dim=16).view(1, 5, 6, 16)
    assert torch.equal(small, padded[:, :3, :2])


def test_rows_change_the_first_half_and_columns_the_second() -> None:
    positions = map_positions(torch.tensor([[4.0, 4.0]]), height=4, width=4, dim=8).view(4, 4, 8)
    assert torch.equal(positions[:, 0, :4], positions[:, 3, :4])
    assert torch.equal(positions[0, :, 4:], positions[3, :, 4:])
    assert not torch.equal(positions[0, 0], positions[1, 1])


def test_centre_of_a_map_is_the_centre_of_an_anchor() -> None:
    middle = sine_features(torch.tensor(0.5), features=4, temperature=20.0)
    positions = map_positions(torch.tensor([[3.0, 5.0]]), height=3, width=5, dim=8).view(3, 5, 8)
    torch.testing.assert_close(positions[1, 2], middle.repeat(2))


def test_anchor_features_come_as_y_x_width_height() -> None:
    parts = anchor_positions(torch.tensor([0.1, 0.2, 0.3, 0.4]), features=6).view(4, 6)
    for part, value in zip(parts, (0.2, 0.1, 0.3, 0.4), strict=True):
        torch.testing.assert_close(part, anchor_positions(torch.full((4,), value), features=6)[:6])
