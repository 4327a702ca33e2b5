"""Waiting, waiting too long, giving up, and who may ask."""

import base64
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from cora.detector import Detector
from cora.errors import CoraError, ImageError, ModelError
from cora.service.limits import Limits
from cora.service.security import check_token
from cora.service.server import bind, names_of
from tests.service.conftest import busy, image_file, live, make_app, make_service, upload, wait_until

PICTURE = image_file()
ASK: dict[str, Any] = {"files": upload(PICTURE), "data": {"classes": "cat"}}
TWO: dict[str, Any] = {"files": upload(PICTURE, PICTURE), "data": {"classes": "cat"}}
HEAD = b"POST /detect HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class SlowIndex:
    """An index whose searches end when they are told to."""

    folder = Path("nowhere")

    def __init__(self) -> None:
        self.go = threading.Event()

    def search_text(self, detector: Detector, text: str, *, top: int, per_picture: int | None) -> list[Any]:
        if text == "fail":
            raise RuntimeError("secret detail")
        if text == "fixed":
            raise ModelError("/secret/place.onnx: expected other options")
        assert self.go.wait(30)
        return []


def test_full_queue_is_said_at_once_and_nobody_is_forgotten(tiny: Detector) -> None:
    service = make_service(tiny, max_waiting=3, max_images=3)
    with TestClient(make_app(service)) as client, ThreadPoolExecutor(4) as pool:
        with busy(service):
            waiting = [pool.submit(client.post, "/detect", **ASK) for _ in range(2)]
            wait_until(lambda: service.admission.taken == 2)
            refused = client.post("/detect", **TWO)
            assert refused.status_code == 429
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert "at most 3 images waiting" in refused.json()["detail"]
            assert service.admission.taken == 2
            waiting.append(pool.submit(client.post, "/detect", **ASK))
            wait_until(lambda: service.admission.taken == 3)
            assert client.post("/detect", **ASK).status_code == 429
            assert client.get("/health").json()["waiting"] == 3
        assert [request.result().status_code for request in waiting] == [200, 200, 200]
        assert service.admission.taken == 0
        assert client.post("/detect", **TWO).status_code == 200


def test_waiting_too_long_is_503_and_the_work_is_taken_back(tiny: Detector) -> None:
    service = make_service(tiny, timeout_s=0.2)
    with TestClient(make_app(service)) as client, busy(service):
        response = client.post("/detect", **TWO)
        assert response.status_code == 503
        assert "within 0.2 s" in response.json()["detail"]
        assert "retry-after" in response.headers
        assert service.worker.waiting == 0
        assert service.admission.taken == 0


def test_working_too_long_is_504_and_failing_is_500(tiny: Detector) -> None:
    index = SlowIndex()
    service = make_service(tiny, index=index, timeout_s=0.2)
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        slow = client.post("/search", json={"text": "cat"})
        index.go.set()
        assert slow.status_code == 504
        failed = client.post("/search", json={"text": "fail"})
        assert failed.status_code == 500
        assert "secret" not in failed.text
        assert "content-security-policy" in failed.headers
        fixed = client.post("/search", json={"text": "fixed"})
        assert fixed.status_code == 422
        assert "the exported model" in fixed.json()["detail"]
        assert "secret" not in fixed.text
        # The thread that owns the model lives on.
        assert client.post("/search", json={"text": "cat"}).status_code == 200


def test_slow_body_is_408(tiny: Detector) -> None:
    service = make_service(tiny, timeout_s=0.2)
    with live(make_app(service)) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(HEAD % 99 + b"{")
            connection.settimeout(30)
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
        wait_until(lambda: service.admission.taken == 0)


@pytest.mark.parametrize("announced", [True, False])
def test_refusal_reaches_a_client_that_is_still_sending(tiny: Detector, announced: bool) -> None:
    body = b"x" * 5_000_000
    headers = {"content-type": "application/json"}
    with live(make_app(make_service(tiny, max_body_bytes=1000))) as url, httpx.Client() as client:
        for _ in range(3):
            content = body if announced else (body[start : start + 100_000] for start in range(0, len(body), 100_000))
            response = client.post(f"{url}/detect", content=content, headers=headers)
            assert response.status_code == 413
        assert client.get(f"{url}/health").status_code == 200


