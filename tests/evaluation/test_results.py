"""Ground truth as a file has it, and predictions made elsewhere."""

import json

import pytest

from cora.errors import DataError
from cora.evaluation.results import read_results
from cora.evaluation.truth import frequencies_of, only_images, read_truth
from tests.evaluation.coco_data import CLASSES, SIDE, ground_truth


@pytest.fixture
def annotations(tmp_path):
    path = tmp_path / "annotations.json"
    content = ground_truth(seed=2)
    content["categories"] = [{"id": 7 * number, "name": name} for name, number in CLASSES.items()]
    for annotation in content["annotations"]:
        annotation["category_id"] *= 7
        annotation["area"] *= 0.5  # of a mask
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def written(tmp_path, content, name="results.json"):
    path = tmp_path / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def result(**changes):
    return {"image_id": 10, "category_id": 7, "bbox": [5, 5, 20, 20], "score": 0.5, **changes}


def test_truth_keeps_boxes_areas_and_crowds_and_renumbers_classes(annotations):
    content = json.loads(annotations.read_text(encoding="utf-8"))
    truth = read_truth(annotations, class_names=["bus", "cat"])
    assert [(c["id"], c["name"], c["source_id"]) for c in truth["categories"]] == [(1, "bus", 21), (2, "cat", 7)]
    assert truth["other_category_ids"] == [14]
    kept = [a for a in content["annotations"] if a["category_id"] != 14]
    for ours, theirs in zip(truth["annotations"], kept, strict=True):
        assert {key: ours[key] for key in ("bbox", "area", "iscrowd", "image_id")} == {
            key: theirs[key] for key in ("bbox", "area", "iscrowd", "image_id")
        }
        assert ours["category_id"] == {21: 1, 7: 2}[theirs["category_id"]]
    some = only_images(truth, {10, 12})
    assert [image["id"] for image in some["images"]] == [10, 12]
    assert {a["image_id"] for a in some["annotations"]} <= {10, 12}


@pytest.mark.slow
@pytest.mark.needs_shared
def test_truth_of_lvis_keeps_its_lists(shared):
    truth = read_truth(shared / "kit/lvis/val_subset_v05.json")
    assert len(truth["images"]) == 29
    assert set(frequencies_of(truth).values()) == {"f", "c", "r"}
    assert all("neg_category_ids" in image for image in truth["images"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [0, 0, float("nan"), 5]}, "1 annotation without a box of four numbers"),
        ({"image_id": 999}, "1 annotation of an unknown image"),
        ({"category_id": 999}, "1 annotation of an unknown category"),
    ],
)
def test_unusable_truth_is_refused_and_counted(annotations, change, message):
    content = json.loads(annotations.read_text(encoding="utf-8"))
    content["annotations"][0] |= change
    annotations.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_truth(annotations)


def test_names_that_the_file_lacks_are_refused(annotations):
    with pytest.raises(DataError, match="lacks 2 of the 3 classes asked for: zebra, yak"):
        read_truth(annotations, class_names=["cat", "zebra", "yak"])


def test_good_results_are_taken_and_counted(annotations, tmp_path):
    truth = read_truth(annotations, class_names=["bus", "cat"])
    over = result(bbox=[-4, 5, 20, 20])
    path = written(tmp_path, [result(), over, result(category_id=14), result(category_id=21, score=1)])
    found = read_results(path, truth)
    assert [r["category_id"] for r in found.results] == [2, 2, 1]
    assert (found.other_classes, found.reaching_over) == (1, 1)
    assert read_results(written(tmp_path, {"annotations": [result()]}), truth).results == [result(category_id=2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 999}, "2 unknown image ids (first: 999)"),
        ({"image_id": True}, "2 unknown image ids"),
        ({"category_id": 1}, "2 unknown category ids (first: 1)"),
        ({"score": float("nan")}, "2 scores that are no finite number (first: nan in entry 1)"),
        ({"score": 1.5}, "2 scores outside 0..1 (first: 1.5 in entry 1)"),
        ({"score": -0.1}, "2 scores outside 0..1"),
        ({"score": None}, "2 results without a score"),
        ({"bbox": [0, 0, -1, 5]}, "2 boxes that are no four finite numbers"),
        ({"bbox": None}, "2 boxes that are no four finite numbers"),
        ({"bbox": [SIDE, 0, 5, 5]}, "2 boxes off their image"),
        ({"bbox": [-9, 0, 5, 5]}, f"in image 10, {SIDE}x{SIDE} px"),
    ],
)
def test_bad_results_are_refused_and_counted(annotations, tmp_path, changes, message):
    bad = result(**changes)
    path = written(tmp_path, [result(), bad, bad])
    with pytest.raises(DataError) as caught:
        read_results(path, read_truth(annotations))
    assert message in str(caught.value)
    assert "among 3 entries" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read as JSON"), ('{"a": 1}', "expected a list")])
