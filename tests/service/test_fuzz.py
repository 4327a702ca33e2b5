"""A thousand requests that nobody would send on purpose: every one gets an answer, none of them a 500."""

import base64
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cora.detector import Detector
from tests.service.conftest import image_file, make_app, make_service

STATUSES = {200, 400, 404, 405, 413, 415, 422}
PNG = base64.b64encode(image_file((9, 7))).decode()
SEEN: Counter[int] = Counter()
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def client(tiny: Detector) -> Iterator[TestClient]:
    limits: dict[str, Any] = {"max_body_bytes": 20_000, "max_pixels": 10_000, "max_images": 3, "max_classes": 8}
    with TestClient(make_app(make_service(tiny, **limits)), raise_server_exceptions=False) as opened:
        yield opened


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(PNG),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
nearly_right = st.fixed_dictionaries(
    {
        "images": st.lists(st.just(PNG), min_size=1, max_size=2)
        | st.lists(st.just(PNG) | st.text(), max_size=5)
        | anything,
        "classes": st.lists(st.text(max_size=12), max_size=3) | st.lists(st.text(max_size=200), max_size=12) | anything,
    },
    optional={
        "score": st.floats(0, 1) | anything,
        "nms_iou": st.floats(0, 1) | anything,
        "max_detections": st.integers(1, 9) | anything,
        "distractors": st.lists(st.text(max_size=12), max_size=3) | st.sampled_from(["everyday", "none", "no"]),
        "text": st.text(max_size=12),
        "other": anything,
    },
)
bodies = (
    nearly_right.map(lambda body: json.dumps(body).encode("utf-8", "surrogatepass"))
    | anything.map(lambda body: json.dumps(body).encode("utf-8", "surrogatepass"))
    | st.binary(max_size=300)
    | st.binary(min_size=20_001, max_size=20_005)
)
kinds = st.sampled_from(
    ["application/json", "multipart/form-data; boundary=x", "text/plain", "", "application/json; x"]
)
fast = settings(
    max_examples=300,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def check(response: Any) -> None:
    SEEN[response.status_code] += 1
    assert response.status_code in STATUSES, response.text
    if response.status_code != 200:
        assert isinstance(response.json()["detail"], str)


@fast
@given(st.sampled_from(["/detect", "/search"]), bodies, kinds)
def test_bodies(client: TestClient, path: str, body: bytes, kind: str) -> None:
    check(client.post(path, content=body, headers={"content-type": kind}))


fields = st.lists(
    st.tuples(
        st.sampled_from(["images", "classes", "score", "distractors", "max_detections", "nms_iou", "x", ""]),
        st.tuples(st.none(), st.text(max_size=20).map(str.encode))
        | st.tuples(st.text(max_size=10), st.binary(max_size=60) | st.just(base64.b64decode(PNG))),
    ),
    max_size=8,
)


@fast
@given(fields)
def test_forms(client: TestClient, parts: list[tuple[str, Any]]) -> None:
    usual = [("images", ("a.png", base64.b64decode(PNG))), ("classes", (None, b"cat"))]
    check(client.post("/detect", files=usual + parts))


@fast
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="?#"), max_size=20),
)
def test_paths(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, "/" + path.lstrip("/"))
    SEEN[response.status_code] += 1
    assert response.status_code in STATUSES
    assert "content-security-policy" in response.headers


def test_what_the_description_allows(client: TestClient) -> None:
    import schemathesis

    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())

    for operation in schema.get_all_operations():

        @settings(fast, max_examples=60)
        @given(operation.ok().as_strategy())
        def run(case: Any) -> None:
            kwargs = case.as_transport_kwargs(base_url="http://testserver")
            kwargs.pop("cookies", None)
            for place, (name, (file, value)) in enumerate(kwargs.get("files") or []):
                if not isinstance(value, bytes):  # numbers, which the client cannot send as they are
                    kwargs["files"][place] = (name, (file, str(value).encode()))
            check(client.request(**kwargs))

        run()


def test_all_ways_were_taken() -> None:
    if not SEEN:
        pytest.skip("the fuzz did not run")
    assert sum(SEEN.values()) >= 1000
    assert {200, 404, 405, 413, 415, 422} <= set(SEEN)
