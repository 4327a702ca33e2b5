"""A model without a network, whose boxes depend on the pixels alone, and small images."""

import hashlib
import io
import os
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cora.batch import BatchReport, DetectSettings, ExportSettings, run_batch
from cora.structures import Detections

NAMES = ("cat", "dog", "traffic light")


@dataclass(frozen=True)
class FakeVocabulary:
    names: tuple[str, ...]
    built_in: bool = False

    def __len__(self) -> int:
        return len(self.names)


class FakeModel:
    """Up to five boxes of hashed places, classes and scores; the best two of some share a place."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.seen = 0
        self.batches: list[int] = []

    def vocabulary(self, classes: Sequence[str] | None, **options: Any) -> FakeVocabulary:
        if classes is None:
            return FakeVocabulary(NAMES, built_in=True)
        return FakeVocabulary(tuple(dict.fromkeys((*classes, *(options.get("exemplars") or ())))))

    def predict(self, images: list[Image.Image], classes: Any, **options: Any) -> list[Detections]:
        time.sleep(self.delay)
        self.seen += len(images)
        self.batches.append(len(images))
        return [self._one(image, classes.names, options["score"]) for image in images]

    def _one(self, image: Image.Image, classes: tuple[str, ...], least: float) -> Detections:
        numbers = torch.tensor(list(hashlib.sha256(image.tobytes()).digest()), dtype=torch.float32) / 256
        count = int(numbers[31] * 6)
        scores = numbers[:count].sort(descending=True).values
        places = numbers[5 : 5 + 4 * count].view(count, 4)
        if count > 1 and numbers[30] > 0.5:
            places[1] = places[0]
        size = torch.tensor([image.width, image.height] * 2)
        corners = torch.cat([places[:, :2] * 0.5, places[:, :2] * 0.5 + 0.1 + places[:, 2:] * 0.4], dim=1) * size
        labels = (numbers[25 : 25 + count] * len(classes)).long()
        if count > 1 and bool((places[1] == places[0]).all()):
            labels[1] = (labels[0] + 1) % len(classes)  # readers keep the same box of the same class once
        keep = scores > least
        return Detections(
            boxes_xyxy_px=corners[keep],
            scores=scores[keep],
            labels=labels[keep],
            class_names=classes,
            image_size=(image.height, image.width),
        )


def open_fake(worker: int) -> FakeModel:
    return FakeModel()


def open_slow(folder: Path, delay: float, worker: int) -> FakeModel:
    """Leaves the number of its process in the folder."""
    (folder / f"{os.getpid()}.pid").touch()
    return FakeModel(delay)


def picture(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, (number * 7 % 256, number * 31 % 256, number * 101 % 256))


def write_pictures(folder: Path, count: int, *, bad: Sequence[int] = ()) -> Path:
    """Images of two sizes, some in folders within; those of the numbers `bad` are no images."""
    for number in range(count):
        path = folder / f"{'deep/er/' if number % 3 == 0 else ''}{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number in bad:
            path.write_text("no image")
        else:
            picture(number, (40, 30) if number % 2 else (32, 48)).save(path)
    return folder


def write_shard(path: Path, names: Sequence[str], *, first: int = 0) -> Path:
    """A tar file with an image and a text for every name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, name in enumerate(names, start=first):
            buffer = io.BytesIO()
            picture(number).save(buffer, "PNG")
            for member, content in ((name, buffer.getvalue()), (f"{name}.txt", b"a caption")):
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


def settings(**changes: Any) -> DetectSettings:
    return DetectSettings(**{"classes": NAMES, "keep": 0.1, **changes})


def label(source: Path | str, folder: Path, **options: Any) -> BatchReport:
    """`run_batch` with the fake model; `format` and `settings` are changes of the usual ones."""
    chosen = options.pop("settings", settings())
    export = options.pop("export", ExportSettings())
    options = {"open_model": open_fake, **options}
    return run_batch([str(source)], folder=folder, settings=chosen, export=export, **options)


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but the lock and the manifest, which tells the folder of the inputs."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }
