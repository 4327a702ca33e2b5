"""The commands of the pages in `docs/` run as they are written: those that stand behind `<!-- command: run -->`."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
MARK = "<!-- command: run -->"
_BLOCK = re.compile(rf"^{re.escape(MARK)}\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SECONDS = 300

Run = Callable[[str], "subprocess.CompletedProcess[str]"]


def commands_of(page: str) -> list[str]:
    """The marked blocks of a page, in order."""
    return _BLOCK.findall(page)


PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
RUN = [name for name, text in PAGES.items() if commands_of(text)]


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Run:
    """Runs a block with bash in a copy of what commands may read; `cora` and `python` are those that run the tests.

    The pages call a detector on a CLIP ResNet `resnet.safetensors`: a toy of one lies there.
    """
    shutil.copytree(ROOT / "examples", tmp_path / "root" / "examples")
    shutil.copy(tiny_model, tmp_path / "root" / "resnet.safetensors")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, command in (("cora", "-m cora "), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {command}"$@"\n')
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def start(block: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path / "root",
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )

    return start


@pytest.mark.parametrize("name", RUN)
def test_page(run: Run, name: str) -> None:
    # Blocks of a page follow each other in one folder: what the first writes the second may read.
    for block in commands_of(PAGES[name]):
        done = run(block)
        assert done.returncode == 0, f"docs/{name}:\n{block}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("name", PAGES)
def test_every_mark_stands_before_a_block(name: str) -> None:
    assert PAGES[name].count(MARK) == len(commands_of(PAGES[name]))


def test_there_are_pages_to_run() -> None:
    assert "batch.md" in RUN


def test_blocks_are_found_and_their_failures_seen(run: Run) -> None:
    page = f"{MARK}\n```sh\ncora --version\nls examples\n```\n\n```sh\nnot this\n```\n{MARK}\n```sh\nfalse | cat\n```\n"
    good, bad = commands_of(page)
    done = run(good)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cora ")
    assert "cat.jpg" in done.stdout
    assert run(bad).returncode != 0
