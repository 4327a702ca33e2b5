"""The page with an index, in a real browser: searches by words and by a box."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cora.detector import Detector
from cora.service.service import Service
from tests.service.conftest import live, look_for, make_app, make_service

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect


def test_box_is_searched_for_its_like(page: Page) -> None:
    look_for(page)
    page.locator(".box:visible").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#alike")).to_be_visible(timeout=60_000)
    hits = page.locator("#hits li")
    expect(hits).to_have_count(12)
    # Most like a region of an image that is in the index is a region of that image.
    assert "cat.jpg" in hits.first.inner_text()
    image = hits.first.locator("img")
    assert image.evaluate("image => image.complete && image.naturalWidth > 0")
    assert page.evaluate("document.activeElement.id") == "alike-title"


def test_search_by_words(page: Page, service: Service, nano: Detector) -> None:
    page.click("#search-go")
    expect(page.locator("#problem")).to_have_text("Type what to search the index for.")
    assert page.evaluate("document.activeElement.id") == "words"
    page.keyboard.type("a cat")
    page.keyboard.press("Enter")
    expect(page.locator("#alike")).to_be_visible(timeout=60_000)
    expect(page.locator("#problem")).to_be_hidden()
    assert page.inner_text("#alike-title") == "Regions like “a cat”"
    assert page.evaluate("document.activeElement.id") == "alike-title"
    assert service.index is not None
    expected = service.index.search_text(nano, "a cat", top=12, per_picture=4)
    hits = page.locator("#hits li")
    expect(hits).to_have_count(len(expected))
    for number, hit in enumerate(expected):
        text = hits.nth(number).inner_text()
        assert hit.file in text
        assert f"similarity {hit.similarity:.2f}" in text
        assert hits.nth(number).locator("img").evaluate("image => image.complete && image.naturalWidth > 0")
    assert expected[0].file == "cat.jpg"
    page.fill("#words", "x" * 101)
    page.click("#search-go")
    expect(page.locator("#problem")).to_contain_text("at most 100 characters")


def test_without_an_index_nothing_offers_a_search(browser: Browser, tiny: Detector) -> None:
    with live(make_app(make_service(tiny))) as address:
        page = browser.new_page()
        page.goto(address)
        expect(page.locator("#examples")).to_be_visible()
        look_for(page)
        for place in ("#index", "#search-help", "#alike"):
            expect(page.locator(place)).to_be_hidden()
        page.close()
