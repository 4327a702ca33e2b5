"""`cora models`: what `--model` takes by name."""

from rich.table import Table

from cora.apps.progress import output_console
from cora.detector.checkpoint import read_config
from cora.detector.presets import EMBEDDED, embedded_file, has_embedded, known_models

_MB = 1e6


def list_models() -> int:
    """Print the known models; returns the exit code 0.

    Raises:
        ModelError: the file of an embedded model cannot be read.
    """
    table = Table("name", "size", "score threshold", "distractors", "what it is")
    for name, model in EMBEDDED.items():
        table.add_row(name, *_facts(name), model.about)
    towers = [name for name in known_models() if name not in EMBEDDED]
    console = output_console()
    console.print("Complete detectors inside the package, no download:", soft_wrap=True)
    console.print(table)
    console.print(
        f"CLIP towers with OpenAI's weights (downloaded), whose localizer is still to train: {', '.join(towers)}.",
        soft_wrap=True,
    )
    console.print("Or the path of a file: from training, or from 'cora convert'.", soft_wrap=True)
    return 0


def _facts(name: str) -> tuple[str, str, str]:
    """Size, score threshold and distractors of an embedded model."""
    if not has_embedded(name):
        return "not in this package", "", ""
    with embedded_file(name) as file:
        config, shared = read_config(file)
        size = f"{file.stat().st_size / _MB:.1f} MB"
    shown = size if shared is None else f"{size}, the rest in {shared}"
    return shown, f"{config.postprocess.score_threshold:g}", config.postprocess.distractors
