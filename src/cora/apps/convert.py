"""`cora convert`: a published checkpoint, or CLIP's weights, become one file that `cora.load` reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cora.apps import kinds
from cora.apps.command import set_command
from cora.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_GIGA = 1e9


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`cora convert` and its arguments."""
    parser = commands.add_parser(
        "convert",
        help="turn a published checkpoint, or CLIP's weights, into a model file",
        description="Turn a checkpoint that the published main.py wrote into a model file, or CLIP's weights (OpenAI's "
        "RN50.pt, a state dict, open_clip's) into one whose localizer is still to train.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="published checkpoint (.pth), or CLIP's weights")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT.safetensors", help="model file to write")
    parser.add_argument(
        "--weights",
        choices=("ema", "model"),
        help="of a published checkpoint: those averaged over training (model_ema), or those of the last step (default: "
        "the averaged ones where it has some)",
    )
    parser.add_argument(
        "--prompt", type=Path, metavar="FILE", help="a released region prompt, such as region_prompt_R50.pth, to put in"
    )
    parser.add_argument(
        "--gelu",
        action="store_true",
        help="the text tower of CLIP's weights has GELU (open_clip models trained without -quickgelu)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        help="to store (default: float16 where every weight fits into it exactly, else float32)",
    )
    set_command(parser, run, output=kinds.MODEL)


def run(args: argparse.Namespace) -> int:
    """Convert one file; returns the exit code."""
    return convert(
        checkpoint=args.checkpoint,
        output=args.output,
        weights=args.weights,
        prompt=args.prompt,
        gelu=args.gelu,
        dtype=args.dtype,
    )


def convert(
    *,
    checkpoint: Path,
    output: Path,
    weights: Literal["ema", "model"] | None = None,
    prompt: Path | None = None,
    gelu: bool = False,
    dtype: str | None = None,
) -> int:
    """Read a file of another program, write a model file; returns the exit code 0.

    Raises:
        ModelError: the file cannot be read or has another shape, or the output has another suffix.
        CoraError: the output cannot be written.
    """
    import torch

    from cora.console import output_console, say
    from cora.detector import load_foreign

    if output.suffix != ".safetensors":
        raise ModelError(f"expected an output file *.safetensors, got {output}; change its suffix")
    if not checkpoint.is_file():
        raise ModelError(f"expected a checkpoint file, got no file at {checkpoint}; check the path")
    detector = load_foreign(checkpoint, weights=weights, prompt=prompt, gelu=gelu)
    exact = all(_fits_half(value) for value in detector.state_dict().values())
    stored = dtype or ("float16" if exact else "float32")
    detector.save(output, dtype=getattr(torch, stored))
    size = f"{output.stat().st_size / _GIGA:.2f} GB, {stored}"
    if detector.config.untrained:
        say(
            output_console(),
            f"Wrote {output} ({size}): towers only. Its localizer is untrained: it cannot detect before 'cora train'; "
            f"'cora region-accuracy --model {output}' needs none",
        )
    else:
        say(output_console(), f"Wrote {output} ({size}); use it with --model {output}")
    return 0


def _fits_half(value: Tensor) -> bool:
    return not value.is_floating_point() or bool((value.half().to(value.dtype) == value).all())
