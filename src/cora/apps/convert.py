"""`cora convert`: a published checkpoint becomes one file that `cora.load` reads."""

from pathlib import Path

from cora.apps.progress import output_console, say
from cora.detector.published import load_published
from cora.errors import ModelError


def convert(*, checkpoint: Path, output: Path) -> int:
    """Read a published checkpoint, write a model file; returns the exit code 0.

    Raises:
        ModelError: the checkpoint cannot be read or has another shape, or the output has another suffix.
    """
    if output.suffix != ".safetensors":
        raise ModelError(f"expected an output file *.safetensors, got {output}; change its suffix")
    if not checkpoint.is_file():
        raise ModelError(f"expected a checkpoint file, got no file at {checkpoint}; check the path")
    load_published(checkpoint).save(output)
    say(output_console(), f"Wrote {output}; use it with --model {output}")
    return 0
