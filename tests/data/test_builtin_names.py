"""The names of the built-in vocabulary: LVIS's categories as people say them."""

from cora.data.builtin_names import builtin_names
from cora.data.class_split import known_split
from cora.names import name_key, names_without, repeated_names, spelled_as


def test_about_1200_distinct_names_that_read_well() -> None:
    names = builtin_names()
    assert 1150 <= len(names) <= 1250
    assert repeated_names(names) == []
    assert not [name for name in names if "_" in name or name != name.strip()]
    # A remark is there only where the bare word says something else.
    assert len([name for name in names if "(" in name]) < 10


def test_names_of_coco_are_spelled_as_there() -> None:
    known = [name for name in known_split("coco").all if name not in ("mouse", "remote")]
    assert list(spelled_as(known, builtin_names()).values()) == known


def test_what_lvis_calls_otherwise_is_there_once() -> None:
    names = set(map(name_key, builtin_names()))
    for there, gone in {
        "tv": "television set",
        "couch": "sofa",
        "computer mouse": "mouse (computer equipment)",
        "bus": "bus (vehicle)",
        "wine glass": "wineglass",
    }.items():
        assert (there in names, gone in names) == (True, False)
    plain = [name for name in known_split("lvis").all if name.isalpha()]
    # Some are written otherwise, or stand for a kind of things; nearly all are there as they are.
    assert len(names_without(plain, builtin_names())) < 30
    assert builtin_names() is builtin_names()
