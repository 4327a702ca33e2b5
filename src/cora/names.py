"""One normal form of class names: `coffee_cup`, "coffee  cup" and "Coffee cup" are one class.

Annotation files write underscores for blanks (LVIS: `bow_(decorative_ribbons)`); a text tower has learned words. People
get names back as they wrote them. `names_in` takes a list apart that somebody typed, `sides_of` a class with prompts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

#: Characters that nobody sees: soft hyphen, zero-width space and joiners of words, byte order mark.
_UNSEEN = dict.fromkeys((0xAD, 0x200B, 0x2060, 0xFEFF))


def spoken_name(name: str) -> str:
    """A name as the text tower reads it: blanks for underscores, single, none at the ends; the rest as it is."""
    return " ".join(name.translate(_UNSEEN).replace("_", " ").split())


def quoted_name(name: str) -> str:
    """A name as `names_in` and `sides_of` read it back: quoted where a divider, "=" or a quote would mislead."""
    if "=" not in name and not name.startswith(("'", '"')) and names_in(name) == [name]:
        return name
    return f"'{name}'" if '"' in name else f'"{name}"'


def prompted_name(name: str, prompts: Sequence[str]) -> str:
    """A class as `sides_of` reads it back: its name, with its prompts where these are others than the name."""
    if list(prompts) == [name]:
        return quoted_name(name) if "=" in name else name
    return f"{quoted_name(name)} = {' | '.join(map(quoted_name, prompts))}"


def name_key(name: str) -> str:
    """What names of one class have in common: the spoken form in one case, and in one form of Unicode."""
    return unicodedata.normalize("NFKC", spoken_name(name)).casefold()


def repeated_names(names: Iterable[str]) -> list[str]:
    """The names of classes that are named more than once, in order; empty where all are different."""
    names = list(names)
    counts = Counter(map(name_key, names))
    return [name for name in dict.fromkeys(names) if counts[name_key(name)] > 1]


def names_without(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The names of classes that none of the others names."""
    known = set(map(name_key, others))
    return [name for name in names if name_key(name) not in known]


def spelled_as(names: Sequence[str], among: Iterable[str]) -> dict[str, str]:
    """Name -> its spelling among others, for those that are there; the same spelling comes first."""
    among = list(among)
    by_key: dict[str, str] = {}
    for name in among:
        by_key.setdefault(name_key(name), name)
    exact = set(among)
    return {
        name: name if name in exact else by_key[name_key(name)]
        for name in names
        if name in exact or name_key(name) in by_key
    }


