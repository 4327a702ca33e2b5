"""The page in a real browser: a real upload, boxes that follow the slider, the keyboard, a phone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cora.detector import Detector
from cora.draw import class_colours, text_colour
from cora.retrieval import RegionIndex, RegionSettings
from cora.service.service import Service
from tests.service.conftest import EXAMPLES, busy, live, make_app, make_service

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def service(nano: Detector, tmp_path_factory: pytest.TempPathFactory) -> Service:
    # Regions of whatever looks like an object: of every picture more than the page shows of one.
    settings = RegionSettings(score=0.01, max_regions=8)
    index, _ = RegionIndex.build(tmp_path_factory.mktemp("db") / "index", EXAMPLES, nano, settings=settings)
    return make_service(nano, index=index)


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with live(make_app(service)) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
    opened.set_default_timeout(60_000)
    opened.goto(url)
    yield opened
    context.close()
    assert complaints == []


def look_for(page: Page, names: str = "cat, dog") -> None:
    page.set_input_files("#picture", EXAMPLES / "cat.jpg")
    page.fill("#names", names)
    page.click("#find")
    expect(page.locator("#result")).to_be_visible(timeout=60_000)


def slide(page: Page, value: float) -> None:
    page.locator("#threshold").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", str(value)
    )


def scores(page: Page) -> list[float]:
    return [float(text) for text in page.locator("#list li:visible span").all_inner_texts()]


def test_boxes_follow_the_slider_without_a_request(page: Page, nano: Detector) -> None:
    look_for(page)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    expected = nano.predict(EXAMPLES / "cat.jpg", ["cat", "dog"], score=0.01)
    steps = [step / 100 for step in range(1, 100)]
    there = [int((expected.scores >= step).sum()) for step in steps]
    some, fewer, *others = (
        step for step, fits, before in zip(steps[1:], there[1:], there, strict=False) if fits < before
    )
    assert others
    counts = []
    for threshold in (some, fewer, 0.01, 0.99):
        slide(page, threshold)
        shown = page.locator(".box:visible")
        counts.append(shown.count())
        assert counts[-1] == len(scores(page)) == sum(score >= threshold for score in scores(page))
        assert f"{counts[-1]} of {len(expected)} boxes shown" in page.inner_text("#status")
        assert page.inner_text("#threshold-value") == f"{threshold:.2f}"
    assert counts[2] == len(expected) > counts[0] > counts[1] > counts[3] == 0
    assert requests == []

    slide(page, 0.01)
    best, picture = page.locator(".box").first.bounding_box(), page.locator("#image").bounding_box()
    assert best is not None
    assert picture is not None
    factor = picture["width"] / expected.image_size[1]
    left, top, right, bottom = (corner * factor for corner in expected.boxes_xyxy_px[0].tolist())
    assert best["x"] - picture["x"] == pytest.approx(left, abs=1.5)
    assert best["y"] - picture["y"] == pytest.approx(top, abs=1.5)
    assert best["width"] == pytest.approx(right - left, abs=1.5)
    assert best["height"] == pytest.approx(bottom - top, abs=1.5)


def test_colours_are_those_of_drawn_pictures(page: Page) -> None:
    look_for(page, "cat, Dog, coffee cup, sofa")
    slide(page, 0.01)
    colours = class_colours(["cat", "Dog", "coffee cup", "sofa"])
    styles = page.locator(".box").evaluate_all(
        "boxes => boxes.map(box => [box.getAttribute('aria-label'), getComputedStyle(box).borderTopColor])"
    )
    labels = page.locator(".label").evaluate_all(
        """labels => labels.map(one => [one, getComputedStyle(one)])
            .map(([one, style]) => [one.textContent, style.backgroundColor, style.color])"""
    )
    swatches = page.locator("#list i").evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    for (text, frame), label, swatch in zip(styles, labels, swatches, strict=True):
        colour = colours[text.rpartition(" ")[0]]
        assert frame == swatch == f"rgb{colour}"
        assert label == [text, f"rgb{colour}", f"rgb{text_colour(colour)}"]
    assert len({frame for _, frame in styles}) > 1


def test_picture_is_shown_before_there_are_names(page: Page) -> None:
    page.set_input_files("#picture", EXAMPLES / "cat.jpg")
    preview = page.locator("#preview-image")
    expect(preview).to_be_visible()
    before = preview.bounding_box()
    page.fill("#names", "cat")
    page.click("#find")
    expect(page.locator("#result")).to_be_visible(timeout=60_000)
    expect(preview).to_be_hidden()
    after = page.locator("#image").bounding_box()
    assert before is not None
    assert after is not None
    assert (after["width"], after["height"]) == (before["width"], before["height"])


def test_weak_results_are_shown_and_said(page: Page) -> None:
    look_for(page)
    slide(page, 0.99)
    assert len(scores(page)) == 0
    page.click("#find")
    expect(page.locator("#status")).to_contain_text("the least score was lowered", timeout=60_000)
    assert float(page.input_value("#threshold")) < 0.99
    assert len(scores(page)) >= 1


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


def test_keyboard_alone(page: Page) -> None:
    page.set_input_files("#picture", EXAMPLES / "cat.jpg")
    # The picture is there, so the names are next.
    assert page.evaluate("document.activeElement.id") == "names"
    page.keyboard.type("cat, dog")
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_be_visible(timeout=60_000)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "find"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "threshold"
    before = float(page.input_value("#threshold"))
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    assert float(page.input_value("#threshold")) < before
    page.keyboard.press("Home")
    assert float(page.input_value("#threshold")) == 0.01
    assert len(scores(page)) > 1
    page.keyboard.press("Tab")
    label = "document.activeElement.getAttribute('aria-label')"
    first = page.evaluate(label)
    assert first == page.locator(".box").first.get_attribute("aria-label")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(label) == page.locator(".box").nth(1).get_attribute("aria-label")
    page.keyboard.press("Enter")
    expect(page.locator(".box[aria-selected=true]")).to_have_count(1)
    page.keyboard.press("End")
    page.keyboard.press("Home")
    assert page.evaluate(label) == first
    # One stop for all boxes: the next Tab leaves them.
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.classList.contains('box')")


def test_box_is_searched_for_its_like(page: Page) -> None:
    look_for(page)
    page.locator(".box:visible").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#alike")).to_be_visible(timeout=60_000)
    hits = page.locator("#hits li")
    expect(hits).to_have_count(12)
    # Most like a region of a photo that is in the index is a region of that photo.
    assert "cat.jpg" in hits.first.inner_text()
    image = hits.first.locator("img")
    assert image.evaluate("image => image.complete && image.naturalWidth > 0")
    assert page.evaluate("document.activeElement.id") == "alike-title"


def test_paste_and_drop(page: Page) -> None:
    page.fill("#names", "cat")
    give = """async ([kind, type, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], kind + ".jpg", { type }));
        const event = kind === "paste"
            ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true })
            : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
    }"""
    content = list((EXAMPLES / "cat.jpg").read_bytes())
    for kind in ("paste", "drop"):
        page.evaluate(give, [kind, "image/jpeg", content])
        expect(page.locator("#picture-name")).to_have_text(f"{kind}.jpg")
        expect(page.locator("#result")).to_be_visible(timeout=60_000)
    page.evaluate(give, ["drop", "text/plain", [1, 2, 3]])
    expect(page.locator("#problem")).to_have_text("That is no picture. Choose a JPEG, PNG or WebP file.")


def test_errors_in_plain_words(page: Page, tmp_path: Path, browser: Browser, service: Service) -> None:
    problem = page.locator("#problem")
    page.click("#find")
    expect(problem).to_have_text("Choose a picture first.")
    page.set_input_files("#picture", EXAMPLES / "cat.jpg")
    expect(problem).to_be_hidden()
    page.click("#find")
    expect(problem).to_have_text("Type what to look for: names, divided by commas.")
    page.fill("#names", "cat, cat")
    page.click("#find")
    expect(problem).to_contain_text("expected every name once, got 'cat' twice")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page.set_input_files("#picture", broken)
    page.fill("#names", "cat")
    page.click("#find")
    expect(problem).to_contain_text("expected an image (JPEG")
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(33 * 2**20)
    page.set_input_files("#picture", large)
    expect(problem).to_have_text("That file is too large: 33 MiB, at most 32 fit.")


def test_service_that_is_busy_or_gone(page: Page, service: Service) -> None:
    with busy(service), service.admission.request() as place:
        place.grow(service.limits.max_waiting)
        page.set_input_files("#picture", EXAMPLES / "cat.jpg")
        page.fill("#names", "cat")
        page.click("#find")
        expect(page.locator("#problem")).to_contain_text("The service is busy. Try again in ")
    page.route("**/detect", lambda route: route.abort())
    page.click("#find")
    expect(page.locator("#problem")).to_have_text("The service does not answer. Is it still running?")


def test_token_is_asked_for(browser: Browser, tiny: Detector) -> None:
    with live(make_app(make_service(tiny), token=TOKEN)) as address:
        page = browser.new_page()
        page.goto(address)
        page.set_input_files("#picture", EXAMPLES / "cat.jpg")
        page.fill("#names", "cat")
        page.click("#find")
        expect(page.locator("#problem")).to_have_text("This service asks for its token.")
        assert page.evaluate("document.activeElement.id") == "token"
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#result")).to_be_visible(timeout=60_000)
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(browser: Browser, url: str, scheme: Any) -> None:
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, color_scheme=scheme
    )
    page = context.new_page()
    page.goto(url)
    page.set_input_files("#picture", EXAMPLES / "cat.jpg")
    page.fill("#names", "cat, dog")
    page.tap("#find")
    expect(page.locator("#result")).to_be_visible(timeout=60_000)
    slide(page, 0.01)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for selector in ("#find", "#download", "#threshold", "#names"):
        size = page.locator(selector).bounding_box()
        assert size is not None
        assert size["height"] >= 44
        assert size["x"] + size["width"] <= 360
    page.locator(".box:visible").last.tap(force=True)
    expect(page.locator(".box[aria-selected=true]")).to_have_count(1)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    context.close()
