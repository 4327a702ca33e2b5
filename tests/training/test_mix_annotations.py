"""Real and pseudo boxes in one file: names merge, ids stay unique, novel names need a decision."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cora.boxes import pairwise_iou, xywh_to_xyxy
from cora.data.captions import NamedPhoto
from cora.data.coco import CocoDataset
from cora.errors import DataError
from cora.training.image_weights import image_weights
from cora.training.mix_annotations import MixConfig, mix_annotations, without_novel
from cora.training.recipe import DataStage


def coco(images: dict[int, str], categories: dict[int, str], boxes: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Boxes are (image id, category id, bbox) and, for pseudo boxes, a score."""
    annotations = []
    for number, (image_id, category_id, bbox, *score) in enumerate(boxes, start=1):
        entry: dict[str, Any] = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": bbox}
        annotations.append({**entry, **({"score": score[0], "source": {"model": "t"}} if score else {})})
    return {
        "info": {"teacher": "t"},
        "images": [{"id": i, "file_name": name, "height": 40, "width": 60} for i, name in images.items()],
        "categories": [{"id": i, "name": name} for i, name in categories.items()],
        "annotations": annotations,
    }


REAL = coco({1: "a.jpg", 2: "b.jpg"}, {3: "cat", 5: "dog"}, [(1, 3, [0, 0, 10, 10]), (2, 5, [0, 0, 10, 10])])
PSEUDO = coco(
    {1: "c.jpg", 9: "a.jpg"},
    {3: "Dogs", 4: "cup", 7: "teapot"},
    [
        (1, 3, [5, 5, 9, 9], 0.9),
        (1, 4, [20, 5, 9, 9], 0.8),
        (9, 4, [20, 5, 9, 9], 0.7),
        (9, 7, [1, 0, 10, 10], 0.9),
        (1, 7, [1, 0, 10, 10], 0.6),
    ],
)


def test_names_merge_and_extra_classes_come_last() -> None:
    before = copy.deepcopy((REAL, PSEUDO))
    mixed = mix_annotations(REAL, PSEUDO)
    assert before == (REAL, PSEUDO)
    assert mixed.class_names == ("cat", "dog", "cup", "teapot")
    assert mixed.extra == ("cup", "teapot")
    assert mixed.pseudo_boxes == {"dog": 1, "cup": 2, "teapot": 1}
    assert (mixed.new_photos, mixed.left_out, mixed.novel) == (1, {"on real boxes": 1}, {})
    assert mixed.content["categories"] == [
        {"id": 3, "name": "cat"},
        {"id": 5, "name": "dog"},
        {"id": 6, "name": "cup"},
        {"id": 7, "name": "teapot"},
    ]
    assert [(image["id"], image["file_name"]) for image in mixed.content["images"]] == [
        (1, "a.jpg"),
        (2, "b.jpg"),
        (10, "c.jpg"),
    ]
    placed = [(one["image_id"], one["category_id"], one["bbox"]) for one in mixed.content["annotations"]]
    assert placed == [
        (1, 3, [0, 0, 10, 10]),
        (2, 5, [0, 0, 10, 10]),
        (10, 5, [5, 5, 9, 9]),
        (10, 6, [20, 5, 9, 9]),
        (1, 6, [20, 5, 9, 9]),
        (10, 7, [1, 0, 10, 10]),
    ]
    assert ["source" in one for one in mixed.content["annotations"]] == [False] * 2 + [True] * 4
    assert mixed.content["info"]["pseudo"] == {"teacher": "t"}


