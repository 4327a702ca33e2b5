"""The page in a real browser: a real upload, boxes that follow the slider, the keyboard, a phone."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cora.detector import Detector
from cora.draw import class_colours, text_colour
from cora.regions import EVERYDAY_NAMES
from cora.service.service import Service
from tests.service.conftest import EXAMPLES, busy, live, look_for, make_app, make_service, scores, slide

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect

TOKEN = "correct-horse-battery"


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
    expect(page.locator("#status")).to_contain_text("the score threshold was lowered", timeout=60_000)
    assert float(page.input_value("#threshold")) < 0.99
    assert len(scores(page)) >= 1


def test_an_example_is_one_click(page: Page) -> None:
    cards = page.locator("#examples button")
    assert cards.count() == 3
    for number in range(3):
        card = cards.nth(number)
        assert card.locator("img").evaluate("image => image.complete && image.naturalWidth > 0")
        card.click()
        wanted = card.get_attribute("data-names")
        assert wanted is not None
        expect(page.locator("#names")).to_have_value(wanted)
        expect(page.locator("#image")).to_have_attribute("alt", f"The image with boxes for {wanted}", timeout=60_000)
        expect(page.locator("#result")).to_be_visible(timeout=60_000)
        # Something is found at the model's own threshold, of what the card says.
        assert page.input_value("#threshold") == "0.17"
        found = page.locator("#list li:visible b").all_inner_texts()
        assert found
        assert set(found) <= {name.strip() for name in wanted.split(",")}
        assert card.inner_text() == f"Find {wanted}"


def test_what_the_threshold_hides_is_said(page: Page, nano: Detector) -> None:
    look_for(page)
    expected = nano.predict(EXAMPLES / "cat.jpg", ["cat", "dog"], score=0.01).scores
    assert page.input_value("#threshold") == "0.17"
    shown, all_of_them = int((expected >= 0.17).sum()), len(expected)
    assert 0 < shown < all_of_them - 1
    assert page.inner_text("#status") == (
        f"{shown} of {all_of_them} boxes shown: score threshold 0.17, the model's own. {all_of_them - shown} weaker, "
        "down to 0.01, are hidden: move the slider to see more."
    )
    slide(page, 0.01)
    assert page.inner_text("#status") == f"{all_of_them} of {all_of_them} boxes shown: score threshold 0.01."


def watch(page: Page) -> Callable[[], dict[str, str]]:
    """Gives the fields of the one form that the page has sent since the last call, files by name."""
    page.evaluate("""() => {
        const fetch = window.fetch;
        window.sent = [];
        window.fetch = (path, options) => {
            const fields = [...(options?.body ?? [])].map(([name, value]) => [name, value.name ?? value]);
            if (fields.length) window.sent.push(Object.fromEntries(fields));
            return fetch(path, options);
        };
    }""")

    def fields() -> dict[str, str]:
        (sent,) = page.evaluate("window.sent.splice(0)")
        return dict(sent)

    return fields


def test_distractors_and_one_name_per_object(page: Page) -> None:
    fields = watch(page)
    look_for(page)
    assert page.is_checked("#everyday") is False
    assert page.is_checked("#one-name") is False
    asked = {"images": "cat.jpg", "classes": "cat,dog", "score": "0.01"}
    assert fields() == asked
    with page.expect_response("**/detect"):
        page.check("#everyday")
    expect(page.locator("#status")).to_contain_text("distractors compete with your class names and are not reported")
    count = int(re.findall(r"(\d+) distractors", page.inner_text("#status"))[0])
    assert count == len(EVERYDAY_NAMES) - 2
    assert fields() == {**asked, "distractors": "everyday"}
    with page.expect_response("**/detect"):
        page.check("#one-name")
    assert fields() == {**asked, "distractors": "everyday", "class_agnostic": "true"}
    with page.expect_response("**/detect"):
        page.uncheck("#everyday")
    expect(page.locator("#status")).not_to_contain_text("distractors")
    assert fields() == {**asked, "class_agnostic": "true"}


def test_distractors_of_a_model_that_has_them(browser: Browser, tiny: Detector) -> None:
    detector = copy.copy(tiny)
    detector.config = replace(tiny.config, postprocess=replace(tiny.config.postprocess, distractors="everyday"))
    with live(make_app(make_service(detector))) as address:
        page = browser.new_page()
        page.goto(address)
        expect(page.locator("#everyday")).to_be_checked()
        look_for(page)
        expect(page.locator("#status")).to_contain_text(f"{len(EVERYDAY_NAMES) - 2} distractors compete")
        page.uncheck("#everyday")
        expect(page.locator("#status")).not_to_contain_text("distractors")
        page.close()


def test_no_names_are_sent_as_none(page: Page) -> None:
    page.set_input_files("#picture", EXAMPLES / "cat.jpg")
    fields = watch(page)
    answer = {
        "images": [
            {"width": 451, "height": 300, "detections": [{"name": "cat", "score": 0.5, "box": [1, 1, 429, 300]}]}
        ],
        "colours": {},
        "score": 0.01,
        "usual_score": 0.3,
        "classes": 1203,
        "built_in": True,
        "distractors": 0,
    }
    page.route("**/detect", lambda route: route.fulfill(json=answer))
    assert "No names: everyday things" in page.inner_text("#names-help")
    page.click("#find")
    expect(page.locator("#result")).to_be_visible()
    assert fields() == {"images": "cat.jpg", "score": "0.01"}
    assert page.inner_text("#status") == (
        "1 of 1 box shown: score threshold 0.30, the model's own. Looked for 1203 everyday things."
    )
    assert page.locator("#list b").all_inner_texts() == ["cat"]


def test_keyboard_alone(page: Page) -> None:
    page.set_input_files("#picture", EXAMPLES / "cat.jpg")
    # The image is there, so the names are next.
    assert page.evaluate("document.activeElement.id") == "names"
    page.keyboard.type("cat, dog")
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_be_visible(timeout=60_000)
    page.keyboard.press("Tab")
    for place in ("find", "one-name", "everyday", "threshold"):
        if place != "find":
            page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == place
    before = float(page.input_value("#threshold"))
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    assert float(page.input_value("#threshold")) < before
    page.keyboard.press("Home")
    assert float(page.input_value("#threshold")) == 0.01
    assert len(scores(page)) > 1
    for place in ("save-image", "download"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == place
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
    expect(page.locator("#problem")).to_have_text("That is no image. Choose a JPEG, PNG or WebP file.")


def test_errors_in_plain_words(page: Page, tmp_path: Path, browser: Browser, service: Service) -> None:
    problem = page.locator("#problem")
    page.click("#find")
    expect(problem).to_have_text("Choose an image first.")
    page.set_input_files("#picture", EXAMPLES / "cat.jpg")
    expect(problem).to_be_hidden()
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
    everything = (
        "#find",
        "#save-image",
        "#download",
        "#threshold",
        "#names",
        "#words",
        "#search-go",
        "#examples button",
    )
    for selector in everything:
        size = page.locator(selector).first.bounding_box()
        assert size is not None
        assert size["height"] >= 44
        assert size["x"] + size["width"] <= 360
    page.locator(".box:visible").last.tap(force=True)
    expect(page.locator(".box[aria-selected=true]")).to_have_count(1)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    context.close()
