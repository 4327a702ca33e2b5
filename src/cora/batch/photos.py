"""Links or copies images beside their labels, for formats whose readers look for them there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cora.batch.items import Item
from cora.batch.result_folder import ResultFolder
from cora.batch.settings import Photos
from cora.errors import CoraError


def place_photo(item: Item, *, root: Path, folder: ResultFolder, within: str, how: Photos) -> None:
    """Put an image into a folder under the stem of its label file; a copy or link that is there already stays.

    Args:
        item: the image; one in a shard is always copied.
        root: folder that its name is relative to.
        folder: folder of the results.
        within: folder for the images, below that of the results.
        how: "link" (symbolic, to the absolute path) or "copy".

    Raises:
        CoraError: it cannot be written.
    """
    name, source = f"{within}/{item.target}", (root / item.name).absolute()
    target = folder.path / name
    if item.shard:
        if not _is_copy(target, item):
            folder.write(name, lambda file: file.write_bytes(item.content(root)))
    elif how == "copy":
        if not _is_copy(target, item):
            folder.write(name, lambda file: shutil.copyfile(source, file))
    elif not (target.is_symlink() and os.readlink(target) == str(source)):
        _link(source, target, folder.parts / "unfinished-link")


def _is_copy(target: Path, item: Item) -> bool:
    return target.is_file() and not target.is_symlink() and target.stat().st_size == item.size


def _link(source: Path, target: Path, beside: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        beside.symlink_to(source)
        beside.replace(target)
    except OSError as error:
        reason = error.strerror or error
        raise CoraError(f"expected to link {target}, got {reason}; copy the images instead") from None
