"""Run a command in one process, in several, or as a Slurm job, as its options say."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cora.apps.device import pick_device
from cora.console import output_console, say
from cora.training.engine import Engine, check_started, launch
from cora.training.override import override
from cora.training.slurm import SlurmConfig, submit_slurm

#: What every process does.
Work = Callable[[Engine], Any]


def run_together(args: argparse.Namespace, prepare: Callable[[], Work]) -> int:
    """Do the work in the processes that the options ask for; returns the exit code 0.

    Args:
        args: with device, processes and machines.
        prepare: checks input and gives the work, which other processes can import.

    Raises:
        CoraError: bad input, or what a process raises.
    """
    device = pick_device(args.device)
    check_started(processes=args.processes, machines=args.machines)
    work = prepare()
    if args.processes == args.machines == 1:
        work(Engine(device=device))
    else:
        kind: Any = args.device if args.device == "auto" else device.type
        launch(work, processes=args.processes, machines=args.machines, device=kind)
    return 0


def submit(
    args: argparse.Namespace, prepare: Callable[[], Work], *, folder: Path, restarts: int = SlurmConfig.restarts
) -> int:
    """Check everything here, then leave the work to Slurm; returns the exit code 0.

    Args:
        args: with device, processes, machines and the job's settings as `slurm`.
        prepare: checks input and gives the work, which other processes can import.
        folder: of the job's script and logs.
        restarts: after the time limit, unless the job's settings say how many.

    Raises:
        CoraError: bad input, or no Slurm here; nothing was written.
    """
    # This machine need not have the GPUs that the job is to get.
    kind: Any = "cpu" if args.device == "cpu" else "cuda"
    usual = SlurmConfig(machines=args.machines, processes=args.processes, device=kind, restarts=restarts)
    config = override(usual, args.slurm)
    job = submit_slurm(prepare(), folder=folder, config=config)
    say(output_console(), f"Submitted job {job.job_id}; its script and logs are in {folder}")
    return 0
