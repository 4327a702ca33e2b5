"""What a service keeps of requests that it has answered: nothing."""

import gc
import weakref
from collections import Counter
from typing import Any

import pytest
from fastapi.testclient import TestClient

from cora.detector import Detector
from cora.service.worker import CallJob, ModelWorker
from tests.service.conftest import image_file, make_app, make_service, upload, wait_until

_REQUESTS = 40


def ask(client: TestClient, number: int) -> None:
    """Requests of several kinds, bad ones too."""
    size = (40 + 20 * (number % 3), 40)
    good: dict[str, Any] = {"files": upload(*[image_file(size)] * (1 + number % 2)), "data": {"classes": "cat, dog"}}
    bad: dict[str, Any] = {"files": upload(b"no picture"), "data": {"classes": "cat"}}
    assert client.post("/detect", **good).status_code == 200
    assert client.post("/detect", **bad).status_code == 422
    assert client.get(f"/no/such/{number}").status_code == 404
    assert client.get("/metrics").status_code == 200


def objects() -> Counter[str]:
    gc.collect()
    return Counter(type(thing).__name__ for thing in gc.get_objects())


@pytest.mark.slow
def test_requests_leave_no_objects(tiny: Detector) -> None:
    with TestClient(make_app(make_service(tiny))) as client:
        for number in range(12):
            ask(client, number)
        before = objects()
        for number in range(_REQUESTS):
            ask(client, number)
        more = objects() - before
    # Whatever is kept for each request is there as often as there were requests.
    assert {kind: count for kind, count in more.items() if count >= _REQUESTS} == {}


def test_answered_jobs_are_let_go_while_nothing_else_comes(tiny: Detector) -> None:
    worker = ModelWorker(detector=tiny)
    worker.start()
    job = CallJob(function=lambda detector: 1)
    worker.submit([job])
    assert job.future.result(30) == 1
    left = weakref.ref(job)
    del job
    wait_until(lambda: left() is None)
    worker.close()
