"""Makes the image of the page that the documentation shows.

python -m tests.service.page_picture docs/images/page.jpg
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from fastapi import FastAPI
from playwright.sync_api import sync_playwright

import cora
from cora.retrieval import RegionIndex, RegionSettings
from tests.service.conftest import EXAMPLES, live, make_app, make_service


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--photo", default="cat.jpg", help="one of examples/")
    parser.add_argument("--names", default="cat, dog")
    parser.add_argument("--score", default="0.17")
    arguments = parser.parse_args()
    detector = cora.load("nano")
    with tempfile.TemporaryDirectory() as place:
        settings = RegionSettings(classes=("cat", "cup", "person"), score=0.01, max_regions=12)
        index, _ = RegionIndex.build(Path(place) / "index", EXAMPLES, detector, settings=settings)
        take(arguments, make_app(make_service(detector, index=index)))


def take(arguments: argparse.Namespace, app: FastAPI) -> None:
    """Ask for boxes, choose one, and write what the browser shows."""
    with live(app) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": 1100, "height": 900}, color_scheme="dark" if arguments.dark else "light"
        )
        page.goto(url)
        page.set_input_files("#picture", EXAMPLES / arguments.photo)
        page.fill("#names", arguments.names)
        page.click("#find")
        page.locator("#result").wait_for()
        page.locator("#threshold").evaluate(
            "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", arguments.score
        )
        page.locator(".box").first.press("Enter")
        page.locator("#alike").wait_for()
        page.mouse.move(0, 0)
        page.screenshot(path=arguments.target, type="jpeg", quality=65, full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
