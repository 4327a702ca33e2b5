"""URLs: only where the caller asks, only http and https, within limits, every failure in one line."""

import io
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from cora.errors import ImageError
from cora.images import download, is_url, read_image

BUFFER = io.BytesIO()
Image.new("RGB", (30, 20), (200, 10, 10)).save(BUFFER, "PNG")
PNG = BUFFER.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers by path; `asked` notes what came."""

    asked: list[str]
    patience = threading.Event()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", path.removeprefix("/to/").replace("%3A", ":"))
            self.end_headers()
        elif path == "/missing.png":
            self.send_error(404)
        elif path == "/slow.png":
            self.patience.wait(20)
        elif path == "/page.png":
            self.answer(b"<html></html>", "text/html; charset=utf-8")
        elif path == "/endless.png":
            self.send_response(200)
            self.end_headers()
            with suppress(ConnectionError):
                for _ in range(1000):
                    self.wfile.write(bytes(1 << 16))
        elif path == "/text.png":
            self.answer(b"hello" * 9, "image/png")
        elif path == "/half.png":
            self.answer(PNG[: len(PNG) // 2], "image/png")
        else:
            self.answer(PNG, "image/png")

    def answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Handler.asked = []
    Handler.patience.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Handler.patience.set()
    server.shutdown()
    thread.join()
    server.server_close()


def refusal(url: str, **options: float) -> str:
    with pytest.raises(ImageError) as error:
        download(url, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", ["/a.png", "/a.png?size=big&x=%20#part", "/my cat.png", "/кот/猫.png", "/to//a.png"])
def test_an_image_is_fetched_where_asked_for(site: str, path: str) -> None:
    read = read_image(site + path, allow_url=True)
    assert (read.size, read.getpixel((3, 3))) == ((30, 20), (200, 10, 10))


def test_nothing_is_fetched_by_default(site: str) -> None:
    with pytest.raises(ImageError, match=r"expected a file, got a URL: http://127\.0\.0\.1:"):
        read_image(f"{site}/a.png")
    assert Handler.asked == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("http://a/b.jpg", True),
        ("HTTPS://a/b.jpg", True),
        ("ftp://a/b.jpg", False),
        ("file:///a.jpg", False),
        ("https:a.jpg", False),
        ("C:\\photos\\a.jpg", False),
        ("photos/http://a.jpg", False),
        ("", False),
        (b"http://a/b.jpg", False),
        (None, False),
    ],
)
def test_what_a_url_is(source: object, expected: bool) -> None:
    assert is_url(source) is expected


@pytest.mark.parametrize(
    ("path", "got"),
    [
        ("/missing.png", "got 404 Not Found; check the address"),
        ("/page.png", "got a web page; use the address of the image itself"),
        ("/to/file%3A///etc/passwd", "is not allowed"),
        ("/to/ftp%3A//127.0.0.1/a.png", "got a redirection to ftp"),
    ],
)
def test_answers_that_are_no_image(site: str, path: str, got: str) -> None:
    assert got in refusal(site + path)


def test_content_that_is_no_image(site: str) -> None:
    with pytest.raises(ImageError, match=r"got something that is no image: http://.*/text\.png"):
        read_image(f"{site}/text.png", allow_url=True)
    with pytest.raises(ImageError, match=r"damaged or truncated one: http://.*/half\.png"):
        read_image(f"{site}/half.png", allow_url=True)


def test_size_limit(site: str) -> None:
    assert download(f"{site}/a.png", max_bytes=len(PNG)) == PNG
    assert "got more than" in refusal(f"{site}/a.png", max_bytes=len(PNG) - 1)  # by its header
    assert "got more than 1 MB; get it and shrink it" in refusal(f"{site}/endless.png", max_bytes=1_000_000)


def test_no_answer_in_time(site: str) -> None:
    assert "got no answer within 0.2 s; try again later" in refusal(f"{site}/slow.png", wait_seconds=0.2)


def test_whole_time_is_limited(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cora.images.web._WHOLE_SECONDS", -1.0)
    assert "bytes in -1 s; try again later" in refusal(f"{site}/a.png")


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/a.png", "http://[::1/a.png", "http:///a.png", "http://127.0.0.1:port/a.png", "http://a..b/c"],
)
def test_addresses_that_lead_nowhere(url: str) -> None:
    assert "check the address" in refusal(url)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b.png", "a.png", "data:image/png;base64,AAAA"])
def test_other_schemes_are_never_opened(url: str) -> None:
    assert "expected an address with http:// or https://" in refusal(url)


def test_messages_keep_secrets() -> None:
    message = refusal("http://me:secret@127.0.0.1:1/a.png?token=hidden#x")
    assert "http://127.0.0.1:1/a.png" in message
    assert "secret" not in message
    assert "hidden" not in message
