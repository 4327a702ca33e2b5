"""Finds the nouns of an image caption, which become the class names of the image (docs/pseudo_labels.md).

A list of English nouns is shipped. The words next to a listed noun decide whether it is one in this caption ("a bat")
or a verb ("bats a ball"). These rules are no parser: they need no package and no download, and read thousands of
captions a second on one core. In case of doubt they leave a word out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from cora.errors import VocabularyError
from cora.files import shipped_text
from cora.regions.class_names import clean_names

#: Words of the longest listed noun.
_LONGEST = 3
#: Tokens: a word with inner apostrophes or hyphens, a possessive ending, a number, or a mark that ends a phrase.
_TOKEN = re.compile(r"[^\W\d_]+(?:['-](?!s\b)[^\W\d_]+)*|'s\b|\d+|[.,;:!?()\"/]")
_BE = frozenset(("is", "are", "was", "were", "be", "being", "been", "am"))
#: After these a listed noun may be a verb in any form: "they park", "a sign that shows".
_SUBJECTS = frozenset(("i", "you", "he", "she", "it", "we", "they", "who", "which", "that"))
#: After these a listed noun is a verb if it has no ending: "trying to watch", but "close to trees".
_BEFORE_STEMS = frozenset(
    (
        *("to", "not", "n't", "can", "could", "will", "would", "may", "might", "must", "shall", "should"),
        *("do", "does", "did"),
    )
)
#: After these words, "to" comes before a noun: "next to", "close to".
_NEAR = frozenset(("next", "close", "up", "down", "over", "on", "back", "out", "attached", "tied", "adjacent"))
_DENIALS = frozenset(("no", "without", "not"))
#: Between a denial and its noun: "without a helmet".
_ARTICLES = frozenset(("a", "an", "any", "the"))


@dataclass(frozen=True)
class _Match:
    """A listed noun in a caption: words `start` to `end` (exclusive), and whether they are its plural."""

    start: int
    end: int
    noun: str
    plural: bool


class NounFinder:
    """Finds listed nouns in captions.

    Args:
        nouns: lower-case singular names of one to three words.
        verbs: those of the nouns that are verbs, too; they count only where the words next to them allow a noun.
        living: those of the nouns that can be the subject of an action. After them a noun in the form of a verb is a
            verb: "a man watches", but "two wine glasses".
        silent: those of the nouns that are never reported. They keep a compound from being reported by another of its
            words: a "skate park" is no skate.
        plurals: irregular plural -> singular.
        wanted: names to report, in this spelling; they need not be among `nouns`. None reports all nouns.

    Raises:
        VocabularyError: wanted names are blank, or differ only in case and number.

    Examples:
        >>> english_nouns().find("A man in front of two fire hydrants, behind a dog")
        ('man', 'fire hydrant', 'dog')
    """

    def __init__(
        self,
        *,
        nouns: Iterable[str],
        verbs: Iterable[str] = (),
        living: Iterable[str] = (),
        silent: Iterable[str] = (),
        plurals: Mapping[str, str] | None = None,
        wanted: Iterable[str] | None = None,
    ) -> None:
        self._plurals = dict(plurals or {})
        self._verbs, self._living = frozenset(verbs), frozenset(living)
        self._nouns, self._silent = frozenset(nouns), frozenset(silent)
        # After the lists are set: `fold` needs them to find singulars.
        self._spelling = None if wanted is None else self._spellings(clean_names(tuple(wanted)))
        if self._spelling is not None:
            self._nouns |= self._spelling.keys()
        self._longest = max([_LONGEST, *(len(noun.split()) for noun in self._spelling or ())])

    def find(self, caption: str) -> tuple[str, ...]:
        """The nouns of a caption, singular, each once, in the order of their appearance.

        Of several nouns in a row only the last counts ("garden table" is a table), unless they are listed together
        ("fire hydrant"). Nouns that the caption denies ("without a helmet") are left out.
        """
        words = _words(caption, self._nouns)
        found: dict[str, None] = {}
        for run in _runs(self._matches(words)):
            for noun in self._things(run, words):
                if self._spelling is not None:
                    if noun in self._spelling:
                        found[self._spelling[noun]] = None
                elif noun not in self._silent:
                    found[noun] = None
        return tuple(found)

    def fold(self, name: str) -> str:
        """A name in lower case, singular, with single blanks: "Fire_Hydrants" becomes "fire hydrant"."""
        words = name.replace("_", " ").casefold().split()
        whole = " ".join(words)
        if not words or whole in self._nouns:
            return whole
        forms = [" ".join([*words[:-1], form]) for form in self._singulars(words[-1])]
        # "traffic light" is listed as a whole, "garden chair" only by its last word.
        return next((form for form in forms if {form, form.split()[-1]} & self._nouns), whole)

    def name_of_tag(self, tag: str) -> str | None:
        """The name that a tag stands for.

        With wanted names it is the wanted name, or None if there is none. Without, it is the singular of a listed noun,
        or the tag as it is.
        """
        folded = self.fold(tag)
        if self._spelling is not None:
            return self._spelling.get(folded)
        return folded if folded in self._nouns else " ".join(tag.split())

    def _spellings(self, wanted: tuple[str, ...]) -> dict[str, str]:
        """Folded name -> the wanted name."""
        spelling: dict[str, str] = {}
        for name in wanted:
            other = spelling.setdefault(self.fold(name), name)
            if other != name:
                raise VocabularyError(f"class names: expected each in one form, got {other!r} and {name!r}; keep one")
        return spelling

    def _matches(self, words: list[str]) -> Iterator[_Match]:
        """The listed nouns of a caption from left to right, the longest first, without overlaps."""
        start = 0
        while start < len(words):
            match = self._match(words, start)
            if match is None:
                start += 1
            else:
                yield match
                start = match.end

    def _match(self, words: list[str], start: int) -> _Match | None:
        for end in range(min(start + self._longest, len(words)), start, -1):
            last = words[end - 1]
            for form in dict.fromkeys((last, *self._singulars(last))):
                name = " ".join([*words[start : end - 1], form])
                # "skate board" and "tea cup" are usually listed in one word.
                joined = name.replace(" ", "") if end - start == 2 else name
                for noun in (name, joined):
                    if noun in self._nouns:
                        return _Match(start, end, noun, form != last)
        return None

    def _things(self, run: list[_Match], words: list[str]) -> Iterator[str]:
        """The nouns of adjacent matches that stand for things: the last of a compound, and no verbs."""
        earlier, before = ["", "", *words[: run[0].start]][-2:]
        if before == "to" and earlier in _NEAR:
            before = "near"  # any preposition that no verb follows
        denied = _denied(words, run[0].start)
        head: _Match | None = None
        for match in run:
            if self._is_verb(match, head, before):
                if head is not None and not denied:
                    yield head.noun
                head, denied, before = None, False, match.noun
                continue
            if head is not None and head.plural and not denied:
                yield head.noun
            head, before = match, match.noun
        if head is not None and not denied:
            yield head.noun

    def _is_verb(self, match: _Match, previous: _Match | None, before: str) -> bool:
        """Whether a listed noun is a verb after the noun `previous` of its run, or as its first one after `before`."""
        if match.noun not in self._verbs or match.end - match.start > 1:
            return False
        if match.noun.endswith("ing"):
            return (previous is not None and previous.noun in self._living) or before in _BE
        if previous is None:
            return before in _SUBJECTS or (before in _BEFORE_STEMS and not match.plural)
        # Subject and verb agree: "dogs play" always, "a man watches" unless it is "wine glasses".
        if previous.plural or previous.noun in _PLURAL_ONLY:
            return not match.plural
        return match.plural and previous.noun in self._living

    def _singulars(self, word: str) -> Iterator[str]:
        """Words that `word` may be the plural of."""
        if word in self._plurals:
            yield self._plurals[word]
        for ending, other in _ENDINGS:
            if word.endswith(ending) and len(word) > len(ending) + 1:
                yield word.removesuffix(ending) + other


_PLURAL_ONLY = frozenset(("police", "cattle", "folk", "folks"))
_ENDINGS = (
    ("s", ""),
    ("ies", "y"),
    ("ves", "f"),
    ("ves", "fe"),
    *((f"{end}es", end) for end in ("s", "x", "z", "ch", "sh", "o")),
)


def _words(caption: str, known: frozenset[str]) -> list[str]:
    """The tokens of a caption; `known`: listed nouns."""
    words: list[str] = []
    for token in _TOKEN.findall(caption.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")):
        if "-" in token and token not in known:
            spaced = token.replace("-", " ")
            # "teddy-bear" is a listed noun in two words; "snow-covered" stays one word, so that no snow is found.
            words += spaced.split() if spaced in known else [token]
        else:
            words.append(token)
    return words


def _runs(matches: Iterable[_Match]) -> Iterator[list[_Match]]:
    """Matches in groups without another word between them."""
    run: list[_Match] = []
    for match in matches:
        if run and run[-1].end != match.start:
            yield run
            run = []
        run.append(match)
    if run:
        yield run


def _denied(words: list[str], start: int) -> bool:
    """Whether a denial comes before the words from `start` on, perhaps with an article between."""
    while start and words[start - 1] in _ARTICLES:
        start -= 1
    return start > 0 and words[start - 1] in _DENIALS


@cache
def _english() -> dict[str, Any]:
    text = shipped_text("data/nouns/english.txt")
    kinds: dict[str, str] = {}
    plurals: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        noun, _, kind = line.partition("\t")
        if kind.startswith("> "):
            plurals[noun] = kind.removeprefix("> ")
        else:
            kinds[noun] = kind
    verbs, living, silent = (frozenset(noun for noun, kind in kinds.items() if letter in kind) for letter in "vlx")
    return {"nouns": frozenset(kinds), "verbs": verbs, "living": living, "silent": silent, "plurals": plurals}


def english_nouns(wanted: Iterable[str] | None = None) -> NounFinder:
    """A finder of the shipped English nouns; with `wanted` it finds these class names only."""
    return _all_nouns() if wanted is None else NounFinder(**_english(), wanted=wanted)


@cache
def _all_nouns() -> NounFinder:
    return NounFinder(**_english())
