"""`cora evaluate` and `cora relabel` in two processes, started by torchrun, by Slurm or by the command itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cora.apps.cli import main

pytestmark = pytest.mark.integration

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cora")
PAIR = ("--processes", "2")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Other numbers of threads add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seven(tmp_path: Path, boxed_photos: Path) -> Path:
    """Seven of the images, one of them without boxes and two of another shape, in `images`; `annotations.json`."""
    folder = tmp_path / "seven"
    (folder / "images").mkdir(parents=True)
    content = json.loads((boxed_photos / "annotations.json").read_text())
    content["images"] = content["images"][:7]
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] < 7 and box["image_id"] != 3]
    for number, record in enumerate(content["images"]):
        with Image.open(boxed_photos / "images" / record["file_name"]) as image:
            height = 96 if number in (1, 4) else image.height
            image.crop((0, 0, image.width, height)).save(folder / "images" / record["file_name"])
        record["height"] = height
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def photos(folder: Path) -> list[str]:
    return ["--images", str(folder / "images"), "--annotations", str(folder / "annotations.json"), "--device", "cpu"]


def evaluate(model: Path, folder: Path, output: Path) -> list[str]:
    """Two passes over the images, in batches that one shape does not fill."""
    options = ["--class-weights", str(weights(folder)), "--batch-size", "2", "--resamples", "20"]
    return ["evaluate", *photos(folder), "--model", str(model), *options, "--json", str(output)]


def weights(folder: Path) -> Path:
    path = folder / "weights.json"
    path.write_text(json.dumps({"red square": 3.0}))
    return path


def relabel(model: Path, folder: Path, output: Path) -> list[str]:
    beside = ["--json", str(output.with_name("agreement.json"))]
    return ["relabel", *photos(folder), "--model", str(model), "--output", str(output), *beside]


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [sys.executable, "-m", *words], env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def measured(path: Path) -> dict[str, Any]:
    """What a report says but for how it was made."""
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["detections"] > 50
    return {name: value for name, value in found.items() if name not in ("command", "seconds_per_image")}


def our_lines(text: str) -> list[str]:
    """Errors and lines of tracebacks of this package; torchrun adds a report of its own."""
    return [line for line in text.splitlines() if "cora: error: " in line or ("File " in line and "/cora/" in line)]


def test_torchrun_evaluates_as_one_process(tiny_model: Path, seven: Path, tmp_path: Path) -> None:
    assert main([*evaluate(tiny_model, seven, tmp_path / "one.json"), "--oracles"]) == 0
    done = python(*TORCHRUN, *evaluate(tiny_model, seven, tmp_path / "two.json"), "--oracles", *PAIR)
    assert done.returncode == 0, done.stderr
    assert measured(tmp_path / "two.json") == measured(tmp_path / "one.json")
    assert done.stdout.count("7 images") == 1  # the first process alone prints


def test_a_pool_evaluates_as_one_process(tiny_model: Path, seven: Path, tmp_path: Path) -> None:
    assert main(evaluate(tiny_model, seven, tmp_path / "one.json")) == 0
    assert main([*evaluate(tiny_model, seven, tmp_path / "two.json"), *PAIR]) == 0
    assert measured(tmp_path / "two.json") == measured(tmp_path / "one.json")


def test_two_processes_relabel_as_one(tiny_model: Path, seven: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one" / "labels.json", tmp_path / "two" / "labels.json"
    assert main(relabel(tiny_model, seven, one)) == 0
    done = python("cora", *relabel(tiny_model, seven, two), *PAIR)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("of 12 boxes keep their class") == 1
    assert two.read_bytes() == one.read_bytes()
    assert two.with_name("agreement.json").read_bytes() == one.with_name("agreement.json").read_bytes()


def test_slurm_relabels_as_one_process(tiny_model: Path, seven: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one" / "labels.json", tmp_path / "two" / "labels.json"
    assert main(relabel(tiny_model, seven, one)) == 0
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NAME": "cora", "SLURM_NTASKS": "2", "SLURM_NODEID": "0"}
    job |= {"SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "cora", *relabel(tiny_model, seven, two), *PAIR],
            env=os.environ | job | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    (first, errors), (second, more) = (task.communicate(timeout=300) for task in tasks)
    assert [task.returncode for task in tasks] == [0, 0], errors + more
    assert "of 12 boxes keep their class" in first
    assert second == ""
    assert two.read_bytes() == one.read_bytes()


@pytest.mark.parametrize(
    ("command", "start"),
    [(evaluate, TORCHRUN), (evaluate, ("cora",)), (relabel, ("cora",))],
    ids=["evaluate, torchrun", "evaluate", "relabel"],
)
def test_one_bad_image_ends_all(
    command: Any, start: tuple[str, ...], tiny_model: Path, seven: Path, tmp_path: Path
) -> None:
    # Not an image of the first process.
    content = (seven / "images" / "5.png").read_bytes()
    (seven / "images" / "5.png").write_bytes(content[: len(content) // 2])
    before = sorted(tmp_path.rglob("*"))
    done = python(*start, *command(tiny_model, seven, tmp_path / "out" / "found.json"), *PAIR)
    assert done.returncode != 0
    lines = our_lines(done.stderr)
    assert len(lines) == 1, done.stderr
    assert "cora: error: " in lines[0]
    assert "5.png" in lines[0]
    assert not (tmp_path / "out").exists()
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "weights.json"] == before


def test_bad_input_is_told_once(tiny_model: Path, seven: Path, tmp_path: Path) -> None:
    (seven / "annotations.json").write_text("{")
    done = python(*TORCHRUN, *evaluate(tiny_model, seven, tmp_path / "found.json"), *PAIR)
    assert done.returncode != 0
    assert len(our_lines(done.stderr)) == 1, done.stderr
    assert not (tmp_path / "found.json").exists()


def test_other_numbers_of_processes_than_were_started(tiny_model: Path, seven: Path, tmp_path: Path) -> None:
    done = python(*TORCHRUN, *relabel(tiny_model, seven, tmp_path / "labels.json"))
    assert done.returncode != 0
    assert "expected --processes and --machines for the 2 processes that torchrun starts, got 1 on each of 1" in (
        done.stderr
    )
    assert not (tmp_path / "labels.json").exists()
