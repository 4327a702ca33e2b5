"""Jobs as submitit writes and runs them; Slurm itself is played by two shell scripts."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import pytest

from cora.errors import MissingExtraError, TrainingError
from cora.training.engine import Engine
from cora.training.slurm import ResumableTraining, SlurmConfig, submit_slurm


def note(path: Path, engine: Engine) -> str:
    path.write_text(f"{engine.rank} of {engine.world}")
    return path.name


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a `sbatch` that accepts every job, and a `srun` and a `scontrol` that do nothing."""
    for name, answer in (("sbatch", "Submitted batch job 12"), ("srun", ""), ("scontrol", "")):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\necho "{answer}"\n')
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_the_script_asks_for_what_the_configuration_says(slurm: Path) -> None:
    config = SlurmConfig(
        name="ovcoco",
        machines=2,
        processes=8,
        cpus_per_process=10,
        memory_gb=400,
        minutes=600,
        partition="gpu",
        account="vision",
        setup=("module load cuda",),
        options={"mail-type": "END"},
    )
    job = submit_slurm(partial(note, slurm / "ran"), folder=slurm / "jobs", config=config)
    assert job.job_id == "12"
    script = next((slurm / "jobs").glob("*12_submission.sh")).read_text()
    for line in (
        "--job-name=ovcoco",
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--cpus-per-task=10",
        "--mem=400GB",
        "--time=600",
        "--partition=gpu",
        "--account=vision",
        "--mail-type=END",
    ):
        assert f"#SBATCH {line}\n" in script
    assert "\nmodule load cuda\n" in script
    assert "--kill-on-bad-exit=1" in script
    assert "--qos" not in script


def test_a_job_on_cpus_asks_for_no_gpus(slurm: Path) -> None:
    submit_slurm(partial(note, slurm / "ran"), folder=slurm / "jobs", config=SlurmConfig(device="cpu"))
    script = next((slurm / "jobs").glob("*_submission.sh")).read_text()
    assert "--gpus-per-node=0\n" in script or "gpus" not in script


def test_a_job_runs_the_function_and_returns_its_result(tmp_path: Path) -> None:
    config = SlurmConfig(device="cpu")
    job = submit_slurm(partial(note, tmp_path / "ran"), folder=tmp_path / "jobs", config=config, cluster="debug")
    assert job.result() == "ran"
    assert (tmp_path / "ran").read_text() == "0 of 1"


def test_a_stopped_job_is_submitted_again_as_it_was(tmp_path: Path) -> None:
    training = ResumableTraining(function=partial(note, tmp_path / "ran"), processes=1, machines=1, device="cpu")
    again = training.checkpoint()
    assert again.function is training
    assert again.result() == "ran"


def test_without_slurm_or_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrainingError, match=r"expected Slurm's commands on this machine, got: .*; use a login node"):
        submit_slurm(partial(note, tmp_path / "ran"), folder=tmp_path / "jobs", config=SlurmConfig())
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingExtraError, match=r"Slurm needs .*cora-ovd\[slurm\]"):
        submit_slurm(partial(note, tmp_path / "ran"), folder=tmp_path / "jobs", config=SlurmConfig())


def test_numbers_out_of_range() -> None:
    with pytest.raises(TrainingError, match="expected machines of at least 1, got 0"):
        SlurmConfig(machines=0)
    with pytest.raises(TrainingError, match="restarts of at least 0, got -1"):
        SlurmConfig(restarts=-1)
