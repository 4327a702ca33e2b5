import pytest

from cora.names import name_key, names_without, repeated_names, spelled_as, spoken_name


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("coffee_cup", "coffee cup"),
        ("coffee  cup", "coffee cup"),
        (" Coffee\tcup ", "Coffee cup"),
        ("bow_(decorative_ribbons)", "bow (decorative ribbons)"),
        ("__init__", "init"),
        ("T-shirt", "T-shirt"),
        ("_", ""),
        ("", ""),
    ],
)
def test_underscores_are_blanks_and_blanks_are_single(written: str, spoken: str) -> None:
    assert spoken_name(written) == spoken
    assert spoken_name(spoken) == spoken
    assert name_key(written) == name_key(spoken) == spoken.casefold()


def test_names_are_compared_by_class() -> None:
    assert repeated_names(["cup", "dog", "Cup", "coffee_cup", "coffee cup"]) == [
        "cup", "Cup", "coffee_cup", "coffee cup",
    ]  # fmt: skip
    assert repeated_names(["cup", "dog"]) == []
    assert names_without(["coffee_cup", "dog"], ["Coffee cup"]) == ["dog"]


def test_spellings_are_found_the_same_first() -> None:
    assert spelled_as(["coffee_cup", "dog", "cow"], ["coffee cup", "Dog", "dog"]) == {
        "coffee_cup": "coffee cup", "dog": "dog",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("cup", "cup\u200b"),
        ("cup", "\ufeffcup"),
        ("cup", "\uff43\uff55\uff50"),
        ("traffic light", "traffic\u00a0light"),
        ("Stra\u00dfe", "STRASSE"),
    ],
)
def test_names_that_look_the_same_are_one(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)
    assert repeated_names([one, other])
    assert not names_without([one], [other])