def test_work_for_clients_that_have_gone_is_given_up(tiny: Detector) -> None:
    service = make_service(tiny)
    body = json.dumps({"images": [base64.b64encode(PICTURE).decode()], "classes": ["cat"]}).encode()
    with live(make_app(service)) as url, busy(service):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(HEAD % len(body) + body)
            wait_until(lambda: service.worker.waiting == 1)
        wait_until(lambda: service.worker.waiting == 0)
        wait_until(lambda: service.admission.taken == 0)


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_a_client_that_goes_while_it_sends_is_no_error_of_the_service(tiny: Detector, kind: str) -> None:
    service = make_service(tiny)
    head = HEAD.replace(b"application/json", kind.encode())
    with live(make_app(service)) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(head % 99 + b"--x\r\n")
            wait_until(lambda: service.admission.taken == 1)
        wait_until(lambda: b'path="/detect"' in service.metrics.text())
    assert b'cora_requests_total{path="/detect",status="499"} 1.0' in service.metrics.text()


def test_images_behind_a_bad_one_are_not_decoded(tiny: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    service = make_service(tiny, max_images=16)
    go, opened = threading.Event(), []

    def slow_open(data: bytes, *, max_pixels: int) -> Image.Image:
        opened.append(data)
        if data == b"bad":
            raise ImageError("expected an image, got something that is none")
        assert go.wait(30)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr("cora.service.service.open_picture", slow_open)
    with TestClient(make_app(service)) as client:
        refused = client.post("/detect", files=upload(b"bad", *[PICTURE] * 15), data={"classes": "cat"})
        assert refused.status_code == 422
        assert "image 1: expected an image" in refused.json()["detail"]
        go.set()
    # Two threads decode: besides the bad one they may have begun with one image each.
    assert len(opened) <= 3


@pytest.mark.parametrize("name", ["http://cora.example", "cora.example:8000", "cora*.example", "*", "*.example", "::1"])
def test_names_that_the_service_is_called_by(name: str) -> None:
    with bind("127.0.0.1", 0) as bound:
        if name in ("*", "*.example", "::1"):
            assert names_of(bound, "localhost", [name])[-1] == name
        else:
            with pytest.raises(CoraError, match="--allow-host: expected the name of a host without port"):
                names_of(bound, "localhost", [name])


def test_stopped_model_is_unhealthy(tiny: Detector) -> None:
    service = make_service(tiny)
    with TestClient(make_app(service)) as client:
        service.worker.close()
        assert client.get("/health").status_code == 503
        response = client.post("/detect", **ASK)
        assert response.status_code == 503
        assert "stopping" in response.json()["detail"]


def test_token(tiny: Detector) -> None:
    token = "correct-horse-battery"
    with TestClient(make_app(make_service(tiny), token=token)) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {token}"}):
            for method, path in (("POST", "/detect"), ("POST", "/search"), ("GET", "/metrics")):
                response = client.request(method, path, headers=headers)
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == "Bearer"
        allowed = {"authorization": f"Bearer {token}"}
        assert client.post("/detect", headers=allowed, **ASK).status_code == 200
        assert client.get("/metrics", headers=allowed).status_code == 200
        assert client.get("/health").json()["token"] is True
        assert client.get("/").status_code == 200


@pytest.mark.parametrize("token", ["", "short", "with spaces in it here", "ümlaut-is-no-header-text", "a\nb" * 10])
def test_tokens_that_are_none(token: str) -> None:
    with pytest.raises(CoraError, match="expected a token of at least 16 ASCII characters"):
        check_token(token)


def test_token_file_may_end_with_a_line_break() -> None:
    assert check_token("correct-horse-battery\n") == "correct-horse-battery"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_images": 65}, "max_images: expected at most max_waiting"),
        ({"max_classes": 0}, "max_classes: expected at least 1, got 0"),
        ({"timeout_s": 0}, "timeout_s: expected a number above 0"),
    ],
)
def test_limits_that_make_no_sense(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**limits)
