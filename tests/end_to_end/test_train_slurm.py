"""`--slurm` of train, relabel and evaluate: shell scripts play Slurm, its job is run as its script would run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cora
from cora.apps.cli import main

pytestmark = pytest.mark.integration


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose `sbatch` accepts every job."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, answer in (("sbatch", "Submitted batch job 12"), ("srun", ""), ("scontrol", "")):
        (folder / name).write_text(f'#!/bin/sh\necho "{answer}"\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def command(model: Path, folder: Path, run: Path) -> list[str]:
    photos = ["--images", str(folder / "images"), "--annotations", str(folder / "annotations.json")]
    small = ["--epochs", "1", "--batch", "5", "--set", "data.versions=1"]
    return ["train", "prompts", *photos, "--model", str(model), "--run", str(run), *small]


def python(*arguments: str, **environment: str) -> str:
    """Standard output of a Python program that must succeed."""
    done = subprocess.run(
        [sys.executable, *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_job_trains_what_the_command_says(slurm: Path, tiny_model: Path, boxed_photos: Path) -> None:
    run = slurm / "run"
    asked = ["--device", "cpu", "--slurm", "partition=long", "minutes=90", "setup=['module load python']"]
    said = python("-m", "cora", *command(tiny_model, boxed_photos, run), *asked)
    assert f"Submitted job 12; its script and logs are in {run / 'slurm'}" in said
    assert sorted(path.name for path in run.iterdir()) == ["slurm"]  # nothing was trained here
    script = next((run / "slurm").glob("*submission.sh")).read_text()
    for line in ("#SBATCH --partition=long", "#SBATCH --time=90", "module load python"):
        assert f"{line}\n" in script
    python("-m", "submitit.core._submit", str(run / "slurm"), SUBMITIT_EXECUTOR="slurm", **JOB)
    trained, start = cora.load(run / "prompts.safetensors"), cora.load(tiny_model)
    assert not trained.prompt.offset.equal(start.prompt.offset)


JOB = {"SLURM_JOB_ID": "12", "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("words", "output"),
    [(["relabel"], "labels.json"), (["evaluate", "--resamples", "10"], "numbers.json")],
    ids=["relabel", "evaluate"],
)
def test_the_job_does_what_the_command_says(
    words: list[str], output: str, slurm: Path, tiny_model: Path, boxed_photos: Path
) -> None:
    flag = "--json" if words[0] == "evaluate" else "--output"
    photos = ["--images", str(boxed_photos / "images"), "--annotations", str(boxed_photos / "annotations.json")]
    asked = [*words, *photos, "--model", str(tiny_model), "--device", "cpu", flag]
    folder = (slurm / output).with_suffix(".slurm")
    said = python("-m", "cora", *asked, str(slurm / output), "--slurm", "partition=long")
    assert f"Submitted job 12; its script and logs are in {folder}" in said
    assert not (slurm / output).exists()
    assert "#SBATCH --partition=long\n" in next(folder.glob("*submission.sh")).read_text()
    python("-m", "submitit.core._submit", str(folder), SUBMITIT_EXECUTOR="slurm", **JOB)
    python("-m", "cora", *asked, str(slurm / f"here {output}"))
    of_job, here = (json.loads((slurm / name).read_text()) for name in (output, f"here {output}"))
    for one in (of_job, here):
        one.pop("seconds_per_image", None)
    if words[0] == "evaluate":
        command = of_job.pop("command")
        assert command[:2] == ["cora", "evaluate"]
        assert "--slurm" in command
        del here["command"]
    assert of_job == here


def test_a_job_writes_what_it_measures(
    tiny_model: Path, boxed_photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = ["--images", str(boxed_photos / "images"), "--annotations", str(boxed_photos / "annotations.json")]
    assert main(["evaluate", *photos, "--model", str(tiny_model), "--slurm"]) == 2
    assert "expected --json or --report beside --slurm, since a job has no screen" in capsys.readouterr().err


def test_the_callers_logging_is_left_alone(slurm: Path, tiny_model: Path, boxed_photos: Path) -> None:
    program = (
        "import logging, sys\n"
        "from cora.apps.cli import main\n"
        "closed = []\n"
        "class Handler(logging.StreamHandler):\n"
        "    def close(self): closed.append(self)\n"
        "mine = Handler()\n"
        "assert main(sys.argv[1:]) == 0 and not closed, closed\n"
    )
    python("-c", program, *command(tiny_model, boxed_photos, slurm / "run"), "--slurm")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["queue=gpu"], "unknown key 'queue'; expected one of name, machines, processes"),
        (["minutes=soon"], "expected int, got 'soon'"),
        (["restarts=-1"], "expected restarts of at least 0, got -1"),
        (["gpu"], "expected a setting key=value"),
    ],
)
def test_what_cannot_be_asked_for(
    asked: list[str],
    message: str,
    tiny_model: Path,
    boxed_photos: Path,
    slurm: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*command(tiny_model, boxed_photos, slurm / "run"), "--slurm", *asked]) == 2
    assert message in capsys.readouterr().err
    assert not (slurm / "run").exists()


def test_a_machine_without_slurm(
    tiny_model: Path,
    boxed_photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([*command(tiny_model, boxed_photos, tmp_path / "run"), "--slurm"]) == 2
    assert "expected Slurm's commands on this machine" in capsys.readouterr().err
