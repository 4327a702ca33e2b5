"""What a detector finds in one image, in the forms that people work with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cora.draw import class_colours, draw_boxes
from cora.errors import CoraError, OptionError, VocabularyError, needs_extra
from cora.files import write_picture
from cora.images import Size, is_url, read_image

_DRAWN_SUFFIXES = (".jpg", ".jpeg", ".png")
_NO_SIZE: Size = (0, 0)
#: Names up to which a class has one colour in all drawings.
_SAME_COLOURS = 100

Rows = int | slice | Sequence[int] | Sequence[bool] | NDArray[Any] | Tensor
"""Which detections: a number, a slice, a mask of K truth values, or a list of numbers; negative ones from the end."""


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """Labelled boxes of one image, best first.

    `detections[0]`, `detections[:5]`, `detections[detections.scores > 0.5]` and `detections[[2, 0]]` are detections
    again; iterating yields (name, score, box). Two are equal if they hold the same boxes, scores, labels, class names
    and image size, wherever the image came from.

    Attributes:
        boxes_xyxy_px: [K, 4] float32, corners in pixels of the original image.
        scores: [K] float32 in 0..1.
        labels: [K] int64, index into `class_names`.
        class_names: the names that were searched for.
        image_size: (height, width) of the original image.
        image: the image itself where it was kept, for drawing.
        path: where the image came from, if from a file.

    Examples:
        >>> found = Detections(torch.tensor([[0.0, 0, 9, 9], [2, 2, 5, 5]]), torch.tensor([0.9, 0.4]),
        ...                    torch.tensor([1, 0]), ("cat", "dog"), (20, 30))
        >>> found.filter(score=0.5)
        Detections(1 in 30 x 20: dog 0.90)
    """

    boxes_xyxy_px: Tensor
    scores: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    image_size: Size
    image: Image.Image | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        for name, dtype in (("boxes_xyxy_px", torch.float32), ("scores", torch.float32), ("labels", torch.int64)):
            object.__setattr__(self, name, _ordinary(getattr(self, name), dtype))
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "image_size", tuple(self.image_size))
        count = self.scores.shape[0]
        if not bool(self.scores.isfinite().all()):
            raise ValueError("detections: expected scores in 0..1, got one that is no number")
        if self.boxes_xyxy_px.shape != (count, 4) or self.labels.shape != (count,):
            raise ValueError(
                f"detections: expected boxes [{count}, 4] and labels [{count}] for {count} scores, "
                f"got {list(self.boxes_xyxy_px.shape)} and {list(self.labels.shape)}"
            )
        if count and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.class_names):
            raise ValueError(
                f"detections: expected labels in 0..{len(self.class_names) - 1}, "
                f"got {int(self.labels.min())}..{int(self.labels.max())}"
            )

    @classmethod
    def empty(cls, class_names: Sequence[str] = (), image_size: Size = _NO_SIZE) -> Self:
        """Detections of an image in which nothing was found.

        Args:
            class_names: the names that were searched for.
            image_size: (height, width) of the image in pixels.
        """
        return cls(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), tuple(class_names), image_size)

    @classmethod
    def merge(cls, several: Iterable[Detections]) -> Detections:
        """All detections of one image together, best first; nothing is suppressed.

        Class names are joined in the order in which they appear; image and path are those of the first that has them.
        Where there is nothing to merge the result is `empty()`.

        Args:
            several: of one image, for the same or for different class names.

        Raises:
            ValueError: they are of images of different sizes.

        Examples:
            >>> found = cora.load("nano").predict("coffee.jpg", ["cup", "spoon"], score=0.2)
            >>> Detections.merge([found[1:], found[:1]]) == found
            True
        """
        if isinstance(several, Detections):
            raise TypeError("merge: expected a list of Detections, got one; put it in a list")
        parts = list(several)
        sizes = list(dict.fromkeys(part.image_size for part in parts if part.image_size != _NO_SIZE))
        if len(sizes) > 1:
            got = " and ".join(f"{width} x {height}" for height, width in sizes[:2])
            raise ValueError(f"merge: expected detections of one image, got those of images of {got} pixels")
        place = {name: number for number, name in enumerate(dict.fromkeys(n for p in parts for n in p.class_names))}
        none = cls.empty()
        scores = torch.cat([none.scores, *(part.scores.cpu() for part in parts)])
        boxes = torch.cat([none.boxes_xyxy_px, *(part.boxes_xyxy_px.cpu() for part in parts)])
        labels = torch.tensor([place[name] for part in parts for name in part.names], dtype=torch.int64)
        order = scores.argsort(descending=True, stable=True)
        return cls(
            boxes_xyxy_px=boxes[order],
            scores=scores[order],
            labels=labels[order],
            class_names=tuple(place),
            image_size=sizes[0] if sizes else _NO_SIZE,
            image=next((part.image for part in parts if part.image is not None), None),
            path=next((p.path for p in parts if p.path is not None and (p.image_size != _NO_SIZE or not sizes)), None),
        )

    def __len__(self) -> int:
        return self.scores.shape[0]

    def __iter__(self) -> Iterator[tuple[str, float, tuple[float, float, float, float]]]:
        """Yield (name, score, (x1, y1, x2, y2) in pixels), best first."""
        for name, score, box in zip(self.names, self.scores.tolist(), self.boxes_xyxy_px.tolist(), strict=True):
            yield name, score, (box[0], box[1], box[2], box[3])

    def __getitem__(self, rows: Rows) -> Detections:
        """Some of the detections, in the order asked for.

        Raises:
            IndexError: a number beyond the last detection, or a mask of another length.
            TypeError: something that is no number, slice, mask or list of numbers.
        """
        index = _index(rows, len(self)).to(self.scores.device)
        return replace(
            self, boxes_xyxy_px=self.boxes_xyxy_px[index], scores=self.scores[index], labels=self.labels[index]
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        return (
            self.class_names == other.class_names
            and tuple(self.image_size) == tuple(other.image_size)
            and all(
                torch.equal(getattr(self, name).cpu(), getattr(other, name).cpu())
                for name in ("boxes_xyxy_px", "scores", "labels")
            )
        )

    def __hash__(self) -> int:
        return hash((len(self), self.class_names, tuple(self.image_size)))

    def __repr__(self) -> str:
        best = ", ".join(f"{name} {score:.2f}" for name, score, _ in self[:3])
        more = ", ..." if len(self) > 3 else ""
        height, width = self.image_size
        source = f" {self.path!r}" if self.path is not None else ""
        return f"Detections({len(self)} in{source} {width} x {height}{': ' if best else ''}{best}{more})"

    @property
    def names(self) -> list[str]:
        """Class name of every detection, in their order."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def filter(self, *, score: float | None = None, classes: str | Sequence[str] | None = None) -> Detections:
        """The detections with a score above a threshold and of some classes; the class names stay as they are.

        Args:
            score: score threshold, 0..1: only detections above it are kept, as `predict(score=...)` does.
            classes: a name or several, of those that were searched for.

        Raises:
            VocabularyError: a name that was not searched for.

        Examples:
            >>> found = cora.load("nano").predict("coffee.jpg", ["cup", "spoon"], score=0.2)
            >>> found.filter(score=0.5, classes="cup").names
            ['cup']
        """
        keep = torch.ones(len(self), dtype=torch.bool, device=self.scores.device)
        if score is not None:
            keep &= self.scores > score
        if classes is not None:
            wanted = [classes] if isinstance(classes, str) else list(classes)
            unknown = [name for name in wanted if name not in self.class_names]
            if unknown:
                raise VocabularyError(
                    f"filter: expected names that were searched for ({', '.join(self.class_names)}), "
                    f"got {unknown[0]!r}; search for it"
                )
            known = [number for number, name in enumerate(self.class_names) if name in wanted]
            keep &= torch.isin(self.labels, torch.tensor(known, dtype=torch.int64, device=self.labels.device))
        return self[keep]

    def draw(
        self,
        image: Image.Image | str | Path | None = None,
        *,
        path: str | Path | None = None,
        fill: float = 0.0,
    ) -> Image.Image:
        """A copy of the image with boxes, names and scores; `draw("found.jpg")` writes it to a file, too.

        A class has one colour in the drawings of all detections with the same class names; of more than a hundred names
        only those in the drawing are considered.

        Args:
            image: stands in where none was kept; a file name here means the same as `path`.
            path: file to write, JPEG or PNG; a file of that name is replaced.
            fill: opacity 0..1 of the class's colour inside the boxes.

        Returns:
            An RGB image of the size of the original.

        Raises:
            ValueError: no image was kept, none is given, and it came from no file.
            OptionError: the image is of another size than that of the boxes.
            ImageError: the file that the image came from cannot be read any more.
            CoraError: the file cannot be written, or is the image itself.

        Examples:
            >>> cora.load("nano").predict("coffee.jpg", ["cup"]).draw("boxes.jpg", fill=0.2).size
            (600, 400)
        """
        if isinstance(image, str | Path):
            image, path = None, image if path is None else path
        if path is not None:
            self._check_target(Path(path))
        picture = self._picture() if image is None else read_image(image)
        if self.image_size not in (_NO_SIZE, (picture.height, picture.width)):
            height, width = self.image_size
            raise OptionError(
                f"draw: expected the image of {width} x {height} pixels that the boxes are of, got one of "
                f"{picture.width} x {picture.height}; resize it"
            )
        # There are twenty colours: in a long list two classes that an image has would often share one.
        colours = class_colours(self.class_names if len(self.class_names) <= _SAME_COLOURS else self.names)
        drawn = draw_boxes(
            picture,
            self.boxes_xyxy_px,
            self.names,
            self.scores,
            colours=[colours[name] for name in self.names],
            fill=fill,
        )
        if path is not None:
            write_picture(Path(path), drawn)
        return drawn

    def _picture(self) -> Image.Image:
        if self.image is not None:
            return self.image
        if self.path is None or is_url(self.path):
            raise ValueError("draw: expected an image, got detections that kept none; pass the image: draw(image)")
        return read_image(self.path)

    def _check_target(self, path: Path) -> None:
        if path.suffix.lower() not in _DRAWN_SUFFIXES:
            raise CoraError(f"draw: expected a file name that ends in .jpg or .png, got {path}")
        if self.path is not None and path.resolve() == Path(self.path).resolve():
            raise CoraError(f"draw: expected another file than the image itself, got {path}; choose another name")

    def to_coco(self, image_id: int = 1, category_ids: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
        """The detections as COCO results, best first.

        Args:
            image_id: of the image in its annotation file.
            category_ids: class name -> id; None takes label + 1.

        Returns:
            For each detection a dict of image_id, category_id, bbox (x, y, width, height in pixels) and score.

        Raises:
            KeyError: a detection is of a class that `category_ids` lacks.

        Examples:
            >>> box, score, label = torch.tensor([[2.0, 1, 9, 5]]), torch.tensor([0.5]), torch.tensor([0])
            >>> found = Detections(box, score, label, class_names=("cat",), image_size=(8, 9))
            >>> found.to_coco(image_id=7)
            [{'image_id': 7, 'category_id': 1, 'bbox': [2.0, 1.0, 7.0, 4.0], 'score': 0.5}]
        """
        results: list[dict[str, Any]] = []
        for label, (name, score, (x1, y1, x2, y2)) in zip(self.labels.tolist(), self, strict=True):
            category = label + 1 if category_ids is None else category_ids[name]
            bbox = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image_id, "category_id": category, "bbox": bbox, "score": score})
        return results

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, with the class names in `data["class_name"]`.

        Raises:
            MissingExtraError: the extra `supervision` is not installed.
        """
        with needs_extra("Detections.to_supervision", extra="supervision"):
            import supervision
        return supervision.Detections(
            xyxy=self.boxes_xyxy_px.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=self.labels.cpu().numpy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )


def _ordinary(values: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of this type that may be changed, compared and converted: not of inference mode, without gradient."""
    with torch.inference_mode(False):
        tensor = torch.as_tensor(values)
        return (tensor.clone() if tensor.is_inference() else tensor.detach()).to(dtype)


def _index(rows: Rows, count: int) -> Tensor:
    """Numbers of rows 0..count - 1 as int64 [M]."""
    if isinstance(rows, slice):
        return torch.tensor(range(count)[rows], dtype=torch.int64)
    try:
        index = torch.as_tensor(rows)
    except (TypeError, ValueError, RuntimeError):
        index = torch.zeros(1)  # refused below
    if index.numel() == 0 and index.dtype != torch.bool:
        index = index.long()  # an empty list has no type of its own
    numbers = not (index.dtype.is_floating_point or index.dtype.is_complex)
    if not numbers or index.ndim > 1 or (index.ndim == 0 and index.dtype == torch.bool):
        got = f"{type(rows).__name__} {rows!r}"
        raise TypeError(f"detections: expected a number, slice, mask or list of numbers, got {got[:80]}")
    if index.dtype == torch.bool:
        if len(index) != count:
            raise IndexError(f"detections: expected a mask of {count} truth values, got {len(index)}")
        return index.nonzero()[:, 0]
    index = index.reshape(-1).long()
    outside = index[(index < -count) | (index >= count)]
    if len(outside):
        raise IndexError(f"detections: expected a number below {count}, got {int(outside[0])}")
    return torch.where(index < 0, index + count, index)
