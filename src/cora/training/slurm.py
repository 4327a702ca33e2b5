"""Training as a Slurm job, written and submitted by submitit (docs/scale_out.md)."""

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
    """Resources of a Slurm job; None takes the cluster's default.

    Attributes:
        name: of the job.
        machines: nodes.
        processes: on each of them; with `device` "cuda" as many GPUs.
        device: "cuda" or "cpu".
        cpus_per_process: cores, for the process and its loading workers.
        memory_gb: of a machine.
        minutes: after which Slurm ends the job; it is then queued again and resumes.
        restarts: how often that happens before it is given up; preemption is not counted.
        partition: queue.
        account: who is charged.
        qos: quality of service.
        constraint: features of the nodes.
        setup: shell commands before the start, such as "module load cuda".
        options: any other options of sbatch, by name.
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
    """The function that every process of the job runs. It runs again after a stop and resumes from the run folder.

    Args:
        function: what `cora.training.engine.launch` runs.
        processes: on each machine.
        machines: in all.
        device: "cpu" or "cuda".
    """

    def __init__(self, *, function: Callable[[Engine], Any], processes: int, machines: int, device: Device) -> None:
        self.function, self.processes, self.machines, self.device = function, processes, machines, device

    def __call__(self) -> Any:
        """Run the function in the processes of this machine; called by submitit in the job."""
        return launch(self.function, processes=self.processes, machines=self.machines, device=self.device)

    def checkpoint(self) -> Any:
        """Called by submitit before the job is ended: submit the same once more."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit_slurm(
    function: Callable[[Engine], Any],
    *,
    folder: Path,
    config: SlurmConfig,
    cluster: Literal["slurm", "local", "debug"] = "slurm",
) -> Any:
    """Submit ``function(engine)``, to be run in every process of a job.

    Slurm's `srun` starts ``config.machines * config.processes`` processes. The function must be importable on the
    machines (or `functools.partial` of such a one) and resume from its run folder, as `train` does.

    Args:
        function: what a process does.
        folder: of the job's script, logs and result, on a disk that the machines share.
        config: what to ask Slurm for.
        cluster: "slurm"; "local" runs the job in the background of this machine, "debug" in this process, both to
            try a job out.

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
    """The package, imported so that it leaves logging alone: its configuration would close all handlers there are."""
    before = os.environ.get("SUBMITIT_LOG_LEVEL")
    os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"
    try:
        with needs_extra("submitting to Slurm", extra="slurm"):
            import submitit
    finally:
        # What the job inherits is not ours to change.
        del os.environ["SUBMITIT_LOG_LEVEL"]
        if before is not None:
            os.environ["SUBMITIT_LOG_LEVEL"] = before
    return submitit


def _parameters(config: SlurmConfig, cluster: str) -> dict[str, Any]:
    # On this machine one process of submitit's runs `launch`, which starts the others.
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
        # One failed process ends the others, which would wait for it.
        "slurm_srun_args": ["--kill-on-bad-exit=1"],
    }
    given = {name: value for name, value in common.items() if value is not None}
    return given | {name: value for name, value in special.items() if value is not None}
