"""`cora models`: what `--model` takes by name."""

from rich.table import Table

from cora.apps.progress import output_console
from cora.detector.presets import EMBEDDED, known_models


def list_models() -> int:
    """Print the known models; returns the exit code 0."""
    table = Table("name", "what it is")
    for name in known_models():
        table.add_row(
            name,
            "complete detector inside the package, no download"
            if name == EMBEDDED
            else "CLIP towers with OpenAI's weights (downloaded); the localizer is still to train",
        )
    console = output_console()
    console.print(table)
    console.print("Or the path of a file: from training, or from 'cora convert'.", soft_wrap=True)
    return 0
