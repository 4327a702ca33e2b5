"""The description beside an exported file whose format has no place for it."""

from __future__ import annotations

from pathlib import Path

from cora.errors import ModelError
from cora.export.manifest import MAX_TEXT, Manifest
from cora.export.onnx_file import check_size
from cora.files import found_instead


def write_description(manifest: Manifest, path: Path) -> None:
    """Write the description of an exported file into the .json file beside it."""
    path.with_suffix(".json").write_text(manifest.to_json() + "\n", encoding="utf-8")


def read_description(path: Path) -> Manifest:
    """Read the description beside an exported file; neither file is trusted.

    Raises:
        ModelError: it is missing or too large, or `cora export` did not write it.
    """
    description = path.with_suffix(".json")
    check_beside(description, path)
    check_size(description, MAX_TEXT)
    try:
        text = description.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{description}: expected a description in JSON, got {found_instead(description, error)}"
        ) from None
    return Manifest.from_json(text, str(description))


def check_beside(part: Path, path: Path) -> None:
    """Check that a file that belongs to an exported one is there.

    Args:
        part: the file that belongs to it.
        path: of the exported file, for the message.

    Raises:
        ModelError: it is missing.
    """
    if not part.is_file():
        raise ModelError(
            f"model {path}: expected {part.name} beside it, as `cora export` wrote it, got none; keep the files of "
            "an export together"
        )
