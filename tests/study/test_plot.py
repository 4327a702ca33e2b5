"""The images of a study: they hold what they are given."""

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
    assert drawn.height == 10 + 140 * (1 if count <= 3 else 2) + 34


def test_maps_have_a_scale_of_all_their_colours() -> None:
    maps = torch.linspace(0, 1, 400).repeat(3, 1)[None]
    drawn = draw_maps(Image.new("RGB", (80, 20)), ["a"], maps)
    scale = pixels(drawn)[-30, :, :]
    shades = [row for row in scale.tolist() if row != [255, 255, 255]]
    assert [20, 11, 53] in shades
    assert [252, 255, 164] in shades
    # The map's own colours are those of the scale, 60 % over a black image.
    brightest = pixels(drawn)[60:120, 10:410].reshape(-1, 3).max(axis=0)
    assert np.abs(brightest - 0.6 * np.array([252, 255, 164])).max() <= 2


def test_a_panel_says_how_high_its_map_reaches() -> None:
    one, other = (draw_maps(Image.new("RGB", (80, 20)), ["a"], torch.full((1, 2, 4), top)) for top in (0.25, 0.5))
    captions = [pixels(drawn)[10:35, 300:] for drawn in (one, other)]
    assert (captions[0] != captions[1]).any()
    assert (pixels(one)[10:35, :300] == pixels(other)[10:35, :300]).all()


def test_as_many_maps_as_names() -> None:
    for names, maps in (([], torch.zeros(0, 2, 2)), (["a"], torch.zeros(2, 2, 2))):
        with pytest.raises(ValueError, match="expected one for each of"):
            draw_maps(Image.new("RGB", (8, 8)), names, maps)
