"""Submits training as a Slurm job, with submitit (docs/scale_out.md)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cora.errors import TrainingError, needs_extra
from cora.training.engine import Device, Engine, launch
from cora.training.recipe import at_least


@dataclass(frozen=True, kw_only=True)
class SlurmConfig:
    """Resources of a Slurm job; None stands for the cluster's default.

    Attributes:
        name: of the job.
        machines: number of nodes.
        processes: processes on each node; with `device` "cuda", one GPU each.
        device: "cuda" or "cpu".
        cpus_per_process: cores of a process and its data loading workers.
        memory_gb: memory of a node in GB.
        minutes: time limit of the job; afterwards it is queued again and resumes.
        restarts: how often it is queued again after the time limit; preemption does not count.
        partition: queue.
        account: account to charge.
        qos: quality of service.
        constraint: required features of the nodes.
        setup: shell commands before the start, such as "module load cuda".
        options: other options of sbatch, by name.
    """

    name: str = "cora"
    machines: int = 1
    processes: int = 1
    device: Literal["cpu", "cuda"] = "cuda"
    cpus_per_process: int = 8
    memory_gb: float | None = None
    minutes: int = 24 * 60
    restarts: int = 10
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()
    options: Mapping[str, str | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least("SlurmConfig", self, machines=1, processes=1, cpus_per_process=1, minutes=1, restarts=0)


class ResumableTraining:
    """The callable of the job. submitit submits it again after the time limit, and it resumes from the run folder.

    Args:
        function: argument of `cora.training.engine.launch`.
        processes: processes on each machine.
        machines: number of machines.
        device: "cpu" or "cuda".
    """

    def __init__(self, *, function: Callable[[Engine], Any], processes: int, machines: int, device: Device) -> None:
        self.function, self.processes, self.machines, self.device = function, processes, machines, device

    def __call__(self) -> Any:
        """Run the function in the processes of this machine; called by submitit in the job."""
        return launch(self.function, processes=self.processes, machines=self.machines, device=self.device)

    def checkpoint(self) -> Any:
        """Called by submitit before the job is ended: submit it again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit_slurm(
    function: Callable[[Engine], Any],
    *,
    folder: Path,
    config: SlurmConfig,
    cluster: Literal["slurm", "local", "debug"] = "slurm",
) -> Any:
    """Submit a job that runs ``function(engine)`` in every process.

    Slurm's `srun` starts ``config.machines * config.processes`` processes. The function must be importable on the nodes
    (or be a `functools.partial` of such a function) and resume from its run folder, as `train` does.

    Args:
        function: runs in every process.
        folder: for the job's script, logs and result, on a disk that the nodes share.
        config: resources of the job.
        cluster: "slurm"; to try a job out, "local" runs it in the background on this machine, "debug" in this process.

    Returns:
        submitit's job: `job_id`, `result()`, `stdout()`, `cancel()`.

    Raises:
        MissingExtraError: without the extra `slurm`.
        TrainingError: this machine has no Slurm.
    """
    submitit = _submitit()
    limits = {"slurm_max_num_timeout": config.restarts} if cluster == "slurm" else {}
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **limits)
    except RuntimeError as error:
        raise TrainingError(f"expected Slurm's commands on this machine, got: {error}; use a login node") from error
    executor.update_parameters(**_parameters(config, cluster))
    training = ResumableTraining(
        function=function, processes=config.processes, machines=config.machines, device=config.device
    )
    return executor.submit(training)


def _submitit() -> Any:
    """Import submitit without its logging configuration, which would close all existing handlers."""
    before = os.environ.get("SUBMITIT_LOG_LEVEL")
    os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"
    try:
        with needs_extra("submitting to Slurm", extra="slurm"):
            import submitit
    finally:
        # The job inherits the environment.
        del os.environ["SUBMITIT_LOG_LEVEL"]
        if before is not None:
            os.environ["SUBMITIT_LOG_LEVEL"] = before
    return submitit


def _parameters(config: SlurmConfig, cluster: str) -> dict[str, Any]:
    # Without Slurm, submitit starts one process, in which `launch` starts the others.
    tasks = config.processes if cluster == "slurm" else 1
    common = {
        "name": config.name,
        "nodes": config.machines,
        "tasks_per_node": tasks,
        "gpus_per_node": config.processes if config.device == "cuda" else 0,
        "cpus_per_task": config.cpus_per_process,
        "timeout_min": config.minutes,
        "mem_gb": config.memory_gb,
    }
    special = {
        "slurm_partition": config.partition,
        "slurm_account": config.account,
        "slurm_qos": config.qos,
        "slurm_constraint": config.constraint,
        "slurm_setup": list(config.setup) or None,
        "slurm_additional_parameters": dict(config.options) or None,
        # If one process fails, end the others, which would wait for it.
        "slurm_srun_args": ["--kill-on-bad-exit=1"],
    }
    given = {name: value for name, value in common.items() if value is not None}
    return given | {name: value for name, value in special.items() if value is not None}