@pytest.mark.parametrize(
    ("options", "boxes", "left_out"),
    [
        ({"score": 0.75}, {"dog": 1, "cup": 1}, {"below the score": 2, "on real boxes": 1}),
        ({"max_per_class": 1}, {"dog": 1, "cup": 1, "teapot": 1}, {"on real boxes": 1, "beyond the most per class": 1}),
        ({"min_per_class": 2}, {"cup": 2}, {"on real boxes": 1, "of classes with too few boxes": 2}),
        ({"known_classes": False}, {"cup": 2, "teapot": 1}, {"of classes with real boxes": 1, "on real boxes": 1}),
        ({"real_iou": 1.0}, {"dog": 1, "cup": 2, "teapot": 2}, {}),
    ],
)
def test_limits(options: dict[str, Any], boxes: dict[str, int], left_out: dict[str, int]) -> None:
    mixed = mix_annotations(REAL, PSEUDO, config=MixConfig(**options))
    assert (mixed.pseudo_boxes, mixed.left_out) == (boxes, left_out)
    assert set(mixed.class_names) == {"cat", "dog", *boxes}


def test_the_best_boxes_of_a_class_stay() -> None:
    mixed = mix_annotations(REAL, PSEUDO, config=MixConfig(max_per_class=1))
    assert [one["score"] for one in mixed.content["annotations"] if "score" in one] == [0.9, 0.8, 0.6]


def test_novel_names_need_a_decision() -> None:
    with pytest.raises(DataError, match=r"got 1: cup \(2 boxes\); leave them out \(--novel-names drop\), or use them"):
        mix_annotations(REAL, PSEUDO, novel=["Cups", "bus"])
    dropped = mix_annotations(REAL, PSEUDO, novel=["cup"], config=MixConfig(novel="drop"))
    assert (dropped.extra, dropped.novel, dropped.left_out["of novel classes"]) == (("teapot",), {"cup": 2}, 2)
    kept = mix_annotations(REAL, PSEUDO, novel=["cup"], config=MixConfig(novel="keep"))
    assert (kept.extra, kept.novel, kept.left_out["of novel classes"]) == (("cup", "teapot"), {"cup": 2}, 0)


def test_a_novel_category_that_the_real_file_lists_without_boxes_is_novel_all_the_same() -> None:
    listed = {**REAL, "categories": [*REAL["categories"], {"id": 8, "name": "cup"}]}
    with pytest.raises(DataError, match="novel classes, got 1: cup"):
        mix_annotations(listed, PSEUDO, novel=["cup"])


def test_photos_of_two_sizes_are_refused() -> None:
    other = copy.deepcopy(PSEUDO)
    other["images"][1]["width"] = 61
    with pytest.raises(DataError, match=r"a.jpg: the real annotations say 60x40 px, the pseudo boxes 61x40"):
        mix_annotations(REAL, other)


def test_nothing_to_add_leaves_the_real_boxes() -> None:
    mixed = mix_annotations(REAL, coco({}, {}, []))
    assert {key: mixed.content[key] for key in ("images", "annotations", "categories")} == {
        key: REAL[key] for key in ("images", "annotations", "categories")
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": -1}, r"score: expected 0\.\.1"),
        ({"real_iou": 0}, "real_iou: expected above 0"),
        ({"min_per_class": 3, "max_per_class": 2}, "expected 1 <= min_per_class <= max_per_class, got 3 and 2"),
        ({"novel": "perhaps"}, "novel: expected refuse, drop or keep"),
    ],
)
def test_limits_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixConfig(**options)


_FILES = ["a.jpg", "b.jpg", "c.jpg"]


@st.composite
def contents(draw: st.DrawFn, *, scored: bool) -> dict[str, Any]:
    ids = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True))
    images = dict(zip(ids, draw(st.permutations(_FILES)), strict=False))
    classes = draw(st.lists(st.sampled_from(["cat", "Cats", "cup", "bus", "tv"]), min_size=1, max_size=3, unique=True))
    if not scored:
        classes = sorted({name.casefold().removesuffix("s") for name in classes})
    categories = dict(enumerate(classes, start=draw(st.integers(1, 3))))
    box = st.tuples(st.integers(0, 40), st.integers(0, 20), st.integers(2, 20), st.integers(2, 20)).map(list)
    row = st.tuples(st.sampled_from(ids), st.sampled_from(list(categories)), box, st.floats(0, 1))
    return coco(images, categories, [one if scored else one[:3] for one in draw(st.lists(row, max_size=8))])


