"""RoIAlign by products of matrices is torchvision's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align as torchvision_roi_align

from cora.boxes import scale_to_pixels
from cora.roi_align import _align_in_half, roi_align
from tests.tolerances import assert_near


def random_boxes(count: int, batch: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    sizes = torch.rand(batch, count, 2, generator=random)
    some = torch.cat([torch.rand(batch, count, 2, generator=random), sizes], dim=-1)
    some[:, 0] = torch.tensor([0.5, 0.5, 1.0, 1.0])  # the whole image
    some[:, 1] = torch.tensor([0.99, 0.01, 1.0, 0.9])  # half of it outside
    some[:, 2] = torch.tensor([0.3, 0.3, 1e-5, 1e-5])  # next to nothing
    return some


@pytest.mark.parametrize(("height", "width", "bins"), [(12, 17, 4), (5, 31, 14), (24, 40, 7)])
def test_roi_align_is_torchvisions(height: int, width: int, bins: int) -> None:
    features = torch.randn(2, 6, height, width, generator=torch.Generator().manual_seed(0))
    extents = torch.tensor([[height, width], [height - 2, width - 1]], dtype=torch.float32)
    chosen = random_boxes(30)
    corners = scale_to_pixels(chosen, extents)
    expected = torchvision_roi_align(features, list(corners), (bins, bins), aligned=True).unflatten(0, (2, 30))
    # The same samples with the same weights; only the order of the sums differs.
    torch.testing.assert_close(roi_align(features, chosen, extents, bins=bins), expected, rtol=0, atol=5e-5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), bins=st.integers(1, 9), regions=st.integers(0, 20))
def test_alignment_of_half_precision_is_roi_align(seed: int, bins: int, regions: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 3, 7, 11, generator=generator)
    corners = torch.rand(regions, 2, 2, generator=generator) * torch.tensor([13.0, 9.0]) - 1
    low, high = corners.amin(dim=1), corners.amax(dim=1)
    images = torch.randint(0, 2, (regions, 1), generator=generator).float()
    rois = torch.cat([images, low, high], dim=1)
    expected = torchvision_roi_align(features, rois, (bins, bins), aligned=True)
    assert_near(_align_in_half(features, rois, bins=bins), expected)
