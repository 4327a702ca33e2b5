import json
from pathlib import Path

import pytest

from cora.data.class_split import KNOWN_SPLITS, ClassSplit, known_split, open_split, read_class_split
from cora.errors import DataError


def test_reads_both_parts_in_order(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text(json.dumps({"base": ["dog", "ant"], "novel": ["cat"]}), encoding=encoding)
        split = read_class_split(path)
        assert split == ClassSplit(base=("dog", "ant"), novel=("cat",))
        assert split.all == ("dog", "ant", "cat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected an object"),
        ('{"base": ["a"]}', "expected novel to be a list"),
        ('{"base": "a", "novel": []}', "expected base to be a list"),
        ('{"base": [], "novel": ["a"]}', "at least one base class"),
        ('{"base": ["a", "b"], "novel": ["a"]}', "1 repeated: a"),
        ('{"base": ["a", " "], "novel": []}', "1 blank"),
        ('{"base": ["red_cup", "b"], "novel": ["Red cup"]}', "2 repeated: Red cup, red_cup"),
    ],
)
def test_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_class_split(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class split at"):
        read_class_split(tmp_path / "none.json")


@pytest.mark.parametrize(("name", "base", "novel"), [("coco", 48, 17), ("lvis", 866, 337)])
def test_known_splits(name: str, base: int, novel: int) -> None:
    split = known_split(name)
    assert (len(split.base), len(split.novel)) == (base, novel)
    assert name in KNOWN_SPLITS


def test_opens_by_name_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_split("coco") == open_split(Path("coco")) == known_split("coco")
    own = '{"base": ["cup"], "novel": []}'
    Path("own.json").write_text(own)
    assert open_split("own.json") == ClassSplit(base=("cup",))
    Path("lvis").mkdir()  # the usual name of the folder of the images
    assert open_split("lvis") == known_split("lvis")
    Path("coco").write_text(own)  # what lies there is meant, not what has the same name
    assert open_split("coco") == ClassSplit(base=("cup",))
    with pytest.raises(DataError, match="no class split at kitchen"):
        open_split("kitchen")


def test_unknown_split() -> None:
    with pytest.raises(DataError, match=r"expected a known class split \(coco, lvis\), got '../coco'"):
        known_split("../coco")


@pytest.mark.needs_shared
def test_known_splits_are_the_published_ones(shared: Path) -> None:
    assert known_split("coco") == read_class_split(shared / "kit" / "coco_ovd_mini" / "class_split.json")
    names = json.loads((shared / "kit" / "clip_rn50_text" / "names.json").read_text())
    frequency = dict(zip(names["lvis"], names["lvis_frequency"], strict=True))
    split = known_split("lvis")
    assert {frequency[name] for name in split.base} == {"f", "c"}
    assert {frequency[name] for name in split.novel} == {"r"}