@settings(max_examples=60)
@given(contents(scored=False), contents(scored=True))
def test_a_mixture_is_sound(real: dict[str, Any], pseudo: dict[str, Any]) -> None:
    mixed = mix_annotations(real, pseudo)
    content = mixed.content
    for key in ("images", "annotations", "categories"):
        ids = [entry["id"] for entry in content[key]]
        assert len(set(ids)) == len(ids)
        assert content[key][: len(real[key])] == real[key]
    for unique in (
        [image["file_name"] for image in content["images"]],
        [name.casefold() for name in mixed.class_names],
    ):
        assert len(set(unique)) == len(unique)
    assert {one["image_id"] for one in content["annotations"]} <= {image["id"] for image in content["images"]}
    added = content["annotations"][len(real["annotations"]) :]
    assert len(added) + sum(mixed.left_out.values()) == len(pseudo["annotations"])
    assert sum(mixed.pseudo_boxes.values()) == len(added)
    for one in added:
        others = [other["bbox"] for other in real["annotations"] if other["image_id"] == one["image_id"]]
        assert bool((pairwise_iou(xywh_to_xyxy([one["bbox"]]), xywh_to_xyxy(others)) < 0.5).all())


def named(file_name: str, *names: str) -> NamedPhoto:
    return NamedPhoto(image_id=1, path=Path(file_name), file_name=file_name, names={name: (4,) for name in names})


def test_novel_names_are_dealt_with_before_photos_are_labelled() -> None:
    photos = (named("a.jpg", "cat", "bus"), named("b.jpg", "buses"), named("c.jpg", "cat"))
    with pytest.raises(DataError, match=r"got 2: bus \(1 image\), buses \(1 image\)"):
        without_novel(photos, ["Bus"], "refuse")
    kept, found = without_novel(photos, ["Bus"], "drop")
    assert [(photo.file_name, dict(photo.names)) for photo in kept] == [
        ("a.jpg", {"cat": (4,)}),
        ("c.jpg", {"cat": (4,)}),
    ]
    assert found == {"bus": 1, "buses": 1}
    assert without_novel(photos, ["Bus"], "keep") == (photos, found)
    assert without_novel(photos, ["train"], "refuse") == (photos, {})
    with pytest.raises(DataError, match="expected images with other names than the 1 novel ones, got none in 1"):
        without_novel(photos[1:2], ["bus"], "drop")


def test_images_with_pseudo_labels_only_are_known_as_such_and_drawn_by_their_weight(tmp_path: Path) -> None:
    content = mix_annotations(REAL, PSEUDO).content
    content["images"].append({"id": 50, "file_name": "empty.jpg", "height": 40, "width": 60})
    for image in content["images"]:
        Image.new("RGB", (60, 40)).save(tmp_path / image["file_name"])
    for _ in range(2):  # the second time as the data set writes itself, as shards do
        (tmp_path / "all.json").write_text(json.dumps(content))
        dataset = CocoDataset(annotations=tmp_path / "all.json", images=tmp_path)
        assert {r.path.name: r.only_pseudo for r in dataset.records} == {
            "a.jpg": False, "b.jpg": False, "c.jpg": True, "empty.jpg": False,
        }  # fmt: skip
        content = dataset.to_coco()
    assert image_weights(DataStage(), dataset) is None
    weights = image_weights(DataStage(pseudo_weight=0.25), dataset)
    assert weights is not None
    assert weights.tolist() == [1, 1, 0.25, 1]
    both = image_weights(DataStage(pseudo_weight=0.25, sampling="small-objects", small_factor=3), dataset)
    assert both is not None
    assert both.tolist() == [3, 3, 0.75, 1]
