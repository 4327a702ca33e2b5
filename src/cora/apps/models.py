"""`cora models` lists what `--model` takes; `cora convert` makes such a model of a file of another program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cora.apps import kinds
from cora.apps.command import Command
from cora.apps.options import argument, option, switch
from cora.errors import ModelError

if TYPE_CHECKING:
    from cora.detector import DetectorConfig

_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    """Options of `cora models`."""

    files: Sequence[Path] = argument(nargs="*", metavar="FILE", help="model files to list as well")


def show(options: ModelsOptions) -> int:
    """Print the known models and the files; returns the exit code 0.

    Raises:
        ModelError: the file of an embedded model, or one of the files, cannot be read.
    """
    from rich.table import Table

    from cora.console import output_console
    from cora.detector.presets import EMBEDDED, embedded_file, has_embedded
    from cora.towers import default_tag, known_towers
    from cora.towers.download import is_cached

    columns = ("name", "size", "score threshold", "distractors", "what it is")
    detectors, towers = Table(*columns), Table("name", "size", "weights", "what it is")
    for table in (detectors, towers):
        table.columns[0].overflow = "fold"
    for name, about in EMBEDDED.items():
        facts = ["not in this package", "", ""]
        if has_embedded(name):
            with embedded_file(name) as file:
                facts = _facts(file)[1]
        detectors.add_row(name, *facts, about)
    for file in options.files:
        config, facts = _facts(file)
        if config.untrained:
            towers.add_row(str(file), facts[0], "in the file", f"{_tower(config)}; its localizer is untrained.")
        else:
            detectors.add_row(str(file), *facts, f"A detector on {_tower(config)}.")
    for name in known_towers():
        where = "on this machine" if is_cached(name) else "to download"
        tag = default_tag(name)
        whose = "OpenAI's weights" if tag == "openai" else f"open_clip's weights {tag}"
        towers.add_row(name, "", where, f"CLIP with {whose}.")
    console = output_console()
    console.print("Complete detectors (those by name are inside the package, no download):", soft_wrap=True)
    console.print(detectors)
    console.print(
        "Only towers: they name true boxes ('cora region-accuracy') and detect after 'cora train'.", soft_wrap=True
    )
    console.print(towers)
    console.print("Or the path of a file: from training, or from 'cora convert'.", soft_wrap=True)
    return 0


def _tower(config: DetectorConfig) -> str:
    tower = config.tower
    kind = "ConvNeXt" if tower.family == "convnext" else "ResNet"
    return tower.backbone or f"a CLIP {kind} of {'+'.join(map(str, tower.layers))} blocks, {tower.width} wide"


def _facts(file: Path) -> tuple[DetectorConfig, list[str]]:
    """The configuration of a model file, and the cells of its row: size, score threshold, distractors."""
    from cora.detector.checkpoint import read_config

    config, shared = read_config(file)
    rest = "" if shared is None else f", the rest in {shared}"
    post = config.postprocess
    size = f"{file.stat().st_size / _MB:.1f} MB{rest}"
    return config, [size, f"{post.score_threshold:g}", post.distractors]


MODELS = Command(
    name="models",
    options=ModelsOptions,
    run=show,
    help="list the known models",
    description="List the known models: what can detect, and apart from it what is only a tower.",
)

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


def convert(options: ConvertOptions) -> int:
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
    if options.checkpoint.is_dir():
        raise ModelError(f"expected a checkpoint file, got a folder: {options.checkpoint}; name a file in it")
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
        say(output_console(), f"Wrote {output} ({size}); use it with 'cora detect --model {output}'")
    return 0


CONVERT = Command(
    name="convert",
    options=ConvertOptions,
    run=convert,
    help="turn a published checkpoint, or CLIP's weights, into a model file",
    description="Turn a checkpoint that the published main.py wrote into a model file, or CLIP's weights (OpenAI's "
    "RN50.pt, a state dict, open_clip's) into one whose localizer is still to train.",
)
