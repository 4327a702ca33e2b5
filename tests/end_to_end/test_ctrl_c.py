"""Ctrl-C at a terminal reaches every process of a command: one line, no traceback, no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.integration

PAIR = ("--processes", "2")


def workers(pid: int) -> list[psutil.Process]:
    """Processes of a pool, whether or not they have imported anything yet; not the one that tracks resources."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # some helper that has just ended
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def evaluate(model: Path, folder: Path, output: Path) -> list[str]:
    options = ["--annotations", str(folder / "annotations.json"), "--batch-size", "1", "--resamples", "20", *PAIR]
    return ["evaluate", "--images", str(folder / "images"), "--model", str(model), *options, "--json", str(output)]


def batch(model: Path, folder: Path, output: Path) -> list[str]:
    return [
        "batch",
        str(folder / "images"),
        "--to",
        str(output),
        "--classes",
        "red square",
        "--model",
        str(model),
        *PAIR,
    ]


@pytest.mark.parametrize("command", [evaluate, batch])
@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.0], ids=["at-once", "importing", "later"])
def test_one_line_and_no_process_left(
    tiny_model: Path,
    boxed_photos: Path,
    tmp_path: Path,
    command: Callable[[Path, Path, Path], list[str]],
    seconds: float,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cora", *command(tiny_model, boxed_photos, tmp_path / "output"), "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the terminal's group, to all of which it sends the signal
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while process.poll() is None and len(started := workers(process.pid)) < 2:
        time.sleep(0.01)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if "interrupted" in line] == err.splitlines()[-1:]
    assert psutil.wait_procs(started, timeout=60)[1] == []