def test_other_files_are_refused(annotations, tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_results(path, read_truth(annotations))
    with pytest.raises(DataError, match="no COCO results file"):
        read_results(tmp_path / "none.json", read_truth(annotations))


def small(tmp_path, **changes):
    """One image with one box of one class, changed."""
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}],
        "categories": [{"id": 1, "name": "cup"}],
    }
    for part, entry in changes.items():
        content[part].append(entry) if part != "only" else [content[key][0].update(new) for key, new in entry.items()]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("value", "crowd"), [("0", 0), ("false", 0), (False, 0), (None, 0), ("1", 1), (True, 1), (1, 1)]
)
def test_crowds_are_told_by_any_truth_value(tmp_path, value, crowd):
    truth = read_truth(small(tmp_path, only={"annotations": {"iscrowd": value}}))
    assert [box["iscrowd"] for box in truth["annotations"]] == [crowd]


def test_other_values_of_crowds_are_counted(tmp_path):
    with pytest.raises(DataError, match=r"1 value of iscrowd that is neither 0 nor 1 \(first: 1: maybe\)"):
        read_truth(small(tmp_path, only={"annotations": {"iscrowd": "maybe"}}))


def test_texts_as_ids_are_those_of_the_results(tmp_path):
    changed = {"images": {"id": "a"}, "annotations": {"image_id": "a", "category_id": "c"}, "categories": {"id": "c"}}
    truth = read_truth(small(tmp_path, only=changed))
    found = read_results(written(tmp_path, [result(image_id="a", category_id="c")]), truth)
    assert found.results == [{"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.5}]
    with pytest.raises(DataError, match="1 unknown image id "):
        read_results(written(tmp_path, [result(image_id="b", category_id="c")]), truth)


def test_sizes_that_the_file_lacks_are_those_measured(tmp_path):
    path = small(tmp_path, only={"images": {"width": None, "height": None}})
    with pytest.raises(DataError, match=r"1 image without width or height, which can be measured \(--images\)"):
        read_truth(path)
    assert read_truth(path, sizes={1: (48, 64)})["images"] == [
        {"id": 1, "height": 48, "width": 64, "file_name": "a.jpg"}
    ]


@pytest.mark.parametrize("form", [str, float])
def test_sizes_in_another_form_are_no_obstacle(tmp_path, form):
    path = small(tmp_path, only={"images": {"width": form(64), "height": form(48)}})
    expected = [{"id": 1, "height": 48, "width": 64, "file_name": "a.jpg"}]
    assert read_truth(path, sizes={1: (48, 64)})["images"] == expected
    if form is float:
        assert read_truth(path)["images"] == expected


@pytest.mark.parametrize(("key", "what"), [("image_id", "image"), ("category_id", "category")])
def test_a_list_as_an_id_is_counted(tmp_path, key, what):
    with pytest.raises(DataError, match=rf"1 annotation of an unknown {what} \(first: 1\)"):
        read_truth(small(tmp_path, only={"annotations": {key: [1]}}))


def test_an_image_listed_twice_counts_once(tmp_path, caplog):
    path = small(tmp_path, images={"id": 2, "file_name": "a.jpg", "width": 64, "height": 48})
    content = json.loads(path.read_text())
    content["annotations"].append({"id": 2, "image_id": 2, "category_id": 1, "bbox": [30, 5, 10, 10]})
    content["annotations"].append({"id": 3, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]})
    path.write_text(json.dumps(content))
    truth = read_truth(path)
    assert [image["id"] for image in truth["images"]] == [1]
    assert [box["image_id"] for box in truth["annotations"]] == [1, 1, 1]
    assert "1 image listed twice, merged (first: a.jpg: ids 1, 2)" in caplog.text
    assert "1 box given twice, counted twice (first: 3)" in caplog.text
    found = read_results(
        written(tmp_path, [result(image_id=1, category_id=1), result(image_id=2, category_id=1)]), truth
    )
    assert (len(found.results), found.again) == (1, 1)
    assert "1 result of images that the annotations list a second time does not count" in caplog.text


def test_classes_of_one_name_and_parents(tmp_path):
    path = small(tmp_path, categories={"id": 5, "name": "Cup "}, only={"categories": {"supercategory": "tableware"}})
    content = json.loads(path.read_text())
    content["categories"].append({"id": 9, "name": "tableware", "supercategory": "none"})
    path.write_text(json.dumps(content))
    truth = read_truth(path)
    assert [category["name"] for category in truth["categories"]] == ["cup"]
    found = read_results(written(tmp_path, [result(image_id=1, category_id=5)]), truth)
    assert [one["category_id"] for one in found.results] == [1]
    assert [c["name"] for c in read_truth(path, class_names=["tableware", "cup"])["categories"]] == ["tableware", "cup"]


def test_scores_outside_their_range_are_refused(annotations, tmp_path):
    with pytest.raises(DataError, match=r"1 score outside 0..1 \(first: 87 in entry 0\)"):
        read_results(written(tmp_path, [result(score=87)]), read_truth(annotations))


def test_boxes_in_fractions_are_refused(annotations, tmp_path):
    truth = read_truth(annotations)
    fractions = [result(bbox=[0.1, 0.2, 0.3, 0.4]), result(bbox=[0.5, 0.5, 0.5, 0.5])]
    with pytest.raises(DataError, match=r"2 boxes that do not reach over the first pixel, in fractions perhaps"):
        read_results(written(tmp_path, fractions), truth)
    assert len(read_results(written(tmp_path, [*fractions, result()]), truth).results) == 3


def test_boxes_over_the_border_and_no_result_at_all_are_said(annotations, tmp_path, caplog):
    truth = read_truth(annotations)
    path = written(tmp_path, [result(), result(bbox=[-4, 5, 20, 20])])
    read_results(path, truth)
    assert caplog.messages == [
        f"{path}: 1 of 2 boxes reach over the border of their image; bbox is x, y, width, height, not two corners"
    ]
    caplog.clear()
    assert read_results(written(tmp_path, []), truth).results == []
    assert caplog.messages == [f"{path}: holds no result, so that every box counts as missed"]
    caplog.clear()
    read_results(written(tmp_path, [result()]), truth)
    assert not caplog.messages


def test_ids_of_tables_have_a_fraction_of_zero(annotations, tmp_path):
    truth = read_truth(annotations)
    plain = result()
    floats = result(image_id=float(plain["image_id"]), category_id=float(plain["category_id"]))
    path = written(tmp_path, [plain, floats])
    first, second = read_results(path, truth).results
    assert first == second
    with pytest.raises(DataError, match=r"1 unknown image id \(first: 0\.5\)"):
        read_results(written(tmp_path, [result(image_id=0.5)]), truth)


def test_a_score_as_text_is_shown_as_text(annotations, tmp_path):
    with pytest.raises(DataError, match=r"1 score that is no finite number \(first: '0\.9' in entry 0\)"):
        read_results(written(tmp_path, [result(score="0.9")]), read_truth(annotations))


OWN_IMAGES = [{"id": 5, "file_name": "photos/b.jpg"}, {"id": 6, "file_name": r"photos\deep\A.JPG"}]


@pytest.mark.parametrize("texts", [False, True])
def test_a_file_that_lists_images_and_classes_has_ids_of_its_own(tmp_path, texts):
    """As `cora detect` and `cora batch` number what they found in the order in which they looked."""
    content = {
        "images": [
            {"id": n, "file_name": f"{name}.jpg", "width": 64, "height": 48} for n, name in ((1, "a"), (2, "b"))
        ],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}],
        "categories": [{"id": 1, "name": "Cup"}, {"id": 2, "name": "tea_spoon"}],
    }
    if texts:
        content["images"][0]["id"] = content["annotations"][0]["image_id"] = "one"
    truth = read_truth(written(tmp_path, content, "truth.json"))
    classes = [{"id": 1, "name": "tea spoon"}, {"id": 2, "name": "cup"}, {"id": 3, "name": "tree"}]
    boxes = [
        result(image_id=5.0, category_id=1.0, bbox=[1, 1, 5, 5]),
        result(image_id=6, category_id=2, bbox=[2, 2, 5, 5]),
        result(image_id=6, category_id=3, bbox=[3, 3, 5, 5]),
    ]
    path = written(tmp_path, {"images": OWN_IMAGES, "categories": classes, "annotations": boxes})
    ids = {image["file_name"]: image["id"] for image in truth["images"]}
    found = read_results(path, truth).results
    assert [(one["image_id"], one["category_id"], one["bbox"][0]) for one in found] == [
        (ids["b.jpg"], 2, 1),
        (ids["a.jpg"], 1, 2),
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": [{"id": 5, "file_name": "other.jpg"}]}, "1 detection in images that the annotations lack .*other"),
        (
            {"categories": [{"id": 1, "name": "tree"}]},
            r"1 detection of classes that the annotations lack \(first: tree",
        ),
        (
            {"images": [{"id": 7, "file_name": "b.jpg"}]},
            r"1 detection in images that the file itself lacks \(first: 5",
        ),
    ],
)
def test_what_the_annotations_lack_is_left_out_and_said(tmp_path, caplog, changed, message):
    images = [{"id": n, "file_name": f"{name}.jpg", "width": 64, "height": 48} for n, name in ((1, "a"), (2, "b"))]
    content = {"images": images, "categories": [{"id": 1, "name": "cup"}], "annotations": []}
    truth = read_truth(written(tmp_path, content, "truth.json"))
    own = {"images": OWN_IMAGES, "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "cup"}]} | changed
    own["images"] = [*own["images"], {"id": 8, "file_name": "x/a.jpg"}]
    own["categories"] = [*own["categories"], {"id": 9, "name": "cup"}]
    bad = result(image_id=5, category_id=1)
    with pytest.raises(DataError, match=message):
        read_results(written(tmp_path, {**own, "annotations": [bad]}), truth)
    assert not caplog.text
    good = result(image_id=8, category_id=9)
    assert len(read_results(written(tmp_path, {**own, "annotations": [bad, good]}), truth).results) == 1
    assert "left out 1 detection" in caplog.text


def test_folders_tell_images_of_one_name_apart(tmp_path):
    names = {1: "a/1.jpg", 2: "b/1.jpg"}
    images = [{"id": n, "file_name": name, "width": 64, "height": 48} for n, name in names.items()]
    content = {"images": images, "categories": [{"id": 1, "name": "cup"}], "annotations": []}
    truth = read_truth(written(tmp_path, content, "truth.json"))
    own = [{"id": 1, "file_name": "set/b/1.jpg"}, {"id": 2, "file_name": "set/a/1.jpg"}]
    boxes = [result(image_id=number, category_id=1) for number in (1, 2)]
    path = written(tmp_path, {"images": own, "categories": content["categories"], "annotations": boxes})
    assert [one["image_id"] for one in read_results(path, truth).results] == [2, 1]


def test_images_without_names_have_the_ids_of_the_truth(tmp_path):
    content = {
        "images": [{"id": 7, "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [],
    }
    truth = read_truth(written(tmp_path, content, "truth.json"))
    own = [{"id": 7, "file_name": "a.jpg"}]
    path = written(tmp_path, {"images": own, "annotations": [result(image_id=7, category_id=1)]})
    assert [one["image_id"] for one in read_results(path, truth).results] == [7]


def test_results_given_twice_are_said(annotations, tmp_path, caplog):
    assert len(read_results(written(tmp_path, [result(), result()]), read_truth(annotations)).results) == 2
    assert "1 result given twice, counted twice" in caplog.text
