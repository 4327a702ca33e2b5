"""The run folder of a batch: its inputs, its settings, and the results of the parts that are done.

    batch/manifest.json   settings and a hash of the list of inputs
    batch/inputs.jsonl    the inputs, one image a line (`Item`)
    batch/0000000.jsonl   results of the first part, one image a line (`Record`)

The file of a part is there whole or not at all, so a run that resumes computes the parts whose files are missing. One
process writes all files, whichever engine computes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cora
from cora.batch.items import Item
from cora.batch.listing import Listing, list_inputs
from cora.batch.records import Record
from cora.batch.result_folder import ResultFolder
from cora.batch.settings import DetectSettings
from cora.errors import CoraError, DataError
from cora.files import lock

_VERSION = 1
_MANIFEST, _INPUTS, _LOCK = "manifest.json", "inputs.jsonl", "lock"
#: Images of a part at least and at most, and the number of parts to aim at between these. A stopped run loses one part
#: for each process at most, so parts are small; but each is a file.
_SMALLEST_PART, _LARGEST_PART, _USUAL_PARTS = 4, 128, 64


@dataclass(frozen=True, kw_only=True)
class Job:
    """A batch whose folder is open; see `open_job`.

    Attributes:
        folder: folder of the results.
        root: folder that the names of images are relative to.
        count: number of images.
        part_size: images of a part; the last one may have fewer.
        settings: settings of detection.
        starts: byte position in the list of inputs at which each part begins.
    """

    folder: ResultFolder
    root: Path
    count: int
    part_size: int
    settings: DetectSettings
    starts: tuple[int, ...]

    def missing(self) -> list[int]:
        """Numbers of the parts that are not done yet, from 0."""
        done = {entry.name for entry in os.scandir(self.folder.parts)}
        return [part for part in range(len(self.starts)) if _part_name(part) not in done]

    def size_of(self, part: int) -> int:
        """Number of images of a part."""
        return min(self.part_size, self.count - part * self.part_size)

    def items(self, part: int) -> list[Item]:
        """The images of a part."""
        with (self.folder.parts / _INPUTS).open("rb") as file:
            file.seek(self.starts[part])
            first = part * self.part_size + 1
            return [Item.from_line(file.readline(), first + place) for place in range(self.size_of(part))]

    def item(self, number: int) -> Item:
        """The image with this number, from 1."""
        part, place = divmod(number - 1, self.part_size)
        return self.items(part)[place]

    def save(self, part: int, lines: str) -> None:
        """Write the results of a part, whole or not at all.

        Raises:
            CoraError: it cannot be written.
        """
        self.folder.write_text(f"{self.folder.parts.name}/{_part_name(part)}", lines)

    def results(self) -> Iterator[tuple[Item, Record]]:
        """Every image with its record, in the order of the inputs; one part at a time is in memory.

        Raises:
            DataError: a part is missing or damaged.
        """
        for part in range(len(self.starts)):
            path = self.folder.parts / _part_name(part)
            try:
                with path.open(encoding="ascii") as file:
                    records = [Record.from_line(line) for line in file]
            except (OSError, ValueError, TypeError) as error:
                raise DataError(f"{path} cannot be read ({error}); delete it and run the command again") from None
            items = self.items(part)
            if [record.number for record in records] != [item.number for item in items]:
                raise DataError(
                    f"{path}: expected the results of {len(items)} images, got others; delete it and run again"
                )
            yield from zip(items, records, strict=True)


@contextmanager
def open_job(folder: Path, sources: Sequence[str], settings: DetectSettings) -> Iterator[Job]:
    """List the inputs, and begin a batch in a folder or resume the one that is there; for one process at a time.

    Args:
        folder: a new or empty folder, or that of an earlier run with the same inputs and settings.
        sources: the inputs; see `list_inputs`.
        settings: settings of detection; where a run is resumed, `keep` may be higher than its own, which is used.

    Raises:
        DataError: there are no inputs, the folder belongs to other inputs or settings, or it is not that of a batch.
        CoraError: another process works on the batch.
    """
    _check_folder(folder)
    new = not folder.exists()
    results = ResultFolder(folder)
    results.parts.mkdir(parents=True, exist_ok=True)
    with lock(results.parts / _LOCK) as held:
        if not held:
            raise CoraError(
                f"expected a batch that nobody works on, got one that another process is doing: {folder}; "
                "wait for it, or stop it"
            )
        fresh = results.parts / f"{_INPUTS}.new"
        try:
            listing = list_inputs(sources, file=fresh, exclude=folder)
            manifest = _read_manifest(folder)
            if manifest is None:
                part_size = max(_SMALLEST_PART, min(_LARGEST_PART, listing.count // _USUAL_PARTS))
                fresh.replace(results.parts / _INPUTS)
                content = _manifest(listing, settings, sources, part_size)
                results.write_text(f"{results.parts.name}/{_MANIFEST}", json.dumps(content, indent=1) + "\n")
            else:
                part_size = manifest["inputs"]["pictures_a_part"]
                settings = _resumed_settings(manifest, listing, settings, folder)
                if not (results.parts / _INPUTS).exists():
                    fresh.replace(results.parts / _INPUTS)  # somebody deleted it; the inputs are still the same
        finally:
            fresh.unlink(missing_ok=True)
            if not (results.parts / _MANIFEST).exists():
                _clear(results, remove_folder=new)
        starts = _starts(results.parts / _INPUTS, part_size)
        yield Job(
            folder=results,
            root=listing.root,
            count=listing.count,
            part_size=part_size,
            settings=settings,
            starts=starts,
        )


def kept_score(folder: Path) -> float | None:
    """The lowest score that the batch in a folder keeps; None if there is no batch yet.

    Raises:
        DataError: the manifest in the folder is not that of a batch.
    """
    manifest = _read_manifest(folder)
    return None if manifest is None else float(manifest["settings"]["keep"])


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"expected a folder for the results, got a file: {folder}; name another")
    if folder.is_dir() and _read_manifest(folder) is None:
        # A run that was killed while it listed its inputs leaves nothing but the folder of its parts.
        others = [entry.name for entry in os.scandir(folder) if entry.name != ResultFolder(folder).parts.name]
        if others:
            raise DataError(
                f"expected a new or empty folder, or that of an earlier batch, got {others[0]!r} in {folder}; "
                "name another"
            )


def _clear(folder: ResultFolder, *, remove_folder: bool) -> None:
    """Remove what was made for a batch that cannot begin."""
    for name in (_LOCK, _INPUTS):
        (folder.parts / name).unlink(missing_ok=True)
    if not any(folder.parts.iterdir()):
        folder.parts.rmdir()
        if remove_folder:
            folder.path.rmdir()


def _part_name(part: int) -> str:
    return f"{part:07d}.jsonl"


def _manifest(listing: Listing, settings: DetectSettings, sources: Sequence[str], part_size: int) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "cora": cora.__version__,
        "settings": settings.to_json(),
        "inputs": {
            "sources": list(sources),
            "root": str(listing.root),
            "pictures": listing.count,
            "pictures_a_part": part_size,
            "sha256": listing.digest,
        },
    }


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = ResultFolder(folder).parts / _MANIFEST
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["version"]
        if version == _VERSION:
            content["settings"]["keep"], content["inputs"]["sha256"], content["inputs"]["pictures_a_part"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no manifest of a batch ({error!r}); name another folder") from None
    if version != _VERSION:
        raise DataError(f"{path}: expected version {_VERSION}, got {version}; finish it with the cora that began it")
    return content  # type: ignore[no-any-return]


def _resumed_settings(
    manifest: Mapping[str, Any], listing: Listing, settings: DetectSettings, folder: Path
) -> DetectSettings:
    """The settings of the batch that is resumed.

    Raises:
        DataError: the batch began with other settings or inputs.
    """
    before, now = dict(manifest["settings"]), settings.to_json()
    kept = before.pop("keep")
    if now.pop("keep") < kept:
        raise DataError(
            f"{folder}: expected scores of {kept:g} or more, which is what this batch keeps, got {settings.keep:g}; "
            "raise the thresholds, or begin in another folder"
        )
    for name, difference in _differences(before, now):
        other = "other" if name.endswith("s") and " " not in name else "another"
        raise DataError(
            f"{folder}: expected the settings that its batch began with, got {other} {name} ({difference}); "
            "repeat that command, or begin in another folder"
        )
    if manifest["inputs"]["sha256"] != listing.digest:
        count = manifest["inputs"]["pictures"]
        what = f"{listing.count} images instead of {count}" if listing.count != count else "other names or sizes"
        raise DataError(
            f"{folder}: expected the inputs that its batch began with, got {what}; "
            "give the same inputs, or begin in another folder"
        )
    return DetectSettings(**{**vars(settings), "keep": kept})


def _differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, description) of every setting that differs, also of those in mappings."""
    for name in before | now:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new)
        elif old != new:
            yield name, f"{_short(new)}, it has {_short(old)}"


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _starts(path: Path, part_size: int) -> tuple[int, ...]:
    starts, position = [], 0
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if number % part_size == 0:
                starts.append(position)
            position += len(line)
    return tuple(starts)
