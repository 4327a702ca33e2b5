"""The report's building blocks, and which images and classes it shows."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from cora.evaluation.base_novel import mean_curve
from cora.evaluation.coco_ap import evaluate_boxes
from cora.evaluation.examples import choose_examples, looked_at, worst_confusions
from cora.evaluation.report import Section, bars, curves, folded, gallery, histogram, page, picture, table
from cora.evaluation.tide import find_errors
from tests.evaluation.coco_data import CLASSES, ground_truth, noisy_results, perfect_results

NAMES = tuple(CLASSES)
_VOID = {"meta", "img", "path", "rect", "br"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and gathers what a page refers to and says."""

    def __init__(self, html):
        super().__init__()
        self.open, self.references, self.text, self.tags = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [v for k, v in attributes if k in ("src", "href", "srcset", "action", "data", "xlink:href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_page_is_whole_and_refers_to_nothing():
    evil = "<script>alert('x')</script>"
    image = Image.new("RGB", (1000, 500), (200, 30, 30))
    body = (
        table(("", evil), [(evil, "1")], text_columns=(1,))
        + bars({evil: 0.5, "cat": 0.0}, {evil: "novel", "cat": "base"})
        + curves({"novel": np.linspace(1, 0, 101)})
        + folded(evil, "<p>inside</p>")
        + gallery([picture(image, evil)])
    )
    html = page(evil, {"Model": evil}, [Section(evil, evil, body)])
    read = Page(html)
    assert "script" not in read.tags
    assert "".join(read.text).count(evil) == 9
    assert len(read.references) == 1
    assert read.references[0].startswith("data:image/jpeg;base64,")
    assert 'width="480" height="240"' in html
    assert "url(" not in html
    assert "@import" not in html
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_options_of_the_command_stay_whole_and_are_escaped():
    html = page("t", {"Command": "cora evaluate --json a-b.json -x <i>", "Measured": "60 images, -"}, [])
    assert 'cora evaluate <span class="option">--json</span> a-b.json <span class="option">-x</span> &lt;i&gt;' in html
    assert "60 images, -<" in html


def test_bars_reach_their_maximum_and_stay_inside():
    drawn = bars({"full": 1.0, "half": 0.5, "none": 0.0}, {})
    width = float(re.findall(r'viewBox="0 0 ([\d.]+) ', drawn)[0])
    starts = [float(x) for x in re.findall(r'<rect [^>]*x="([\d.]+)"', drawn)]
    lengths = [float(x) for x in re.findall(r'<rect [^>]*width="([\d.]+)"', drawn)]
    assert lengths[1] == pytest.approx(lengths[0] / 2)
    assert 0 < lengths[2] < 1  # still to be seen
    assert re.findall(r'y="[\d.]+">([\d.]+)</text>', drawn) == ["100.0", "50.0", "0.0"]
    # Room for "100.0" beside the longest.
    assert starts[0] + lengths[0] + 6 + 38 <= width


def test_the_area_below_the_mean_curve_is_the_ap50_of_the_group():
    truth = ground_truth(seed=2, images=20)
    evaluation = evaluate_boxes(truth, noisy_results(truth, seed=2), classes={**CLASSES, "zebra": 4})
    curve = mean_curve(evaluation, ["cat", "dog", "zebra"])
    assert curve.mean() == pytest.approx(np.mean([score.ap50 for score in evaluation.scores[:2]]))
    assert (np.diff(curve) <= 1e-12).all()
    assert mean_curve(evaluation, ["zebra"]) is None


@pytest.mark.parametrize("highest", [0.0, 0.3, 1.4, 37.3, 40.0, 99.9, 100.0])
def test_a_histogram_reaches_its_maximum_and_says_where_its_lines_are(highest: float):
    drawn = histogram({"a": [highest, 0.0]}, label="share")
    labels = [int(text) for text in re.findall(r'text-anchor="end">([^<]*)</text>', drawn)]
    top = labels[-1]
    assert highest <= top <= 100
    assert [5 * label for label in labels] == [step * top for step in range(6)]
    tall = float(re.findall(r'<rect [^>]*height="([\d.]+)"', drawn)[0])
    assert tall == pytest.approx(220 * highest / top, abs=0.1)


def test_as_many_detections_are_looked_at_as_there_are_boxes():
    truth = ground_truth(seed=5, images=20, crowds=False)
    errors = find_errors(evaluate_boxes(truth, noisy_results(truth, seed=5, extra=9), classes=CLASSES).matched)
    seen, matched = looked_at(errors), errors.matched
    for image in range(matched.images):
        here = matched.found.image == image
        assert (seen & here).sum() == max(3, (matched.truth.image == image).sum())
        assert matched.found.score[seen & here].min() >= matched.found.score[here & ~seen].max()


def test_pictures_show_what_they_are_chosen_for():
    truth = ground_truth(seed=5, images=40, crowds=False)
    errors = find_errors(evaluate_boxes(truth, noisy_results(truth, seed=5), classes=CLASSES).matched)
    chosen = choose_examples(errors, NAMES, each=4)
    assert len({example.image for example in chosen}) == len(chosen)
    kinds = [example.kind for example in chosen]
    assert all(1 <= kinds.count(kind) <= 4 for kind in ("best", "missed", "confused"))
    for example in chosen:
        assert (errors.matched.found.image[example.found] == example.image).all()
        assert (errors.matched.truth.image[example.missed] == example.image).all()
        if example.kind == "best":
            assert errors.matched.true[example.found].all()
            assert "found" in example.caption
        if example.kind == "missed":
            assert len(example.missed)
        if example.kind == "confused":
            assert (errors.target[example.found] >= 0).all()
            assert " taken for " in example.caption


def test_perfect_predictions_leave_nothing_missed_or_confused():
    truth = ground_truth(seed=5, crowds=False)
    errors = find_errors(evaluate_boxes(truth, perfect_results(truth), classes=CLASSES).matched)
    assert {example.kind for example in choose_examples(errors, NAMES)} == {"best"}


def test_worst_classes_come_first_with_what_they_were_taken_for():
    box = [10.0, 10.0, 50.0, 50.0]
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [{"image_id": i, "category_id": i, "bbox": box, "area": 2500.0} for i in (1, 2)],
    }
    results = [{"image_id": i, "category_id": 2, "bbox": box, "score": 0.5} for i in (1, 2)]
    evaluation = evaluate_boxes(truth, results, classes=CLASSES)
    found = worst_confusions(find_errors(evaluation.matched), NAMES, [score.ap50 for score in evaluation.scores])
    assert [(c.name, c.boxes, c.found, c.taken_for) for c in found] == [
        ("cat", 1, 0, (("dog", 1),)),
        ("dog", 1, 1, ()),
    ]
