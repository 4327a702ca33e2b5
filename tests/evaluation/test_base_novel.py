import json

import numpy as np
import pytest

from cora.errors import DataError, VocabularyError
from cora.evaluation.base_novel import class_groups, group_ratios, group_scores, resampled_ap50
from cora.evaluation.bootstrap import resample_counts
from cora.evaluation.coco_ap import evaluate_boxes
from cora.evaluation.synonyms import SHIPPED, load_synonyms, read_synonyms, rename
from tests.evaluation.coco_data import CLASSES, ground_truth, noisy_results, perfect_results

GROUPS = class_groups(["cat", "dog"], ["bus"])


def test_groups_weigh_classes_equally_and_leave_absent_ones_out():
    truth = ground_truth(seed=2, images=20)
    classes = {**CLASSES, "zebra": 4}
    evaluation = evaluate_boxes(truth, noisy_results(truth, seed=2), classes=classes)
    resampled = resampled_ap50(evaluation, resample_counts(20))
    scores = group_scores(evaluation, resampled, class_groups(["cat", "dog", "zebra"], ["bus"]))
    cat, dog, bus, _ = (score.ap50 for score in evaluation.scores)
    assert scores["base"].ap50.value == pytest.approx((cat + dog) / 2)
    assert scores["novel"].ap50.value == pytest.approx(bus)
    assert scores["all"].ap50.value == pytest.approx((cat + dog + bus) / 3)
    assert (scores["base"].classes, scores["base"].absent) == (2, 1)
    for score in scores.values():
        assert score.ap50.low <= score.ap50.value <= score.ap50.high


def test_perfect_predictions_have_no_spread():
    truth = ground_truth(seed=2, images=20)
    evaluation = evaluate_boxes(truth, perfect_results(truth), classes=CLASSES)
    scores = group_scores(evaluation, resampled_ap50(evaluation, resample_counts(20)), GROUPS)
    assert scores["all"].ap50.low == pytest.approx(1.0)


def test_a_model_compared_with_itself_keeps_everything():
    truth = ground_truth(seed=2, images=20)
    evaluation = evaluate_boxes(truth, noisy_results(truth, seed=2), classes=CLASSES)
    resampled = resampled_ap50(evaluation, resample_counts(20))
    for ratio in group_ratios(evaluation, evaluation, resampled, resampled, GROUPS).values():
        assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.0, 1.0, 1.0))
    blind = evaluate_boxes(truth, [], classes=CLASSES)
    nothing = np.zeros_like(resampled)
    assert group_ratios(blind, evaluation, nothing, resampled, GROUPS)["all"].value is None


def test_a_class_in_both_parts_is_refused():
    with pytest.raises(DataError, match="got 1 repeated: cat"):
        class_groups(["cat", "dog"], ["cat"])


def test_shipped_synonyms_are_new_words():
    synonyms = load_synonyms()
    assert len(synonyms) >= 30
    assert len(set(synonyms.values())) == len(synonyms)
    assert not set(synonyms.values()) & set(synonyms)
    for name, other in synonyms.items():
        # "remote" -> "remote control" would hand the plain name over.
        assert name not in other.split()


@pytest.mark.needs_shared
def test_shipped_synonyms_cover_the_benchmark(shared):
    split = json.loads((shared / "kit/coco_ovd_mini/class_split.json").read_text(encoding="utf-8"))
    names = split["base"] + split["novel"]
    synonyms = read_synonyms(SHIPPED)
    assert set(synonyms) <= set(names)
    assert len(set(split["novel"]) & set(synonyms)) >= 12
    renamed, changed = rename(names, synonyms)
    assert len(set(renamed)) == len(names)
    assert len(changed) == len(synonyms)


def test_rename_keeps_order_and_refuses_clashes():
    renamed, changed = rename(["cat", "dog"], {"dog": ("puppy", "hound"), "zebra": ("x",)})
    assert list(renamed.items()) == [("cat", ("cat",)), ("puppy", ("puppy", "hound"))]
    assert changed == ["dog"]
    for others in (("cat",), ("puppy", "Cat")):
        with pytest.raises(DataError, match=r"got \d used twice: .*cat"):
            rename(["cat", "dog"], {"dog": others})
    with pytest.raises(DataError, match="got none in 1 entries"):
        rename(["cat", "dog"], {"horse": ("pony",)})
    with pytest.raises(VocabularyError, match="got 'Puppy' twice"):
        rename(["dog"], {"dog": ("Puppy", "puppy")})


@pytest.mark.parametrize("given", ['["sofa", "settee"]', '"sofa | settee"', '"sofa, settee"', '"sofa; settee;"'])
def test_a_class_may_have_several_synonyms(tmp_path, given):
    path = tmp_path / "names.json"
    path.write_text(f'\ufeff{{"couch": {given}}}', encoding="utf-8")
    assert read_synonyms(path) == {"couch": ("sofa", "settee")}
    path.write_text('{"couch": ["sofa, red"], "bow": "\\"bow, red\\""}', encoding="utf-8")
    assert read_synonyms(path) == {"couch": ("sofa, red",), "bow": ("bow, red",)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "JSON object of plain name"),
        ("{", "cannot be read as JSON"),
        ('{"a": ""}', "JSON object"),
        ('{"a": 3}', "JSON object"),
        ('{"a": []}', "for several, got .. for 'a'"),
        ('{"a": ["b", 3]}', "got .*3. for 'a'"),
    ],
)
def test_bad_synonym_files_are_refused(tmp_path, content, message):
    path = tmp_path / "names.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_synonyms(path)
    with pytest.raises(DataError, match="got No such file"):
        read_synonyms(tmp_path / "none.json")
