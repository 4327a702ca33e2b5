"""The folder of a batch's results: files are there whole or not at all, whenever the process is killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cora.files import write_whole


@dataclass(frozen=True)
class ResultFolder:
    """A folder that one process at a time writes to.

    Unfinished files have one name, in a folder of their own: the next process replaces what a killed one left there.
    """

    path: Path

    @property
    def parts(self) -> Path:
        """Folder of what is no result for the user: inputs, finished parts, unfinished files."""
        return self.path / "batch"

    def write(self, name: str, fill: Callable[[Path], object]) -> Path:
        """Let `fill` write an unfinished file, then move it to its place.

        Args:
            name: path in the folder, with slashes.
            fill: writes the file that it is given.

        Returns:
            The place.

        Raises:
            CoraError: the file cannot be written (permission, full disk).
        """
        place = self.path / name
        write_whole(place, fill, temporary=self.parts / f"unfinished{place.suffix}")
        return place

    def write_text(self, name: str, content: str) -> Path:
        """The same for a text in UTF-8."""
        return self.write(name, lambda file: file.write_text(content, encoding="utf-8", newline=""))

    def remove(self, *names: str) -> None:
        """Remove files of an earlier run, where they are."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)
