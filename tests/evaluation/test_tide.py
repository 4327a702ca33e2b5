"""Kinds of errors: each pure one is recognised, mending it gives everything back, and shares add up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cora.evaluation.coco_ap import evaluate_boxes
from cora.evaluation.tide import KINDS, error_shares, find_errors
from tests.evaluation.coco_data import CLASSES, ground_truth, noisy_results, perfect_results

NAMES = tuple(CLASSES)
BOX = [50.0, 50.0, 40.0, 40.0]


def errors_of(truth, results):
    return find_errors(evaluate_boxes(truth, results, classes=CLASSES).matched)


def shares_of(truth, results):
    return error_shares(errors_of(truth, results), NAMES, {"all": NAMES})["all"]


def one_box(*results, truth_class=1):
    """The errors of results (category, bbox, score) on one image with one box."""
    truth = {
        "images": [{"id": 1}],
        "annotations": [{"image_id": 1, "category_id": truth_class, "bbox": BOX, "area": 1600.0}],
    }
    found = [{"image_id": 1, "category_id": c, "bbox": bbox, "score": score} for c, bbox, score in results]
    return truth, found


RIGHT = (1, BOX, 0.5)
WRONG_NAME = (2, BOX, 0.9)
LOOSE = (1, [70.0, 50.0, 40.0, 40.0], 0.9)  # IoU 1/3
WRONG_AND_LOOSE = (2, [70.0, 50.0, 40.0, 40.0], 0.9)
AWAY = (1, [120.0, 120.0, 30.0, 30.0], 0.9)


@pytest.mark.parametrize(
    ("results", "kind"),
    [
        ([WRONG_NAME], "classification"),
        ([LOOSE], "localization"),
        ([RIGHT, WRONG_AND_LOOSE], "both"),
        ([(1, BOX, 0.9), RIGHT], "duplicate"),
        ([RIGHT, AWAY], "background"),
        ([], "missed"),
    ],
)
def test_every_pure_error_is_recognised(results, kind):
    truth, found = one_box(*results)
    shares = shares_of(truth, found)
    assert shares.counts | {"missed": 0} == {name: int(name == kind) for name in KINDS} | {"missed": 0}
    assert shares.counts["missed"] == (kind == "missed")


@pytest.mark.parametrize(
    ("results", "kind"),
    [([WRONG_NAME], "classification"), ([LOOSE], "localization"), ([RIGHT, AWAY], "background")],
)
def test_mending_the_only_kind_of_error_gives_everything_back(results, kind):
    shares = shares_of(*one_box(*results))
    assert shares.ap50 + shares.gains[kind] == pytest.approx(1.0)
    assert shares.shares == {name: pytest.approx(float(name == kind)) for name in KINDS}


def test_a_background_box_costs_nothing_behind_all_right_ones():
    shares = shares_of(*one_box((1, BOX, 0.9), (1, AWAY[1], 0.1)))
    assert shares.counts["background"] == 1
    assert shares.gains["background"] == 0
    assert sum(shares.shares.values()) == 0


def test_a_box_that_was_found_is_not_given_twice():
    """A mended error over a box that is taken vanishes; it may not count as another hit."""
    shares = shares_of(*one_box((1, BOX, 0.5), (2, BOX, 0.9), (1, LOOSE[1], 0.8)))
    for kind in ("classification", "localization"):
        assert shares.ap50 + shares.gains[kind] <= 1.0
    assert shares.gains["localization"] == pytest.approx(0.5)


def test_missed_boxes_leave_the_count():
    truth, found = one_box(RIGHT)
    truth["annotations"].append({"image_id": 1, "category_id": 1, "bbox": [120.0, 120.0, 30.0, 30.0], "area": 900.0})
    shares = shares_of(truth, found)
    assert shares.counts["missed"] == 1
    assert shares.ap50 + shares.gains["missed"] == pytest.approx(1.0)


def test_detections_on_crowds_are_no_errors():
    truth, found = one_box(WRONG_NAME, RIGHT)
    truth["annotations"].append({"image_id": 1, "category_id": 2, "bbox": BOX, "area": 1600.0, "iscrowd": 1})
    assert sum(errors_of(truth, found).counts({0, 1, 2}).values()) == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_false_positive_has_one_kind_and_shares_add_up(seed):
    truth = ground_truth(seed=seed)
    results = noisy_results(truth, seed=seed)
    errors = errors_of(truth, results)
    matched = errors.matched
    assert ((errors.kind >= 0) == ((matched.partner < 0) & ~matched.ignored)).all()
    assert (errors.missed <= ~truth_covered(errors)).all()
    by_group = error_shares(errors, NAMES, {"base": NAMES[:2], "novel": NAMES[2:], "all": NAMES})
    for shares in by_group.values():
        assert sum(shares.shares.values()) == pytest.approx(1.0) or not any(shares.shares.values())
        assert all(0 <= share <= 1 for share in shares.shares.values())
        assert all(-1 <= gain <= 1 - shares.ap50 + 1e-9 for gain in shares.gains.values())
        # Taking false alarms or missed boxes away never costs anything.
        assert all(shares.gains[kind] >= -1e-12 for kind in ("both", "duplicate", "background", "missed"))
    for kind in KINDS:
        assert by_group["all"].counts[kind] == sum(
            by_group[g].counts[kind] for g in ("base", "novel") if g in by_group
        ) + (sum(errors.counts({place})[kind] for place in absent(by_group)))


def absent(by_group):
    """Places of the classes of groups without a true box."""
    return [place for group, places in (("base", (0, 1)), ("novel", (2,))) if group not in by_group for place in places]


def truth_covered(errors):
    covered = np.zeros(len(errors.missed), dtype=bool)
    covered[errors.matched.partner[errors.matched.partner >= 0]] = True
    return covered


def test_perfect_predictions_have_no_errors():
    truth = ground_truth(seed=3, crowds=False)
    shares = shares_of(truth, perfect_results(truth))
    assert sum(shares.counts.values()) == 0
    assert shares.ap50 == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_counts_agree_with_another_implementation(seed):
    """hotcoco's, where the definitions leave no choice: without crowds, kinds that mend by leaving out."""
    from hotcoco import COCO, COCOeval

    truth = ground_truth(seed=seed, images=30, crowds=False)
    results = noisy_results(truth, seed=seed)
    annotated = COCO(truth)
    evaluator = COCOeval(annotated, annotated.load_res(results), "bbox")
    evaluator.evaluate()
    other = evaluator.tide_errors()
    ours = shares_of(truth, results)
    assert ours.ap50 == pytest.approx(other["ap_base"], abs=1e-9)
    for kind, name in (("both", "Both"), ("duplicate", "Dupe"), ("background", "Bkg"), ("missed", "Miss")):
        assert ours.counts[kind] == other["counts"][name], kind
        assert ours.gains[kind] == pytest.approx(other["delta_ap"][name], abs=1e-9), kind
    assert ours.counts["classification"] == other["counts"]["Cls"]
    assert ours.counts["localization"] == other["counts"]["Loc"]
