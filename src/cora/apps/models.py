"""`cora models`: what `--model` takes by name, and what a model file is: a detector, or only a tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cora.apps.command import Command
from cora.apps.options import argument

if TYPE_CHECKING:
    from cora.detector import DetectorConfig

_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    """Options of `cora models`."""

    files: Sequence[Path] = argument(nargs="*", metavar="FILE", help="model files to tell about, too")


def run(options: ModelsOptions) -> int:
    """Print the known models and the files; returns the exit code 0.

    Raises:
        ModelError: the file of an embedded model, or one of the files, cannot be read.
    """
    from rich.table import Table

    from cora.console import output_console
    from cora.detector.checkpoint import read_config
    from cora.detector.presets import EMBEDDED
    from cora.towers import default_tag, known_towers
    from cora.towers.download import is_cached

    columns = ("name", "size", "score threshold", "distractors", "what it is")
    detectors, towers = Table(*columns), Table("name", "size", "weights", "what it is")
    for table in (detectors, towers):
        table.columns[0].overflow = "fold"
    for name, model in EMBEDDED.items():
        detectors.add_row(name, *_facts(name), model.about)
    for file in options.files:
        config, shared = read_config(file)
        size = _size(file, shared)
        if config.untrained:
            towers.add_row(str(file), size, "in the file", f"{_tower(config)}; its localizer is untrained.")
        else:
            post = config.postprocess
            detectors.add_row(
                str(file), size, f"{post.score_threshold:g}", post.distractors, f"A detector on {_tower(config)}."
            )
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


def _size(file: Path, shared: str | None) -> str:
    size = f"{file.stat().st_size / _MB:.1f} MB"
    return size if shared is None else f"{size}, the rest in {shared}"


def _facts(name: str) -> tuple[str, str, str]:
    """Size, score threshold and distractors of an embedded model."""
    from cora.detector.checkpoint import read_config
    from cora.detector.presets import embedded_file, has_embedded

    if not has_embedded(name):
        return "not in this package", "", ""
    with embedded_file(name) as file:
        config, shared = read_config(file)
        size = _size(file, shared)
    return size, f"{config.postprocess.score_threshold:g}", config.postprocess.distractors


COMMAND = Command(
    name="models",
    options=ModelsOptions,
    run=run,
    help="list the known models",
    description="List the known models: what can detect, and apart from it what is only a tower.",
)
