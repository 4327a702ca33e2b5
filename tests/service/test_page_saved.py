"""What the page saves, in a real browser: the drawn image and the JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.service.conftest import EXAMPLES, look_for, scores, slide

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect


def test_download_is_what_is_shown(page: Page, tmp_path: Path) -> None:
    look_for(page)
    slide(page, 0.05)
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "cat.json"
    download.value.save_as(tmp_path / "cat.json")
    content = json.loads((tmp_path / "cat.json").read_text())
    assert (content["file"], content["classes"], content["least_score"]) == ("cat.jpg", ["cat", "dog"], 0.05)
    assert [round(found["score"], 2) for found in content["detections"]] == scores(page)
    assert (content["width"], content["height"]) == (451, 300)
    assert (content["distractors"], content["class_agnostic"]) == (0, False)


def test_drawn_image_is_what_is_shown_in_full_size(page: Page, tmp_path: Path) -> None:
    # Upright after a quarter turn, twice as large as it can be shown, and without loss.
    with Image.open(EXAMPLES / "cat.jpg") as cat:
        large = cat.resize((1804, 1200)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(tmp_path / "turned.png", exif=exif)
    page.set_input_files("#picture", tmp_path / "turned.png")
    page.fill("#names", "cat, dog")
    page.click("#find")
    expect(page.locator("#result")).to_be_visible(timeout=60_000)
    slide(page, 0.1)
    page.mouse.move(0, 0)
    with page.expect_download() as download:
        page.click("#save-image")
    assert download.value.suggested_filename == "turned-boxes.png"
    download.value.save_as(tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as file:
        drawn = np.asarray(file.convert("RGB")).astype(int)
    assert drawn.shape == (1200, 1804, 3)
    stage = page.locator("#boxes").bounding_box()
    assert stage is not None
    factor = 1804 / stage["width"]
    assert factor > 1.5
    boxes, labels = page.locator(".box:visible"), page.locator(".label:visible")
    assert boxes.count() >= 1
    assert labels.count() >= 1
    for kind, style in ((boxes, "borderTopColor"), (labels, "backgroundColor")):
        for number in range(kind.count()):
            place = kind.nth(number).bounding_box()
            assert place is not None
            said = kind.nth(number).evaluate("(one, style) => getComputedStyle(one)[style]", style)
            colour = [int(part) for part in re.findall(r"\d+", said)]
            # One screen pixel from the left edge, in the middle of its height: a frame, or a label beside its letters.
            x = round((place["x"] - stage["x"] + 1) * factor)
            y = round((place["y"] - stage["y"] + place["height"] / 2) * factor)
            assert abs(drawn[y, x] - colour).max() <= 3, (style, number)
    # Above a label's letters is its ground, and the letters are there.
    place = labels.first.bounding_box()
    assert place is not None
    left, top = (place["x"] - stage["x"]) * factor, (place["y"] - stage["y"]) * factor
    inner = drawn[round(top) + 2 : round(top + place["height"] * factor) - 2,
                  round(left) + 2 : round(left + place["width"] * factor) - 2]  # fmt: skip
    assert inner.std(axis=(0, 1)).max() > 20


def test_an_image_that_the_browser_cannot_show_has_its_json(page: Page, tmp_path: Path) -> None:
    with Image.open(EXAMPLES / "cat.jpg") as cat:
        cat.save(tmp_path / "cat.tif")
    page.set_input_files("#picture", tmp_path / "cat.tif")
    expect(page.locator("#problem")).to_contain_text("This browser cannot show that image.")
    page.fill("#names", "cat")
    page.click("#find")
    expect(page.locator("#result")).to_be_visible(timeout=60_000)
    page.click("#save-image")
    expect(page.locator("#problem")).to_contain_text("Save the JSON instead.")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "cat.json"
