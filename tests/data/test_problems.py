import ast
from pathlib import Path

import pytest

from cora.data.problems import (
    Problems,
    check_names,
    is_number,
    is_whole,
    listed,
    of_kind,
    read_text,
    shown,
    truth_value,
)
from cora.errors import DataError


def test_each_kind_is_counted_with_its_first_example() -> None:
    problems = Problems()
    assert not problems
    for example in ("one", "two", "three"):
        problems.add("odd lines", example)
    problems.add("bad boxes", 7)
    assert str(problems) == "3 odd lines (first: one); 1 bad box (first: 7)"
    assert problems


def test_every_kind_has_a_singular() -> None:
    kinds = []
    for path in (Path(__file__).parents[2] / "src" / "cora").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr="add"), args=[ast.Constant(value=str(kind)), _]):
                    kinds.append(kind)
    assert len(kinds) > 60
    assert [kind for kind in kinds if of_kind(1, kind) == f"1 {kind}"] == []
    assert of_kind(2, "image ids that are no whole numbers") == "2 image ids that are no whole numbers"
    assert of_kind(1, "image ids that are no whole numbers") == "1 image id that is no whole number"


@pytest.mark.parametrize("text", ["a\nb\tc", "\x1b[31mred", "\ud800", "x" * 10_000, "\u202e"])
def test_a_message_shows_strangers_text_on_one_short_printable_line(text: str) -> None:
    problems = Problems()
    problems.add("names", text)
    for line in (str(problems), shown(text), listed([text])):
        assert line.isprintable()
        assert len(line) < 300
        line.encode()


def test_long_lists_are_cut() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed((str(i) for i in range(9)), 3) == "0, 1, 2 and 6 more"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, True, "1", None, [1]])
def test_what_is_no_number(value: object) -> None:
    assert not is_number(value)
    assert not is_whole(value)


def test_numbers() -> None:
    assert is_number(-1.5)
    assert is_number(3)
    assert is_whole(3)
    assert not is_whole(3.0)


def test_names_are_checked() -> None:
    faults = Problems()
    check_names(["cat", "dog", "cat", " ", "bus"], faults)
    assert dict(faults.counts) == {"blank class names": 1}


@pytest.mark.parametrize("value", [0, 0.0, False, None, "", "0", " 0 ", "false", "False", "no"])
def test_what_says_no(value: object) -> None:
    assert truth_value(value) is False


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "true", "TRUE", "yes"])
def test_what_says_yes(value: object) -> None:
    assert truth_value(value) is True


@pytest.mark.parametrize("value", [2, -1, 0.5, "maybe", "2", [], {}, "unspecified"])
def test_what_says_neither(value: object) -> None:
    assert truth_value(value) is None


def test_text_within_limits(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(path, max_bytes=6, expected="list") == "abc"
    with pytest.raises(DataError, match="expected a list of at most 5 bytes, got 6"):
        read_text(path, max_bytes=5, expected="list")
    path.write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="expected a list in UTF-8, got other bytes"):
        read_text(path, max_bytes=9, expected="list")
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match=r"no list at|got a folder"):
            read_text(missing, max_bytes=9, expected="list")


@pytest.mark.parametrize(
    ("kind", "one"),
    [
        ("boxes that are not four finite numbers", "box that is not four finite numbers"),
        ("boxes outside their image", "box outside its image"),
        ("missing image files", "missing image file"),
        ("file names that leave the image folder", "file name that leaves the image folder"),
        ("caption ids that are no whole numbers", "caption id that is no whole number"),
        ("annotations of an unknown category", "annotation of an unknown category"),
        ("annotations whose boxes and classes differ in number", "annotation whose boxes and classes differ in number"),
        ("lines with a number that is not finite", "line with a number that is not finite"),
        ("classes without a box that only group others", "class without a box that only groups others"),
        ("folders, whose images have to be named", "folder, whose images have to be named"),
        ("neg_category_ids that are no lists", "neg_category_ids that is no list"),
        ("detections in images that the annotations lack", "detection in images that the annotations lack"),
    ],
)
def test_one_problem_is_singular(kind: str, one: str) -> None:
    problems = Problems()
    problems.add(kind, "a")
    assert str(problems) == f"1 {one} (first: a)"
    problems.add(kind, "b")
    assert str(problems) == f"2 {kind} (first: a)"
