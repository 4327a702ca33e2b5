"""From pictures to tracks: detect, join, name by history, and spare what an earlier frame has told already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from cora.draw import draw_boxes, numbered_colour
from cora.images import ImageSource, read_image
from cora.predictor import Exemplars, Predictor, Tiles
from cora.video.byte_track import ByteTrack
from cora.video.history import ClassHistory
from cora.video.reuse import ChangeGate
from cora.video.sightings import Sightings, merge_classes

if TYPE_CHECKING:
    from cora.detector import Detector
    from cora.regions import Classes, Vocabulary

#: Boxes with this share of the wanted score may continue a track, not start one.
_WEAK = 0.5
_MOST_BOXES = 300


@dataclass(frozen=True)
class TrackedObject:
    """One object in one frame.

    Attributes:
        track: number of its track, from 1.
        name: its class by the history of the track.
        score: 0..1, of its best class in this frame.
        box_xyxy_px: corners in pixels.
        frame_name: its class by this frame alone.
    """

    track: int
    name: str
    score: float
    box_xyxy_px: tuple[float, float, float, float]
    frame_name: str


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
    """Finds named objects in successive pictures and follows them.

    Class names are encoded once, here.

    Example:
        >>> tracker = ObjectTracker(cora.load("nano"), ["car", "person"], score=0.1)
        >>> for frame in VideoReader("street.mp4"):
        ...     for found in tracker.update(frame.pixels, frame.seconds).objects:
        ...         print(frame.seconds, found.track, found.name, found.box_xyxy_px)

    Args:
        detector: a detector in evaluation mode.
        classes: names to look for, as in `Predictor.predict`, or a vocabulary that was encoded before.
        score: only objects that were seen with a higher score, 0..1, start a track; None takes the model's own
            threshold.
        rate: usual number of pictures in a second.
        reuse: grey levels, 0..255; where no part of a picture differs by more from the last one that was looked at,
            what was found there holds. 0 looks at every picture.
        half_life: seconds after which a sighting counts half for the class of its track.
        margin: how many times as much must speak for another class before a track changes its own.
        lost_seconds: how long a track waits for its object to appear again.
        distractors: names of other things that compete with the classes; None takes the model's own choice.
        class_weights: factor by name on a class's score in anchor pre-matching.
        exemplars: pictures of classes by name; of classes among the names, or of further ones.
        tiles: overlapping parts of a picture that are looked at, too, for small objects.

    Raises:
        VocabularyError: the names are unusable.
        ImageError: a picture of an exemplar cannot be read.
        MissingExtraError: the extra `video` is not installed.
    """

    def __init__(
        self,
        detector: Predictor | Detector,
        classes: Classes | Vocabulary,
        *,
        score: float | None = None,
        rate: float = 30.0,
        reuse: float = 0.0,
        half_life: float = 2.0,
        margin: float = 1.5,
        lost_seconds: float = 1.0,
        distractors: Sequence[str] | None = None,
        class_weights: Mapping[str, float] | None = None,
        exemplars: Exemplars | None = None,
        tiles: Tiles | None = None,
    ) -> None:
        self._detector, self._tiles = Predictor.of(detector), tiles
        self._vocabulary = self._detector.vocabulary(
            classes, distractors=distractors, class_weights=class_weights, exemplars=exemplars
        )
        self.score = self._detector.score_of(score)
        self._tracks = ByteTrack(start_score=self.score, rate=rate, lost_seconds=lost_seconds)
        self._gate = ChangeGate(reuse)
        self._half_life, self._margin, self._lost_seconds = half_life, margin, lost_seconds
        self._sightings: Sightings | None = None
        self._histories: dict[int, tuple[ClassHistory, float]] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names that are looked for."""
        return self._vocabulary.names

    @property
    def prompts(self) -> tuple[str, ...]:
        """What is looked for under these names where it is something else."""
        return self._vocabulary.prompts

    def update(self, picture: ImageSource, seconds: float) -> TrackedFrame:
        """Objects of the next picture.

        Args:
            picture: path, PIL image or uint8 RGB array, of the same size each time.
            seconds: its time, later than that of the last.
        """
        image = read_image(picture)
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
        """Boxes of one picture with the scores of all classes, by itself."""
        found = self._detector.predict(
            picture, self._vocabulary, score=_WEAK * self.score, max_detections=_MOST_BOXES, tiles=self._tiles
        )
        return merge_classes(found)

    def _object(self, row: int, number: int, seconds: float, *, fresh: bool) -> TrackedObject:
        assert self._sightings is not None
        scores = self._sightings.class_scores[row]
        history = self._histories[number][0] if number in self._histories else None
        if history is None or fresh:  # what was counted once is no second sighting
            history = history or ClassHistory(len(scores), half_life=self._half_life, margin=self._margin)
            history.add(scores, seconds)
        self._histories[number] = (history, seconds)
        left, top, right, bottom = self._sightings.boxes_xyxy_px[row].tolist()
        names = self.class_names
        return TrackedObject(
            track=number,
            name=names[history.label],
            score=float(scores.max()),
            box_xyxy_px=(left, top, right, bottom),
            frame_name=names[int(scores.argmax())],
        )

    def _forget(self, seconds: float) -> None:
        """Histories of tracks that have ended: a camera runs for days."""
        ended = [n for n, (_, seen) in self._histories.items() if seconds - seen > 2 * self._lost_seconds + 1]
        for number in ended:
            del self._histories[number]


def draw_objects(picture: Image.Image, objects: Sequence[TrackedObject], *, fill: float = 0.0) -> Image.Image:
    """A copy of a picture with boxes in the colours of their tracks; labels say number of the track, class and score.

    Args:
        picture: RGB.
        objects: of this picture.
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
