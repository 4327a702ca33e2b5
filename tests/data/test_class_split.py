import json
from pathlib import Path

import pytest

from cora.data.class_split import ClassSplit, read_class_split
from cora.errors import DataError


def test_reads_both_parts_in_order(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"base": ["dog", "ant"], "novel": ["cat"]}))
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
