"""A service around a real detector: nano where answers count, a tiny random one where only behaviour does."""

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

import cora
from cora.detector import Detector
from cora.images import PreprocessConfig
from cora.service.app import create_app
from cora.service.limits import Limits
from cora.service.service import Service
from cora.service.worker import CallJob
from tests import toys

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
