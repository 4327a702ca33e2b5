"""Tracks objects through images: detects them, joins boxes to tracks, smooths classes and boxes along each track."""

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

#: Boxes with at least this share of the score that starts a track can continue one.
_WEAK_SHARE = 0.5
_MAX_BOXES = 300
#: Chosen by benchmarks/flicker.py; the numbers are in docs/video.md.
SMOOTH_SECONDS = 0.2


@dataclass(frozen=True)
class TrackedObject:
    """One object in one frame.

    Attributes:
        track: number of its track, from 1.
        name: class of the track, from all of its frames so far.
        score: score of the best class in this frame, 0..1.
        box_xyxy_px: corners in pixels; smoothed along the track unless `frame_box_xyxy_px` is None.
        frame_name: best class in this frame alone.
        frame_box_xyxy_px: corners in this frame before smoothing; None where boxes are not smoothed.
    """

    track: int
    name: str
    score: float
    box_xyxy_px: Corners
    frame_name: str
    frame_box_xyxy_px: Corners | None = None


@dataclass
class _Track:
    """State of a track; `seconds` and `frame` are the time and number of the last frame in which it was seen."""

    history: ClassHistory
    smoother: BoxSmoother | None = None
    seconds: float = 0.0
    frame: int = 0


@dataclass(frozen=True)
class TrackedFrame:
    """The tracked objects of one frame.

    Attributes:
        objects: best first.
        reused: whether they are those of an earlier frame that looked the same.
    """

    objects: tuple[TrackedObject, ...]
    reused: bool


class ObjectTracker:
    """Finds named objects in successive images and follows them.

    The constructor encodes the class names; updates do not.

    Args:
        detector: finds the objects.
        classes: names to look for, or a vocabulary that was encoded before; as in `Predictor.predict`.
        score: score, 0..1, above which an object starts a track; None takes the model's own threshold.
        rate: approximate number of images a second.
        reuse: grey levels, 0..255; an image of which no part differs by more from the last one on which the detector
            ran gets the objects of that one. 0 runs the detector on every image.
        half_life: seconds after which the scores of an image count half for the class of a track.
        margin: factor by which the sum of another class's scores must exceed that of the track's class to replace it.
        lost_seconds: seconds for which a track waits for its object to appear again.
        smooth: seconds over which the box of an object that stands still is averaged; less for one that moves. 0 leaves
            boxes as the detector gives them.
        class_agnostic: boxes of different classes count as one object where they overlap by more than the model's own
            suppression threshold, and not only where they nearly coincide. None does so for the built-in vocabulary.
        distractors: names of other things that compete with the classes; None takes the model's own choice.
        class_weights: class name -> factor on its score in anchor pre-matching.
        exemplars: class name -> images that define the class, alone or beside its name.
        tiles: overlapping parts of an image on which the detector runs, too, for small objects.

    Raises:
        VocabularyError: the names are unusable.
        ImageError: an exemplar cannot be read.
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
        self._byte_track = ByteTrack(start_score=self.score, rate=rate, lost_seconds=lost_seconds)
        self._gate = ChangeGate(reuse)
        self._half_life, self._margin, self._lost_seconds = half_life, margin, lost_seconds
        self._smooth = smooth
        self.class_agnostic = self._vocabulary.built_in if class_agnostic is None else class_agnostic
        self._same_object = self._detector.config.postprocess.nms_iou if self.class_agnostic else SAME_OBJECT
        self._max_detections = getattr(self._detector, "fixed_max_detections", None) or _MAX_BOXES
        self._sightings: Sightings | None = None
        self._frame = 0
        self._known: dict[int, _Track] = {}

    @property
    def vocabulary(self) -> Vocabulary:
        """The class names to look for, encoded."""
        return self._vocabulary

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names to look for."""
        return self._vocabulary.names

    def update(self, picture: ImageSource, seconds: float) -> TrackedFrame:
        """Track the objects of the next image.

        Args:
            picture: path, Pillow image or uint8 RGB array; all of one size.
            seconds: time of the image in the video, later than that of the last one.

        Returns:
            The tracked objects of this image, with boxes in its pixels.
        """
        image = read_image(picture)
        self._frame += 1
        fresh = self._gate.changed(image) or self._sightings is None
        if fresh:
            self._sightings = self.look(image)
        assert self._sightings is not None
        seen = self._sightings
        numbers = self._byte_track.update(seen.boxes_xyxy_px, seen.scores, seconds)
        objects = [self._object(row, number, seconds, fresh=fresh) for row, number in enumerate(numbers) if number > 0]
        self._drop_ended(seconds)
        return TrackedFrame(tuple(objects), reused=not fresh)

    def look(self, picture: ImageSource) -> Sightings:
        """Detect the objects of one image, without tracking: one box for each, with the scores of all classes."""
        found = self._detector.predict(
            picture,
            self._vocabulary,
            score=_WEAK_SHARE * self.score,
            max_detections=self._max_detections,
            tiles=self._tiles,
        )
        return merge_classes(found, same_object=self._same_object)

    def _object(self, row: int, number: int, seconds: float, *, fresh: bool) -> TrackedObject:
        assert self._sightings is not None
        scores = self._sightings.class_scores[row]
        track = self._known.get(number)
        if track is None or fresh:  # reused scores must not count twice
            track = track or _Track(ClassHistory(len(scores), half_life=self._half_life, margin=self._margin))
            track.history.add(scores, seconds)
        left, top, right, bottom = self._sightings.boxes_xyxy_px[row].tolist()
        seen = left, top, right, bottom
        if self._smooth and track.frame != self._frame - 1:  # new, or not seen in the last frame: no mean over a gap
            track.smoother = BoxSmoother(self._smooth)
        box = seen if track.smoother is None else track.smoother.add(seen, seconds)
        track.seconds, track.frame = seconds, self._frame
        self._known[number] = track
        names = self.class_names
        return TrackedObject(
            track=number,
            name=names[track.history.label],
            score=float(scores.max()),
            box_xyxy_px=box,
            frame_name=names[int(scores.argmax())],
            frame_box_xyxy_px=None if track.smoother is None else seen,
        )

    def _drop_ended(self, seconds: float) -> None:
        """Drop tracks that have ended, since a camera may run for days."""
        ended = [n for n, track in self._known.items() if seconds - track.seconds > 2 * self._lost_seconds + 1]
        for number in ended:
            del self._known[number]


def draw_objects(picture: Image.Image, objects: Sequence[TrackedObject], *, fill: float = 0.0) -> Image.Image:
    """A copy of an image with boxes in the colours of their tracks; captions give track number, class and score.

    Args:
        picture: RGB image.
        objects: tracked objects of this image.
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
