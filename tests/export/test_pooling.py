import pytest
import torch
from torchvision.ops import roi_align as torchvision_roi_align

from cora.boxes import scale_to_pixels
from cora.detector import Detector
from cora.export.pooling import graph_pooling
from cora.regions.roi_align import roi_align
from cora.structures import FeatureMap
from tests.tolerances import assert_near


def boxes(count: int, batch: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    sizes = torch.rand(batch, count, 2, generator=random)
    some = torch.cat([torch.rand(batch, count, 2, generator=random), sizes], dim=-1)
    some[:, 0] = torch.tensor([0.5, 0.5, 1.0, 1.0])  # the whole image
    some[:, 1] = torch.tensor([0.99, 0.01, 1.0, 0.9])  # half of it outside
    some[:, 2] = torch.tensor([0.3, 0.3, 1e-5, 1e-5])  # next to nothing
    return some


@pytest.mark.parametrize(("height", "width", "bins"), [(12, 17, 4), (5, 31, 14), (24, 40, 7)])
def test_roi_align_is_torchvisions(height: int, width: int, bins: int) -> None:
    features = torch.randn(2, 6, height, width)
    extents = torch.tensor([[height, width], [height - 2, width - 1]], dtype=torch.float32)
    chosen = boxes(30)
    corners = scale_to_pixels(chosen, extents)
    expected = torchvision_roi_align(features, list(corners), (bins, bins), aligned=True).unflatten(0, (2, 30))
    # The same samples with the same weights; only the order of the sums differs.
    torch.testing.assert_close(roi_align(features, chosen, extents, bins=bins), expected, rtol=0, atol=2e-5)


def test_both_poolings_are_the_detectors(toy: Detector) -> None:
    tower, chosen = toy.image_tower, boxes(70)  # more than one chunk
    mask = torch.zeros(2, 10, 14, dtype=torch.bool)
    mask[1, :, 9:] = True
    with torch.no_grad():
        c3 = FeatureMap(torch.randn(2, tower.c3_channels, 10, 14), mask)
        c4 = FeatureMap(torch.randn(2, tower.c4_channels, 10, 14), mask)
        positions = toy.prompted_positions()
        pooling = graph_pooling(tower)
        exact = pooling.exact(c3, chosen, positions).unflatten(0, (2, 70))
        fast = pooling.fast(pooling.prepare(c4), chosen, positions).unflatten(0, (2, 70))
        assert_near(exact, toy.embed_exact(c3, chosen))
        assert_near(fast, toy.embed_fast(c4, chosen))
