"""Joining, naming, reusing: each part by itself, then the tracker."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from cora.draw import numbered_colour
from cora.errors import MissingExtraError
from cora.structures import Detections
from cora.video import ObjectTracker, TrackedObject, draw_objects
from cora.video.byte_track import ByteTrack
from cora.video.history import ClassHistory
from cora.video.reuse import ChangeGate, grey_cells, largest_change
from cora.video.sightings import merge_classes
from cora.video.smoothing import LAG, BoxSmoother
from cora.video.summary import TrackSummaries
from tests.video.clips import scene
from tests.video.conftest import FakeDetector

NAMES = ("cat", "dog")


def detections(*found: tuple[list[float], float, int]) -> Detections:
    return Detections(
        boxes_xyxy_px=torch.tensor([box for box, _, _ in found]).reshape(-1, 4),
        scores=torch.tensor([score for _, score, _ in found]),
        labels=torch.tensor([label for _, _, label in found], dtype=torch.int64),
        class_names=NAMES,
        image_size=(100, 100),
    )


class TestMergeClasses:
    def test_boxes_in_one_place_become_one_with_all_scores(self) -> None:
        here, nearly, elsewhere = [0.0, 0, 10, 10], [0.0, 0, 10, 9], [50.0, 50, 60, 60]
        seen = merge_classes(detections((here, 0.9, 1), (elsewhere, 0.8, 0), (nearly, 0.5, 0), (nearly, 0.4, 1)))
        assert seen.boxes_xyxy_px.tolist() == [here, elsewhere]
        torch.testing.assert_close(seen.class_scores, torch.tensor([[0.5, 0.9], [0.8, 0.0]]))
        torch.testing.assert_close(seen.scores, torch.tensor([0.9, 0.8]))

    def test_neighbours_and_empty_boxes_stay_apart(self) -> None:
        seen = merge_classes(
            detections(([0.0, 0, 10, 10], 0.9, 0), ([5.0, 0, 15, 10], 0.8, 1), ([3.0, 3, 3, 3], 0.7, 0))
        )
        assert len(seen) == 3

    def test_nothing(self) -> None:
        seen = merge_classes(detections())
        assert (len(seen), seen.class_scores.shape, seen.scores.shape) == (0, (0, 2), (0,))


class TestClassHistory:
    def test_wavering_shows_its_mean(self) -> None:
        history = ClassHistory(2)
        labels = []
        for number in range(12):
            history.add(torch.tensor([0.3, 0.6]) if number % 3 == 2 else torch.tensor([0.6, 0.3]), number / 10)
            labels.append(history.label)
        assert labels == [0] * 12

    def test_old_sightings_fade(self) -> None:
        def label_after(seconds: float) -> int:
            history = ClassHistory(2, half_life=1.0, margin=1)
            for _ in range(3):
                history.add(torch.tensor([1.0, 0.0]), 0.0)
            history.add(torch.tensor([0.0, 1.0]), seconds)
            return history.label

        assert label_after(1.5) == 0  # 3 * 2^-1.5 = 1.06
        assert label_after(1.7) == 1  # 3 * 2^-1.7 = 0.92

    def test_equals_take_no_turns(self) -> None:
        history = ClassHistory(2, margin=1.25)
        labels = []
        for number in range(20):
            history.add(torch.tensor([0.6, 0.5]) if number % 2 else torch.tensor([0.5, 0.6]), number / 10)
            labels.append(history.label)
        assert labels == [1] * 20
        for number in range(20, 26):
            history.add(torch.tensor([0.6, 0.0]), number / 10)
        assert history.label == 0

    def test_settings_are_checked(self) -> None:
        with pytest.raises(ValueError, match="expected seconds above 0, got 0"):
            ClassHistory(2, half_life=0)
        with pytest.raises(ValueError, match=r"expected 1 or more, got 0\.5"):
            ClassHistory(2, margin=0.5)


class TestBoxSmoother:
    RATE = 30

    def run(self, lefts: Sequence[float], seconds: float = 0.2, side: float = 100.0) -> np.ndarray:
        """Left sides [T] after smoothing those of a square."""
        smoother = BoxSmoother(seconds)
        boxes = [(left, 50.0, left + side, 50.0 + side) for left in lefts]
        return np.array([smoother.add(box, number / self.RATE)[0] for number, box in enumerate(boxes)])

    def test_a_box_that_wavers_in_place_calms_down(self) -> None:
        seen = 200 + np.random.default_rng(0).normal(0, 1, 300)
        smooth = self.run(list(seen))
        assert np.abs(np.diff(smooth, 2)).mean() < 0.3 * np.abs(np.diff(seen, 2)).mean()
        assert np.abs(smooth[30:] - 200).mean() < 0.6 * np.abs(seen[30:] - 200).mean()

    def test_a_box_that_stands_still_stays(self) -> None:
        smoother = BoxSmoother(0.5)
        assert {smoother.add((3.0, 5.0, 8.0, 9.0), time / 7) for time in range(20)} == {(3.0, 5.0, 8.0, 9.0)}

    @pytest.mark.parametrize("seconds", [0.1, 0.5, 5.0])
    @pytest.mark.parametrize("speed", [0.2, 2.0, 20.0])  # sides a second
    def test_lag_is_bounded_whatever_the_speed(self, speed: float, seconds: float) -> None:
        lefts = 100 * speed * np.arange(300) / self.RATE
        smooth = self.run(list(lefts), seconds)
        assert (lefts - smooth)[-1] == pytest.approx(0, abs=100 * LAG)
        assert (lefts - smooth)[-1] > 0

    def test_size_and_rate_of_the_video_do_not_matter(self) -> None:
        lefts = np.cumsum(np.random.default_rng(1).normal(0, 1, 40))
        once = self.run(list(lefts), side=80.0)
        np.testing.assert_allclose(3 * once, self.run(list(3 * lefts), side=240.0))

    def test_after_a_long_time_the_new_box_holds(self) -> None:
        smoother = BoxSmoother(0.2)
        smoother.add((0.0, 0.0, 10.0, 10.0), 0.0)
        assert smoother.add((1.0, 0.0, 11.0, 10.0), 1000.0) == pytest.approx((1, 0, 11, 10), abs=1e-3)

    @pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
    def test_settings_are_checked(self, seconds: float) -> None:
        with pytest.raises(ValueError, match="expected a number above 0"):
            BoxSmoother(seconds)


class TestByteTrack:
    @staticmethod
    def moving(number: int) -> torch.Tensor:
        left = 10.0 + 2 * number
        return torch.tensor([[left, 10, left + 20, 30], [80 - left, 60, 110 - left, 90]])

    def test_two_objects_keep_their_numbers(self) -> None:
        tracks = ByteTrack(start_score=0.3, rate=10)
        numbers = [tracks.update(self.moving(n), torch.tensor([0.6, 0.5]), n / 10) for n in range(6)]
        assert numbers[0] == [0, 0]
        assert sorted(numbers[1]) == [1, 2]
        assert numbers[1:] == [numbers[1]] * 5

    def test_weak_boxes_continue_tracks_and_start_none(self) -> None:
        tracks = ByteTrack(start_score=0.3, rate=10)
        scores = [torch.tensor([0.6, 0.2]), torch.tensor([0.6, 0.2]), torch.tensor([0.2, 0.2])]
        numbers = [tracks.update(self.moving(n), score, n / 10) for n, score in enumerate(scores)]
        assert numbers == [[0, 0], [1, 0], [1, 0]]

    @pytest.mark.parametrize(("gap", "same"), [(0.4, True), (1.5, False)])
    def test_patience_counts_seconds_not_pictures(self, gap: float, same: bool) -> None:
        tracks = ByteTrack(start_score=0.3, rate=10, lost_seconds=0.5)
        box, score, none = torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([0.6]), torch.zeros(0, 4)
        for time in (0.0, 0.1, 0.2):
            before = tracks.update(box, score, time)
        tracks.update(none, torch.zeros(0), 0.3)
        after = [tracks.update(box, score, 0.2 + gap + step) for step in (0.0, 0.1)][-1]
        assert (before == after) is same

    def test_nothing_at_all(self) -> None:
        tracks = ByteTrack(start_score=0.3)
        assert [tracks.update(torch.zeros(0, 4), torch.zeros(0), n / 10) for n in range(3)] == [[], [], []]

    def test_library_that_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "trackers", None)
        with pytest.raises(MissingExtraError, match=r"tracking needs .*cora-ovd\[video\]"):
            ByteTrack(start_score=0.3)


class TestChangeGate:
    @staticmethod
    def picture(square: int, level: int = 255, noise: int = 0) -> Image.Image:
        pixels = np.random.default_rng(square).integers(100, 101 + noise, (360, 640, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        ImageDraw.Draw(image).rectangle((square, 100, square + 12, 112), fill=(level,) * 3)
        return image

    def test_small_object_that_moves_counts(self) -> None:
        gate = ChangeGate(4)
        assert [gate.changed(self.picture(x)) for x in (50, 50, 65, 65)] == [True, False, True, False]

    def test_noise_does_not(self) -> None:
        gate = ChangeGate(4)
        still = [
            Image.fromarray(np.random.default_rng(n).integers(100, 121, (360, 640, 3), dtype=np.uint8))
            for n in range(5)
        ]
        assert [gate.changed(picture) for picture in still] == [True, False, False, False, False]

    def test_slow_changes_add_up(self) -> None:
        gate = ChangeGate(4)
        changes = [gate.changed(Image.new("RGB", (64, 48), (level,) * 3)) for level in range(100, 111)]
        assert changes == [True, *[False] * 4, True, *[False] * 4, True]

    def test_zero_means_always(self) -> None:
        gate = ChangeGate(0)
        assert [gate.changed(self.picture(50)) for _ in range(3)] == [True] * 3

    def test_cells(self, white: Image.Image) -> None:
        assert grey_cells(white.resize((640, 360))).shape == (36, 64)
        assert grey_cells(white.resize((3, 900))).shape == (64, 1)
        assert grey_cells(white).max() == 255
        assert largest_change(grey_cells(white), grey_cells(white.resize((640, 360)))) == float("inf")


class TestObjectTracker:
    def test_labels_hold_where_single_pictures_waver(self, detector: FakeDetector) -> None:
        tracker, summaries = ObjectTracker(detector, NAMES, score=0.3, rate=10), TrackSummaries()
        assert tracker.class_names == NAMES
        for number in range(12):
            found = tracker.update(scene(number), number / 10)
            assert not found.reused
            summaries.add(found.objects, number / 10)
        (track,) = summaries.tracks
        assert (track.name, track.frames, track.first_seconds, track.last_seconds) == ("cat", 11, 0.1, 1.1)
        assert track.best_score == pytest.approx(0.6)
        # In the first images of a track two classes may be about equal, and the first seen one holds.
        assert summaries.switches_per_track()[0] == 7
        assert summaries.switches_per_track()[1] <= 1
        (last,) = found.objects
        assert last.frame_box_xyxy_px == (32, 14, 52, 34)
        assert last.box_xyxy_px == pytest.approx((32, 14, 52, 34), abs=20 * LAG)
        assert (last.name, last.frame_name) == ("cat", "dog")

    def test_names_are_encoded_once_with_all_options(self, detector: FakeDetector) -> None:
        tracker = ObjectTracker(detector, NAMES, score=0.4, distractors=["tree"], class_weights={"cat": 2})
        for number in range(3):
            tracker.update(scene(number), number / 10)
        assert detector.encoded == 1
        assert detector.asked[0] == {"distractors": ["tree"], "class_weights": {"cat": 2}, "exemplars": None}
        assert detector.asked[1]["score"] == pytest.approx(0.2)

    def test_reuse_spares_the_detector_and_keeps_tracks(self, detector: FakeDetector) -> None:
        tracker = ObjectTracker(detector, NAMES, score=0.3, rate=10, reuse=4)
        found = [tracker.update(scene(0), number / 10) for number in range(40)]
        assert detector.calls == 1
        assert [frame.reused for frame in found] == [False, *[True] * 39]
        assert {o.track for frame in found[1:] for o in frame.objects} == {1}
        moved = tracker.update(scene(9), 4.0)
        assert detector.calls == 2
        assert not moved.reused

    def test_reused_sightings_count_once(self, detector: FakeDetector) -> None:
        tracker = ObjectTracker(detector, NAMES, score=0.3, rate=10, reuse=4, half_life=1000)
        for number in range(30):
            tracker.update(scene(0), number / 10)
        assert tracker._known[1].history._recent.tolist() == pytest.approx([0.6, 0.5])

    @pytest.mark.parametrize("smooth", [0.0, 1.0])
    def test_smoothing_and_gaps(self, detector: FakeDetector, smooth: float) -> None:
        tracker = ObjectTracker(detector, NAMES, score=0.3, rate=10, smooth=smooth)
        empty = np.zeros((48, 64, 3), np.uint8)
        found = [tracker.update(empty if number == 7 else scene(number), number / 10).objects for number in range(12)]
        boxes = {number: objects[0] for number, objects in enumerate(found) if objects}
        assert sorted(boxes) == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]
        assert {one.track for one in boxes.values()} == {1}
        lags = {number: 10 + 2 * number - one.box_xyxy_px[0] for number, one in boxes.items()}
        if not smooth:
            assert set(lags.values()) == {0}
            assert {one.frame_box_xyxy_px for one in boxes.values()} == {None}
            return
        assert [number for number, lag in lags.items() if lag == 0] == [1, 8]  # at the start and after the gap
        assert all(0 < lag < 2 for number, lag in lags.items() if number not in (1, 8))
        assert all(one.frame_box_xyxy_px == (10 + 2 * n, 14, 30 + 2 * n, 34) for n, one in boxes.items())

    def test_class_agnostic_joins_what_overlaps_less(self, detector: FakeDetector) -> None:
        far = [detections(([0.0, 0, 10, 10], 0.9, 0), ([0.0, 0, 10, 6], 0.8, 1))] * 3
        for class_agnostic, count in ((False, 2), (True, 1)):
            tracker = ObjectTracker(detector, NAMES, score=0.3, rate=10, class_agnostic=class_agnostic)
            detector.predict = lambda *_, **__: far[0]  # type: ignore[method-assign]
            frames = [tracker.update(scene(0), number / 10).objects for number in range(3)]
            assert [len(objects) for objects in frames[1:]] == [count, count]
            assert frames[-1][0].name == "cat"

    @pytest.mark.parametrize("smooth", [-0.1, float("nan"), float("inf")])
    def test_impossible_smoothing_is_refused(self, detector: FakeDetector, smooth: float) -> None:
        with pytest.raises(ValueError, match="smooth: expected 0 or more seconds"):
            ObjectTracker(detector, NAMES, smooth=smooth)

    def test_ended_tracks_are_forgotten(self, detector: FakeDetector) -> None:
        tracker = ObjectTracker(detector, NAMES, score=0.3, rate=10)
        for number in range(3):
            tracker.update(scene(number), number / 10)
        for number in range(60):
            tracker.update(np.zeros((48, 64, 3), np.uint8), 1 + number / 10)
        assert tracker._known == {}

    @pytest.mark.slow
    @pytest.mark.needs_shared
    def test_real_detector(self, shared: Path) -> None:
        import cora
        from cora.video import VideoReader

        tracker = ObjectTracker(cora.load("nano"), ["person", "bowl"], score=0.08)
        with VideoReader(shared / "kit" / "videos" / "store-aisle-detection.gif", every=3, seconds=0.8) as video:
            found = [tracker.update(frame.pixels, frame.seconds) for frame in video]
        names = {o.name for frame in found for o in frame.objects}
        assert "person" in names


def test_drawing(white: Image.Image) -> None:
    found = TrackedObject(track=3, name="cat", score=0.5, box_xyxy_px=(4, 20, 60, 44), frame_name="dog")
    drawn = draw_objects(white, [found])
    assert drawn.size == white.size
    assert drawn.tobytes() != white.tobytes()
    assert draw_objects(white, []).tobytes() == white.tobytes()


def test_one_colour_a_track() -> None:
    places = {1: (10, 40, 50, 90), 2: (80, 40, 120, 90), 21: (150, 40, 190, 90), 22: (220, 40, 260, 90)}
    black = Image.new("RGB", (300, 120))
    for order, name, score in (([1, 2, 21, 22], "cat", 0.9), ([22, 2, 1], "dog", 0.3), ([21], "cup", 0.5)):
        found = [
            TrackedObject(track=track, name=name, score=score, box_xyxy_px=places[track], frame_name="cat")
            for track in order
        ]
        drawn = draw_objects(black, found)
        for track in order:
            left, top, _, bottom = places[track]
            assert drawn.getpixel((left, (top + bottom) // 2)) == numbered_colour(track)
