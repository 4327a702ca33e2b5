"""A service around a real detector: nano where answers count, a tiny random one where only behaviour does."""

from __future__ import annotations

import io
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

import cora
from cora.detector import Detector
from cora.images import PreprocessConfig
from cora.retrieval import RegionIndex, RegionSettings
from cora.service.app import create_app
from cora.service.limits import Limits
from cora.service.service import Service
from cora.service.worker import CallJob
from tests import toys

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def nano() -> Detector:
    return cora.load("nano")


@pytest.fixture(scope="session")
def tiny() -> Detector:
    """A whole detector of toy size with random weights: a pass takes milliseconds."""
    config = toys.toy_config(preprocess=PreprocessConfig(short_side=64, long_side=96))
    return toys.toy_detector(config, residual=1.0, heads=0.3)


def make_service(detector: Detector, *, index: Any = None, max_batch: int = 8, **limits: Any) -> Service:
    return Service(detector=detector, limits=Limits(**limits), max_batch=max_batch, index=index)


def make_app(service: Service, token: str | None = None) -> FastAPI:
    return create_app(service, model_name="nano", token=token, hosts=["localhost", "127.0.0.1", "testserver"])


def image_file(size: tuple[int, int] = (40, 30), colour: str = "red", kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format=kind)
    return file.getvalue()


def upload(*images: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("images", (f"{number}.png", image, "image/png")) for number, image in enumerate(images)]


@contextmanager
def busy(service: Service) -> Iterator[threading.Event]:
    """Keep the model of a running service from work until the event is set, or the block ends."""
    go, begun = threading.Event(), threading.Event()
    service.worker.submit([CallJob(function=lambda detector: (begun.set(), go.wait(30)))])
    assert begun.wait(30)
    try:
        yield go
    finally:
        go.set()


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@contextmanager
def live(app: FastAPI) -> Iterator[str]:
    """The URL of an application that listens on a free port of this machine."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        bound.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def service(nano: Detector, tmp_path_factory: pytest.TempPathFactory) -> Service:
    # Regions of whatever looks like an object: of every image more than the page shows of one.
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
    page.locator("#result").wait_for(timeout=60_000)


def slide(page: Page, value: float) -> None:
    page.locator("#threshold").evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }", str(value)
    )


def scores(page: Page) -> list[float]:
    return [float(text) for text in page.locator("#list li:visible span").all_inner_texts()]
