"""Nouns of a caption: names of the things that a detector can be asked for (docs/pseudo_labels.md).

A list of English nouns is shipped; the few words around a candidate tell whether a thing is meant ("a bat", "bats a
ball"). That is no parser: it needs no package and no download, reads thousands of captions a second on one core, and
errs on the side of leaving a word out.
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

_LONGEST = 3
#: A word with inner apostrophes or hyphens, a possessive ending, a number, or a mark that ends a phrase.
_TOKEN = re.compile(r"[^\W\d_]+(?:['-](?!s\b)[^\W\d_]+)*|'s\b|\d+|[.,;:!?()\"/]")
_BE = frozenset(("is", "are", "was", "were", "be", "being", "been", "am"))
#: What follows these may be a verb in any form: "they park", "a sign that shows".
_SUBJECTS = frozenset(("i", "you", "he", "she", "it", "we", "they", "who", "which", "that"))
#: What follows these is a verb if it has no ending: "trying to watch", but "close to trees".
_BEFORE_STEMS = frozenset(
    (
        *("to", "not", "n't", "can", "could", "will", "would", "may", "might", "must", "shall", "should"),
        *("do", "does", "did"),
    )
)
#: "next to", "close to": no verb follows.
_NEAR = frozenset(("next", "close", "up", "down", "over", "on", "back", "out", "attached", "tied", "adjacent"))
_DENIALS = frozenset(("no", "without", "not"))
#: Between a denial and its noun: "without a helmet".
_ARTICLES = frozenset(("a", "an", "any", "the"))


@dataclass(frozen=True)
class _Match:
    """Words start..end of a caption that a listed noun covers."""

    start: int
    end: int
    noun: str
    plural: bool


class NounFinder:
    """Finds listed nouns in captions.

    Args:
        nouns: lower-case singular names of one to three words.
        verbs: those of them that are verbs as well; they count only where the words around allow a noun.
        living: those of them that act: "a man watches" has a verb, "two wine glasses" a noun after a noun.
        silent: those of them that are no things but may head a compound: a "skate park" is no skate.
        plurals: irregular plural to singular.
        wanted: report these names only, as they are spelled here; they need not be among `nouns`. None reports all.

    Raises:
        VocabularyError: wanted names are blank, or the same but for case and number.

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
        # Only now can names be folded: the plural of a listed noun is known by the list.
        self._spelling = None if wanted is None else self._spellings(clean_names(tuple(wanted)))
        if self._spelling is not None:
            self._nouns |= self._spelling.keys()
        self._longest = max([_LONGEST, *(len(noun.split()) for noun in self._spelling or ())])

    def find(self, caption: str) -> tuple[str, ...]:
        """Names of the things that a caption mentions, singular, each once, in the order of their appearance.

        Of nouns in a row the last counts ("garden table" is a table) unless together they are listed ("fire hydrant").
        What the caption denies ("without a helmet") is left out.
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
        """A name in lower case, singular, with single blanks: "Fire_Hydrants" is "fire hydrant"."""
        words = name.replace("_", " ").casefold().split()
        whole = " ".join(words)
        if not words or whole in self._nouns:
            return whole
        forms = [" ".join([*words[:-1], form]) for form in self._singulars(words[-1])]
        # "traffic lights" is listed, "garden chairs" only by its last word.
        return next((form for form in forms if {form, form.split()[-1]} & self._nouns), whole)

    def name_of_tag(self, tag: str) -> str | None:
        """A tag as a name: as wanted names are spelled, None if it is not wanted; else singular if it is listed."""
        folded = self.fold(tag)
        if self._spelling is not None:
            return self._spelling.get(folded)
        return folded if folded in self._nouns else " ".join(tag.split())

    def _spellings(self, wanted: tuple[str, ...]) -> dict[str, str]:
        spelling: dict[str, str] = {}
        for name in wanted:
            other = spelling.setdefault(self.fold(name), name)
            if other != name:
                raise VocabularyError(f"class names: expected each in one form, got {other!r} and {name!r}; keep one")
        return spelling

    def _matches(self, words: list[str]) -> Iterator[_Match]:
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
        """The nouns of adjacent matches that stand for things: heads of compounds, no verbs."""
        before, earlier = ["", "", *words[: run[0].start]][-1:-3:-1]
        if before == "to" and earlier in _NEAR:
            before = "near"
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
        """Singulars that a plural can have."""
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
    words: list[str] = []
    for token in _TOKEN.findall(caption.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")):
        if "-" in token and token not in known:
            spaced = token.replace("-", " ")
            # "teddy-bear" is a listed noun; "snow-covered" must not show its snow.
            words += spaced.split() if spaced in known else [token]
        else:
            words.append(token)
    return words


def _runs(matches: Iterable[_Match]) -> Iterator[list[_Match]]:
    run: list[_Match] = []
    for match in matches:
        if run and run[-1].end != match.start:
            yield run
            run = []
        run.append(match)
    if run:
        yield run


def _denied(words: list[str], start: int) -> bool:
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
    """A finder with the shipped English nouns; `wanted` limits it to a list of class names."""
    return _all_nouns() if wanted is None else NounFinder(**_english(), wanted=wanted)


@cache
def _all_nouns() -> NounFinder:
    return NounFinder(**_english())
