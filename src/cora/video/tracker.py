"""From images to tracks: detect, join, name by history, and spare what an earlier frame has told already."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from cora.detector import Detector
from cora.draw import draw_boxes, numbered_colour
from cora.images import ImageSource, read_image
from cora.predictor import Exemplars, Predictor, Tiles
from cora.regions import Classes, Vocabulary
from cora.video.byte_track import ByteTrack
from cora.video.history import ClassHistory
from cora.video.reuse import ChangeGate
from cora.video.sightings import SAME_OBJECT, Sightings, merge_classes
from cora.video.smoothing import BoxSmoother, Corners

#: Boxes with this share of the wanted score may continue a track, not start one.
_WEAK = 0.5
_MOST_BOXES = 300
#: Chosen by benchmarks/flicker.py; the numbers are in docs/video.md.
SMOOTH_SECONDS = 0.2


@dataclass(frozen=True)
class TrackedObject:
    """One object in one frame.

    Attributes:
        track: number of its track, from 1.
        name: its class by the history of the track.
        score: 0..1, of its best class in this frame.
        box_xyxy_px: corners in pixels; smoothed along the track where `frame_box_xyxy_px` is given.
        frame_name: its class by this frame alone.
        frame_box_xyxy_px: its box by this frame alone; None where boxes are not smoothed.
    """

    track: int
    name: str
    score: float
    box_xyxy_px: Corners
    frame_name: str
    frame_box_xyxy_px: Corners | None = None


@dataclass
class _Track:
    """What is remembered of a track: its classes, its box, and the time and number of the frame it was last seen in."""

    history: ClassHistory
    smoother: BoxSmoother | None = None
    seconds: float = 0.0
    frame: int = 0


@dataclass(frozen=True)
class TrackedFrame:
    """What is in one frame.

    Attributes:
        objects: best first.
        reused: whether they were found in an earlier frame that looked the same.
    """

    objects: tuple[TrackedObject, ...]
    reused: bool


class ObjectTracker:
    """Finds named objects in successive images and follows them.

    Class names are encoded once, here.

    Args:
        detector: what finds the objects.
        classes: names to look for, or a vocabulary that was encoded before; as in `Predictor.predict`.
        score: only objects that were seen with a higher score, 0..1, start a track; None takes the model's own
            threshold.
        rate: images in a second, about.
        reuse: grey levels, 0..255; where no part of an image differs by more from the last one that was looked at,
            what was found there holds. 0 looks at every image.
        half_life: seconds after which a sighting counts half for the class of its track.
        margin: a track changes its class when the sightings of another one sum up to this many times those of its own.
        lost_seconds: seconds for which a track waits for its object to appear again.
        smooth: seconds over which the box of an object that stands still is averaged, less for one that moves; 0 for
            boxes as the detector gives them.
        class_agnostic: boxes of different classes are one object where they overlap by more than the model's own
            suppression threshold; else only where they nearly coincide. None for the built-in vocabulary only.
        distractors: names of other things that compete with the classes; None takes the model's own choice.
        class_weights: factor by name on a class's score in anchor pre-matching.
        exemplars: images of classes by name; of classes among the names, or of further ones.
        tiles: overlapping parts of an image that are looked at, too, for small objects.

    Raises:
        VocabularyError: the names are unusable.
        ImageError: an image of an exemplar cannot be read.
        MissingExtraError: the extra `video` is not installed.

    Examples:
        >>> tracker = ObjectTracker(cora.load("nano"), ["cup", "spoon"], score=0.5)
        >>> for seconds in (0.0, 0.1):  # a track begins with the second sighting
        ...     for found in tracker.update(Image.open("coffee.jpg"), seconds).objects:
        ...         print(seconds, found.track, found.name)
        0.1 1 cup
    """

    def __init__(
        self,
        detector: Predictor | Detector,
        classes: Classes | Vocabulary | None = None,
        *,
        score: float | None = None,
        rate: float = 30.0,
        reuse: float = 0.0,
        half_life: float = 2.0,
        margin: float = 1.5,
        lost_seconds: float = 1.0,
        smooth: float = SMOOTH_SECONDS,
        class_agnostic: bool | None = None,
        distractors: Sequence[str] | None = None,
        class_weights: Mapping[str, float] | None = None,
        exemplars: Exemplars | None = None,
        tiles: Tiles | None = None,
    ) -> None:
        if not 0 <= smooth < math.inf:
            raise ValueError(f"smooth: expected 0 or more seconds, got {smooth}")
        self._detector, self._tiles = Predictor.of(detector), tiles
        self._vocabulary = self._detector.vocabulary(
            classes, distractors=distractors, class_weights=class_weights, exemplars=exemplars
        )
        self.score = self._detector.score_of(score, built_in=self._vocabulary.built_in)
        self._tracks = ByteTrack(start_score=self.score, rate=rate, lost_seconds=lost_seconds)
        self._gate = ChangeGate(reuse)
        self._half_life, self._margin, self._lost_seconds = half_life, margin, lost_seconds
        self._smooth = smooth
        self.class_agnostic = self._vocabulary.built_in if class_agnostic is None else class_agnostic
        self._same_object = self._detector.config.postprocess.nms_iou if self.class_agnostic else SAME_OBJECT
        self._most = getattr(self._detector, "fixed_max_detections", None) or _MOST_BOXES
        self._sightings: Sightings | None = None
        self._frame = 0
        self._known: dict[int, _Track] = {}

    @property
    def vocabulary(self) -> Vocabulary:
        """The names that are looked for, encoded."""
        return self._vocabulary

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names that are looked for."""
        return self._vocabulary.names

    def update(self, picture: ImageSource, seconds: float) -> TrackedFrame:
        """Objects of the next image.

        Args:
            picture: path, Pillow image or uint8 RGB array, of the same size each time.
            seconds: its time in the video, later than that of the last.

        Returns:
            The objects that are tracked in this image, boxes in its pixels.
        """
        image = read_image(picture)
        self._frame += 1
        looked = self._gate.changed(image) or self._sightings is None
        if looked:
            self._sightings = self.look(image)
        assert self._sightings is not None
        seen = self._sightings
        numbers = self._tracks.update(seen.boxes_xyxy_px, seen.scores, seconds)
        objects = [self._object(row, number, seconds, fresh=looked) for row, number in enumerate(numbers) if number > 0]
        self._forget(seconds)
        return TrackedFrame(tuple(objects), reused=not looked)

    def look(self, picture: ImageSource) -> Sightings:
        """Boxes of one image with the scores of all classes, by itself."""
        found = self._detector.predict(
            picture, self._vocabulary, score=_WEAK * self.score, max_detections=self._most, tiles=self._tiles
        )
        return merge_classes(found, same_object=self._same_object)

    def _object(self, row: int, number: int, seconds: float, *, fresh: bool) -> TrackedObject:
        assert self._sightings is not None
        scores = self._sightings.class_scores[row]
        known = self._known.get(number)
        if known is None or fresh:  # what was counted once is no second sighting
            known = known or _Track(ClassHistory(len(scores), half_life=self._half_life, margin=self._margin))
            known.history.add(scores, seconds)
        left, top, right, bottom = self._sightings.boxes_xyxy_px[row].tolist()
        seen = left, top, right, bottom
        if self._smooth and known.frame != self._frame - 1:  # new, or not seen in the last frame: no mean over a gap
            known.smoother = BoxSmoother(self._smooth)
        box = seen if known.smoother is None else known.smoother.add(seen, seconds)
        known.seconds, known.frame = seconds, self._frame
        self._known[number] = known
        names = self.class_names
        return TrackedObject(
            track=number,
            name=names[known.history.label],
            score=float(scores.max()),
            box_xyxy_px=box,
            frame_name=names[int(scores.argmax())],
            frame_box_xyxy_px=None if known.smoother is None else seen,
        )

    def _forget(self, seconds: float) -> None:
        """Tracks that have ended: a camera runs for days."""
        ended = [n for n, track in self._known.items() if seconds - track.seconds > 2 * self._lost_seconds + 1]
        for number in ended:
            del self._known[number]


def draw_objects(picture: Image.Image, objects: Sequence[TrackedObject], *, fill: float = 0.0) -> Image.Image:
    """A copy of an image with boxes in the colours of their tracks; labels say number of the track, class and score.

    Args:
        picture: RGB image.
        objects: of this image.
        fill: opacity 0..1 of the track's colour inside the boxes.
    """
    return draw_boxes(
        picture,
        [found.box_xyxy_px for found in objects],
        [found.name for found in objects],
        [found.score for found in objects],
        captions=[f"#{found.track} {found.name}" for found in objects],
        colours=[numbered_colour(found.track) for found in objects],
        fill=fill,
    )
