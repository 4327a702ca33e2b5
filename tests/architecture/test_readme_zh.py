"""The Chinese README shows what the English one shows: code, commands, links, numbers and headings."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
OTHER = "(the same page in the other language)"
_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# 100,000 and 1e-4, intervals such as 41.8-50.6, and percent.
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e-?\d+)?(?:-\d+(?:\.\d+)?)?(?: ?%)?")


def code_blocks(text: str) -> list[str]:
    return _FENCED.findall(text)


def prose(text: str) -> str:
    return _FENCED.sub("", text)


def inline_code(text: str) -> list[str]:
    """The commands that begin with `cora `, and all other code, too."""
    return [re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", prose(text))]


def links(text: str) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return [OTHER if target in (ENGLISH, CHINESE) else target for target in targets]


def table_rows(text: str) -> list[str]:
    """The number of cells of every row, and the numbers in it."""
    rows = [line for line in prose(text).splitlines() if line.startswith("|")]
    return [f"row of {row.count('|') - 1} cells with {' '.join(_NUMBER.findall(row)) or 'no numbers'}" for row in rows]


def numbers_outside_tables(text: str) -> list[str]:
    return [number for line in prose(text).splitlines() if line[:1] != "|" for number in _NUMBER.findall(line)]


def headings(text: str) -> list[str]:
    """Their levels."""
    return re.findall(r"^#+(?= )", prose(text), re.MULTILINE)


#: The order of some may change with that of the words in a sentence.
IN_ORDER = (code_blocks, table_rows, headings)
IN_ANY_ORDER = (inline_code, links, numbers_outside_tables)


def differences(parts: Callable[[str], list[str]], english: str, chinese: str) -> list[str]:
    """What either text lacks of the other's parts; if neither lacks any, where their order differs if it matters."""
    ours, theirs = parts(english), parts(chinese)
    lacking = {CHINESE: Counter(ours) - Counter(theirs), ENGLISH: Counter(theirs) - Counter(ours)}
    found = [f"{file} lacks {part} ({count} x)" for file, missing in lacking.items() for part, count in missing.items()]
    if found or parts not in IN_ORDER:
        return found
    return [
        f"{CHINESE} has {other} where {ENGLISH} has {one}"
        for one, other in zip(ours, theirs, strict=True)
        if one != other
    ]


@pytest.fixture(scope="module")
def english() -> str:
    return (ROOT / ENGLISH).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def chinese() -> str:
    return (ROOT / CHINESE).read_text(encoding="utf-8")


@pytest.mark.parametrize("parts", IN_ORDER + IN_ANY_ORDER)
def test_both_show_the_same(parts: Callable[[str], list[str]], english: str, chinese: str) -> None:
    assert parts(english)
    found = differences(parts, english, chinese)
    assert not found, "\n".join(found)


def test_each_links_the_other(english: str, chinese: str) -> None:
    assert english.count(f"]({CHINESE})") == 1, f"{ENGLISH} lacks its one link to {CHINESE}"
    assert chinese.count(f"]({ENGLISH})") == 1, f"{CHINESE} lacks its one link to {ENGLISH}"


TOY = """# Toy

Run `cora detect` on 2 images ([more](docs/a.md)).

```sh
cora detect a.jpg
```

## Numbers

| AP50 | 44.4 (41.8-50.6) |
| Right | 76.0 % |
"""


@pytest.mark.parametrize(
    ("parts", "old", "new", "told"),
    [
        (code_blocks, "a.jpg\n", "b.jpg\n", "lacks ```sh\ncora detect a.jpg\n```"),
        (inline_code, "`cora detect`", "it", "lacks cora detect (1 x)"),
        (links, "a.md", "b.md", "lacks docs/a.md (1 x)"),
        (table_rows, "44.4", "44.5", "lacks row of 2 cells with 50 44.4 41.8-50.6 (1 x)"),
        (table_rows, "76.0 %", "", "lacks row of 2 cells with 76.0 % (1 x)"),
        (numbers_outside_tables, "2 images", "images", "lacks 2 (1 x)"),
        (headings, "## Numbers", "Numbers", "lacks ## (1 x)"),
    ],
)
def test_a_difference_names_the_file_that_lacks_it(
    parts: Callable[[str], list[str]], old: str, new: str, told: str
) -> None:
    changed = TOY.replace(old, new)
    assert f"{CHINESE} {told}" in "\n".join(differences(parts, TOY, changed))
    assert f"{ENGLISH} {told}" in "\n".join(differences(parts, changed, TOY))


def test_a_difference_of_order_is_found() -> None:
    first, second = "| 1 |", "| 2 |"
    assert differences(table_rows, f"{first}\n{second}", f"{second}\n{first}") == [
        f"{CHINESE} has row of 1 cells with 2 where {ENGLISH} has row of 1 cells with 1",
        f"{CHINESE} has row of 1 cells with 1 where {ENGLISH} has row of 1 cells with 2",
    ]
    assert differences(links, "[a](a) [b](b)", "[b](b) [a](a)") == []