#: What stands between names, also the comma, the list comma, the full stop and the semicolon of Chinese keyboards, the
#: Arabic comma, and a table's tab.
_DIVIDERS = ",;|\t\uff0c\u3001\u3002\uff1b\u060c"
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
#: Quotes of word processors.
_PLAIN = str.maketrans({**dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"'), **dict.fromkeys("\u2018\u2019", "'")})
_QUOTES = r"""\s*("[^"]*"|'[^']*')\s*"""
#: A part in quotes or a plain one, up to what may stand behind it: in a list, and in a class with prompts.
_QUOTED_IN_LIST, _PLAIN_IN_LIST = re.compile(rf"{_QUOTES}(?=[{_DIVIDERS}=]|$)"), re.compile(rf"[^{_DIVIDERS}=]*")
_QUOTED_SIDE, _PLAIN_SIDE = re.compile(rf"{_QUOTES}(?=[=|]|$)"), re.compile(r"([^=|]*)")
#: The dot in "cat.dog." and "cat .dog .": where a list ends in a dot, and has none before a blank, it divides, too.
_TIGHT_DOT = re.compile(r"(?<=[^\W\d_]{2})\s*\.(?=[^\W\d_]{2})")
#: Words whose dot belongs to them: "St. Bernard" is one name, "cat. dog." are two.
_ABBREVIATIONS = frozenset(
    (
        *("approx", "ave", "blvd", "capt", "co", "dr", "fig", "ft", "gen", "inc", "jr", "lt", "ltd"),
        *("mr", "mrs", "ms", "mt", "no", "prof", "rd", "sgt", "sr", "st", "vol", "vs"),
    )
)


def names_in(text: str) -> list[str]:
    """The names of a list as people write it.

    Names are divided by commas, semicolons, `|`, tabs, line breaks, or dots with a blank behind them; a divider at the
    end is no name. A list in brackets is one, too. In quotes everything belongs to the name. A class with prompts stays
    in one text for `sides_of`, in which `|` divides prompts: `mug = cup | coffee cup`. So does a quoted name with "=".

    Examples:
        >>> names_in("cat . remote control ."), names_in("cat; cup;"), names_in('"salt, fine", St. Bernard')
        (['cat', 'remote control'], ['cat', 'cup'], ['salt, fine', 'St. Bernard'])
    """
    text = text.translate(_PLAIN).replace("\\n", "\n").strip()
    if _in_brackets(text):
        text = text[1:-1]
    return [name for line in text.splitlines() for name in _in_line(line)]


def _in_brackets(text: str) -> bool:
    """Whether the first character is a bracket that ends with the last one."""
    if not text or text[-1] != _BRACKETS.get(text[0]):
        return False
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == text[0]) - (letter == text[-1])
        if not depth:
            return place == len(text) - 1
    return False


def sides_of(text: str) -> list[list[str]]:
    """What a class says on each side of "=", divided at `|`; without "=" the text is a name, and one side.

    Examples:
        >>> sides_of("mug = cup | coffee cup"), sides_of("cat"), sides_of('"a = b"')
        ([['mug'], ['cup', 'coffee cup']], [['cat']], [['a = b']])
    """
    sides: list[list[str]] = [[]]
    place, quoted = 0, False
    while True:
        in_quotes = _QUOTED_SIDE.match(text, place)
        found = in_quotes or _PLAIN_SIDE.match(text, place)
        assert found is not None  # a plain side may be empty
        quoted = quoted or (in_quotes is not None and "=" in found[1])
        sides[-1].append(found[1][1:-1].strip() if in_quotes else found[1].strip())
        place = found.end()
        if place >= len(text):
            break
        if text[place] == "=":
            sides.append([])
        place += 1
    return sides if len(sides) > 1 or (quoted and len(sides[0]) == 1) else [[text.strip()]]


def _in_line(text: str) -> list[str]:
    dividers = _DIVIDERS.replace("|", "") if "=" in text else _DIVIDERS
    alone = not any(divider in text for divider in dividers)
    names: list[str] = []
    start = 0
    while start < len(text):
        end, quoted, prompted = _end_of_class(text, start)
        one = text[start:end].strip()
        if quoted:
            names.append(one if prompted or "=" in one else one[1:-1])
        else:
            names += _between_dots(text[start:end], all_dots=alone, last=end >= len(text))
        start = end + 1
    names = [name.strip() for name in names]
    # A blank one in the middle stays, for whoever checks names: it may be one that was forgotten.
    while names and not names[-1].strip("."):
        names.pop()
    return names[1:] if names and not names[0] else names


def _end_of_class(text: str, start: int) -> tuple[int, bool, bool]:
    """Where the class that starts there ends, whether there are quotes in it, and whether it has prompts."""
    place, quoted, prompted = start, False, False
    while True:
        in_quotes = _QUOTED_IN_LIST.match(text, place)
        quoted = quoted or in_quotes is not None
        found = in_quotes or _PLAIN_IN_LIST.match(text, place)
        assert found is not None  # a plain part may be empty
        place = found.end()
        if text[place : place + 1] != "=" and not (prompted and text[place : place + 1] == "|"):
            return place, quoted, prompted
        prompted = True
        place += 1


def _between_dots(text: str, *, all_dots: bool, last: bool) -> list[str]:
    """Names divided by dots that stand alone or, with `all_dots`, end a word."""
    if all_dots and text.rstrip().endswith(".") and ". " not in text.rstrip():
        text = _TIGHT_DOT.sub(". ", text)
    pieces = re.split(r"(?:(?<=\s)|^)\.(?=\s|$)", text)
    if all_dots:
        pieces = [name for piece in pieces for name in _between_sentences(piece)]
    return [piece.rstrip().removesuffix(".") if last and _ends(piece) else piece for piece in pieces]


def _between_sentences(text: str) -> list[str]:
    names = [""]
    for part in re.split(r"(?<=\.)\s+", text):
        names[-1] = f"{names[-1]} {part}".strip()
        if _ends(part):
            names[-1] = names[-1].removesuffix(".")
            names.append("")
    return names


def _ends(text: str) -> bool:
    """Whether a text ends in a dot that is no part of its last word."""
    *_, word = ("", *text.split())
    bare = word.removesuffix(".")
    return bare != word and len(bare) > 1 and "." not in bare and bare.casefold() not in _ABBREVIATIONS
