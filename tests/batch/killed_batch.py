"""Labels images in a process that is killed again and again (SIGKILL), at the worst moments, and goes on each time.

python -m tests.batch.killed_batch PICTURES FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cora.batch import ExportSettings, ReviewSettings
from tests.batch.fake import FakeModel, label

EXPORT = ExportSettings(format="yolo", photos="copy", review=ReviewSettings(low=0.2, high=0.5, margin=0.1))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KilledModel(FakeModel):
    """Ends its process at the image of this number, counted from 1."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def predict(self, images: Any, classes: Any, **options: Any) -> Any:
        if self.seen + len(images) >= self.last:
            kill()
        return super().predict(images, classes, **options)


def at_picture(last: int) -> Callable[[Path, Path], None]:
    return lambda pictures, folder: run(pictures, folder, model=KilledModel(last))


def at_rename(name: str, count: int = 1) -> Callable[[Path, Path], None]:
    """When a file is written beside the place that it is to have and does not have it yet."""

    def start(pictures: Path, folder: Path) -> None:
        replace, seen = Path.replace, [0]

        def counted(self: Path, target: Any) -> Path:
            seen[0] += Path(target).name == name
            if seen[0] == count:
                kill()
            return replace(self, target)

        Path.replace = counted  # type: ignore[method-assign]
        run(pictures, folder)

    return start


def run(pictures: Path, folder: Path, **options: Any) -> None:
    label(pictures, folder, export=EXPORT, **options)


#: In the order in which the run meets them.
DEATHS = (
    at_rename("inputs.jsonl"),  # before there is a manifest
    at_rename("manifest.json"),
    at_picture(3),  # before the first part
    at_rename("0000000.jsonl"),
    at_picture(6),
    at_rename("0000002.jsonl"),
    at_rename("003.txt"),  # while labels are written
    at_rename("data.yaml"),
    at_rename("unreadable.csv"),
    at_rename("boxes.csv"),
)


def main(pictures: Path, folder: Path) -> None:
    # Children of a process that computed in several threads may not compute.
    torch.set_num_threads(1)
    for number, death in enumerate(DEATHS):
        child = os.fork()
        if child == 0:
            death(pictures, folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            sys.exit(f"death {number} did not happen: status {status}")
    run(pictures, folder)
    run(pictures, folder.with_name("unharmed"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
