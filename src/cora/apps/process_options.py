"""The options of commands that several processes share; `processes.py` starts them."""

from __future__ import annotations

import argparse

from cora.apps.argument_types import positive


def add_process_options(parser: argparse.ArgumentParser, *, again: str) -> None:
    """How many processes there are, and whether Slurm starts them; `again`: what a job that was stopped does."""
    parser.add_argument("--processes", type=positive, default=1, metavar="N", help="on each machine, one a GPU")
    parser.add_argument("--machines", type=positive, default=1, metavar="N", help="in all, started by torchrun or srun")
    parser.add_argument(
        "--slurm",
        nargs="*",
        metavar="KEY=VALUE",
        help=f"submit a Slurm job that does this and {again}; partition=gpu, minutes=600, account, qos, constraint, "
        "cpus_per_process, memory_gb, restarts, name",
    )
