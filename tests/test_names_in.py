"""Lists of names as people type them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cora.names import names_in

LISTS = {
    "cat, cup": ["cat", "cup"],
    "cat, cup,": ["cat", "cup"],
    ", cat": ["cat"],
    "cat . cup . spoon .": ["cat", "cup", "spoon"],
    ". cat . cup": ["cat", "cup"],
    "cat. a remote control.": ["cat", "a remote control"],
    "cat. cup": ["cat", "cup"],
    "ox. cow.": ["ox", "cow"],
    "cat.dog.": ["cat", "dog"],
    "cat.big dog.cup.": ["cat", "big dog", "cup"],
    "cat .dog .": ["cat", "dog"],
    "a photo of a cat.": ["a photo of a cat"],
    "cat, dog.": ["cat", "dog"],
    "cat, dog, ...": ["cat", "dog"],
    "cat; cup; spoon": ["cat", "cup", "spoon"],
    "cat | cup | spoon": ["cat", "cup", "spoon"],
    "cat; cup, spoon | mug": ["cat", "cup", "spoon", "mug"],
    "cat;\n\ncup\n": ["cat", "cup"],
    "['cat', 'cup']": ["cat", "cup"],
    '["cat", "cup"]': ["cat", "cup"],
    "cat\uff0c\u72d7\u3001\u676f\uff1b": ["cat", "\u72d7", "\u676f"],
    '"tench, Tinca tinca", cat': ["tench, Tinca tinca", "cat"],
    "'a | b'; c": ["a | b", "c"],
    "mug = cup | mug | coffee cup, plate": ["mug = cup | mug | coffee cup", "plate"],
    "cat,,cup": ["cat", "", "cup"],
    "cat\tcup\n": ["cat", "cup"],
    "(cat, cup)": ["cat", "cup"],
    "{'cat', 'cup'}": ["cat", "cup"],
    "cat\\ncup": ["cat", "cup"],
    "\u201ccat\u201d, \u201ea, b\u201c": ["cat", "a, b"],
    "": [],
    ",": [],
    " . ": [],
}

#: Names that hold such characters and stay whole.
WHOLE = [
    *("St. Bernard", "Dr. Pepper", "no. 2 pencil", "T. rex", "U.S. flag", "Washington D.C.", "7.5 mm bolt"),
    *("node.js logo", "o'clock", "rock 'n' roll", "cup (mug)", "bow_(decorative_ribbons)", "big [red] cat", "C#"),
    *("(red) cup (blue)", "driver's seat"),
    *("Cosmetics Brush/Eyeliner Pencil", "salt & pepper", "T-shirt", "1:43 model car", "#1 sign"),
]


@pytest.mark.parametrize("text", LISTS)
def test_lists_are_taken_apart(text: str) -> None:
    assert names_in(text) == LISTS[text]


@pytest.mark.parametrize("name", WHOLE)
def test_names_with_such_characters_stay_whole(name: str) -> None:
    assert names_in(name) == [name]
    assert names_in(f"cat, {name}, dog") == ["cat", name, "dog"]
    assert names_in(f"cat . {name} . dog .") == ["cat", name, "dog"]


WORDS = st.lists(st.text("abcdefgh", min_size=2, max_size=6).filter(lambda word: word != "ft"), min_size=1, max_size=3)


@given(
    names=st.lists(WORDS.map(" ".join), min_size=1, max_size=5),
    divider=st.sampled_from([", ", ",", "; ", ";", " | ", "|", " . ", ". ", "\n", "\t", ";\n", ",\n"]),
    end=st.booleans(),
)
def test_every_divider_gives_the_same_names(names: list[str], divider: str, end: bool) -> None:
    assert names_in(divider.join(names) + (divider if end else "")) == names


@given(st.text(max_size=40))
def test_any_text_is_a_list_without_blanks_at_its_ends(text: str) -> None:
    names = names_in(text)
    assert all(name == name.strip() for name in names)
    assert not names or (names[0] and names[-1])
