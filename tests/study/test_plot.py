"""The pictures of a study: they hold what they are given."""

import numpy as np
import pytest
import torch
from PIL import Image

from cora.study.plot import draw_histogram, draw_maps
from tests.study.test_evaluate import counts, fits, summarise


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def test_histogram_shows_every_name() -> None:
    low, high, none = (fits(ious) for ious in ([0.1] * 9, [0.9] * 9, []))
    summaries = {name: summarise(one, counts(one)) for name, one in (("a", low), ("b", high), ("c", none))}
    both = draw_histogram(summaries, title="t")
    alone = draw_histogram({"a": summaries["a"]}, title="t")
    assert both.size == alone.size
    changed = np.abs(pixels(both) - pixels(alone)).sum(axis=(0, 2)) > 0
    # The second line rises at 0.9 of the axis, where the first is flat.
    assert changed[int(0.88 * both.width) : int(0.93 * both.width)].any()
    with pytest.raises(ValueError, match="expected at least one summary with boxes, got none"):
        draw_histogram({"c": summaries["c"]}, title="t")


def test_maps_are_bright_where_they_are_high() -> None:
    maps = torch.zeros(2, 4, 6)
    maps[0, :, :3], maps[1, :, 3:] = 1.0, 1.0
    drawn = draw_maps(Image.new("RGB", (60, 40), (90, 90, 90)), ["left", "right"], maps)
    bright = pixels(drawn).sum(axis=2)[60:200]
    first, second = bright[:, 10:410].mean(axis=0), bright[:, 420:820].mean(axis=0)
    assert first[:150].mean() > first[250:].mean() + 100
    assert second[250:].mean() > second[:150].mean() + 100


@pytest.mark.parametrize("count", [1, 3, 4])
def test_panels_stand_in_rows_of_three(count: int) -> None:
    drawn = draw_maps(Image.new("RGB", (80, 20)), ["a very long name of a class " * 3] * count, torch.rand(count, 1, 4))
    assert drawn.width == 10 + 410 * min(count, 3)
    assert drawn.height == 10 + 140 * (1 if count <= 3 else 2)


def test_as_many_maps_as_names() -> None:
    for names, maps in (([], torch.zeros(0, 2, 2)), (["a"], torch.zeros(2, 2, 2))):
        with pytest.raises(ValueError, match="expected one for each of"):
            draw_maps(Image.new("RGB", (8, 8)), names, maps)
