"""The folder of a batch's results, in which files are whole or missing, whenever the process is killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cora.files import write_whole


@dataclass(frozen=True)
class ResultFolder:
    """A folder that one process at a time writes to.

    Unfinished files always have the same name, in the run folder, so that the next process replaces what a killed one
    left.
    """

    path: Path

    @property
    def parts(self) -> Path:
        """The run folder: inputs, finished parts, unfinished files."""
        return self.path / "batch"

    def write(self, name: str, fill: Callable[[Path], object]) -> Path:
        """Let `fill` write a temporary file, then rename it.

        Args:
            name: path below the folder, with forward slashes.
            fill: writes the file at the path that it is given.

        Returns:
            The path of the file.

        Raises:
            CoraError: the file cannot be written (permission, full disk).
        """
        place = self.path / name
        write_whole(place, fill, temporary=self.parts / f"unfinished{place.suffix}")
        return place

    def write_text(self, name: str, content: str) -> Path:
        """Write a text file in UTF-8, as `write` does."""
        return self.write(name, lambda file: file.write_text(content, encoding="utf-8", newline=""))

    def remove(self, *names: str) -> None:
        """Remove files of an earlier run, if they are there."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)
