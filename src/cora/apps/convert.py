"""`cora convert`: a published checkpoint, or CLIP's weights, become one file that `cora.load` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cora.apps import kinds
from cora.apps.command import Command
from cora.apps.options import argument, option, switch
from cora.errors import ModelError

_GIGA = 1e9


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Options of `cora convert`."""

    checkpoint: Path = argument(metavar="FILE", help="published checkpoint (.pth), or CLIP's weights")
    output: Path = option(required=True, writes=kinds.MODEL, metavar="OUT.safetensors", help="model file to write")
    weights: Literal["ema", "model"] | None = option(
        help="of a published checkpoint: those averaged over training (model_ema), or those of the last step (default: "
        "the averaged ones where it has some)"
    )
    prompt: Path | None = option(help="a released region prompt, such as region_prompt_R50.pth, to put in")
    gelu: bool = switch(help="the text tower of CLIP's weights has GELU (open_clip models trained without -quickgelu)")
    dtype: Literal["float16", "float32"] | None = option(
        help="to store (default: float16 where every weight fits into it exactly, else float32)"
    )


def run(options: ConvertOptions) -> int:
    """Read a file of another program, write a model file; returns the exit code 0.

    Raises:
        ModelError: the file cannot be read or has another shape, or the output has another suffix.
        CoraError: the output cannot be written.
    """
    import torch

    from cora.console import output_console, say
    from cora.detector import load_foreign
    from cora.detector.checkpoint import check_model_file, exact_dtype

    output = options.output
    check_model_file(output)
    if not options.checkpoint.is_file():
        raise ModelError(f"expected a checkpoint file, got no file at {options.checkpoint}; check the path")
    detector = load_foreign(options.checkpoint, weights=options.weights, prompt=options.prompt, gelu=options.gelu)
    dtype = exact_dtype(detector.state_dict()) if options.dtype is None else getattr(torch, options.dtype)
    detector.save(output, dtype=dtype)
    size = f"{output.stat().st_size / _GIGA:.2f} GB, {str(dtype).removeprefix('torch.')}"
    if detector.config.untrained:
        say(
            output_console(),
            f"Wrote {output} ({size}): towers only. Its localizer is untrained: it cannot detect before 'cora train'; "
            f"'cora region-accuracy --model {output}' needs none",
        )
    else:
        say(output_console(), f"Wrote {output} ({size}); use it with --model {output}")
    return 0


COMMAND = Command(
    name="convert",
    options=ConvertOptions,
    run=run,
    help="turn a published checkpoint, or CLIP's weights, into a model file",
    description="Turn a checkpoint that the published main.py wrote into a model file, or CLIP's weights (OpenAI's "
    "RN50.pt, a state dict, open_clip's) into one whose localizer is still to train.",
)
