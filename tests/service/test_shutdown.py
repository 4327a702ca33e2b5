"""The command as a process: it starts, says where, and ends without losing what it accepted."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from cora.apps.cli import main
from cora.detector import Detector
from tests.service.conftest import image_file, upload, wait_until

pytestmark = pytest.mark.integration


@contextmanager
def serving(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`cora serve` on a free port, and its URL."""
    command = [sys.executable, "-m", "cora", "serve", "--port", "0", "--device", "cpu", *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        # A test runner in the background ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "cora: serving" in line, process.communicate(timeout=30)[1]
        yield process, next(word for word in line.split() if word.startswith("http://"))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def model(tiny: Detector, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    tiny.save(path)
    return str(path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_no_accepted_request_is_lost(model: str, number: signal.Signals, code: int) -> None:
    # Batches of one image and many images: the signal comes while most of the work is still to do.
    options = ("--model", model, "--max-batch", "1", "--queue", "200", "--timeout", "300")
    with serving(*options) as (process, url), ThreadPoolExecutor(8) as pool:

        def ask() -> httpx.Response:
            pictures = upload(*[image_file()] * 15)
            return httpx.post(f"{url}/detect", files=pictures, data={"classes": "cat"}, timeout=300)

        requests = [pool.submit(ask) for _ in range(8)]
        wait_until(lambda: httpx.get(f"{url}/health").json()["waiting"] == 8 * 15)
        process.send_signal(number)
        assert [len(request.result().json()["images"]) for request in requests] == [15] * 8
        assert process.wait(100) == code
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        _, errors = process.communicate()
        assert "Traceback" not in errors


def test_token_comes_from_the_environment(model: str) -> None:
    with serving("--model", model, CORA_TOKEN="correct-horse-battery") as (_, url):
        assert httpx.get(f"{url}/health").json()["model"] == "tiny.safetensors"
        assert httpx.get(f"{url}/metrics").status_code == 401
        given = {"authorization": "Bearer correct-horse-battery"}
        assert httpx.get(f"{url}/metrics", headers=given).status_code == 200
        assert httpx.get(f"{url}/health", headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "giant"], "unknown model 'giant'"),
        (["--model", "net.onnx"], "net.onnx: expected an existing file"),
        (["--db", "nowhere"], "nowhere"),
        (["--token-file", "missing.txt"], "got No such file or directory: missing.txt"),
        (["--token-file", "short.txt"], "at least 16 ASCII characters"),
        (["--max-images", "80"], "max_images: expected at most max_waiting (64)"),
        (["--host", "no such host"], "expected a free address of this machine, got no such host"),
        (["--host", "a..b"], "expected a free address of this machine, got a..b"),
        (["--port", "70000"], "expected a port, 0 to 65535, got '70000'"),
        (["--max-batch", "0"], "expected a whole number of 1 or more"),
    ],
)
def test_bad_options(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("short\n")
    try:
        code = main(["serve", "--port", "0", *options])
    except SystemExit as exit:
        code = int(str(exit.code))
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cora: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_taken_port(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "Address already in use; choose another --host or --port" in capsys.readouterr().err
