"""The phrases nano's text tower learns from, and those it must never see.

Three kinds: names with a true CLIP embedding (the kit's), synonyms of those names, and other English nouns
out of WordNet, frequent ones first, bare or with an adjective. Held out, together with every phrase that
contains them: the synonyms of COCO names that the evaluation uses, and 200 of LVIS's own synonyms drawn at
random.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from wordfreq import zipf_frequency
from wordnet import WordNet

COLOURS = [
    "red",
    "blue",
    "green",
    "yellow",
    "black",
    "white",
    "brown",
    "grey",
    "pink",
    "orange",
    "purple",
    "golden",
    "silver",
]
ADJECTIVES = [
    "small",
    "large",
    "big",
    "old",
    "new",
    "wooden",
    "metal",
    "plastic",
    "glass",
    "broken",
    "empty",
    "striped",
    "toy",
    "antique",
    "modern",
    "leather",
    "paper",
    "ceramic",
    "stone",
    "shiny",
    "dirty",
    "wet",
    "round",
    "square",
    "electric",
    "baby",
    "wild",
    "young",
    "folded",
    "open",
    "closed",
    "colorful",
]
IRREGULAR = {
    "man": "men",
    "person": "people",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "mouse": "mice",
}


@dataclass(frozen=True)
class Phrase:
    """A noun phrase to learn.

    text: lower case; known: row of the kit's embeddings (coco, lvis, imagenet joined) that is its target, or
    -1; exact: the phrase is that row's name, not merely a synonym.
    """

    text: str
    known: int = -1
    exact: bool = False


@dataclass(frozen=True)
class HeldOut:
    """Synonyms kept for validation: COCO name -> synonym, and (LVIS row among the 1,203, synonym)."""

    coco: dict[str, str]
    lvis: list[tuple[int, str]]

    def pattern(self) -> re.Pattern[str]:
        """Matches a text that contains a held-out synonym, singular or plural, as whole words."""
        texts = sorted({*self.coco.values(), *(synonym for _, synonym in self.lvis)})
        forms = {form for text in texts for form in (text, text.replace("-", " "), plural(text))}
        return re.compile(r"(?<![a-z])(?:" + "|".join(re.escape(form) for form in sorted(forms)) + r")(?![a-z])")


def plural(text: str) -> str:
    """The plural of a noun phrase, by rule and a few exceptions."""
    head, _, last = text.rpartition(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        last += "es"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{head} {last}".strip()


def clean(name: str) -> str:
    """A dataset's name as words: `arctic_(type_of_shoe)` becomes "arctic (type of shoe)"."""
    return re.sub(r"\s+", " ", name.replace("_", " ")).strip().lower()


def bare(name: str) -> str:
    """The name without its bracketed comment."""
    return re.sub(r"\s*\(.*?\)", "", clean(name)).strip()


def held_out(names: dict[str, list[list[str]]], coco_synonyms: Path, *, count: int = 200, seed: int = 0) -> HeldOut:
    """Choose the held-out synonyms. Those that occur in a name of LVIS, COCO or ImageNet are not drawn."""
    coco: dict[str, str] = json.loads(coco_synonyms.read_text(encoding="utf-8"))
    taken = {bare(form) for group in names.values() for forms in group for form in forms[:1]}
    taken |= {bare(form) for forms in names["imagenet"] for form in forms} | set(coco.values())
    words = f" {' , '.join(taken)} "
    pairs = [
        (row, clean(form))
        for row, forms in enumerate(names["lvis"])
        for form in forms[1:]
        if "(" not in form and f" {clean(form)} " not in words
    ]
    random.Random(seed).shuffle(pairs)
    return HeldOut(coco=coco, lvis=pairs[:count])


def collect(
    names: dict[str, list[list[str]]], wordnet: WordNet, held: HeldOut, *, nouns: int, combined: int
) -> list[Phrase]:
    """All training phrases, without repeats; an exact name wins over a synonym, a synonym over a plain noun.

    Args:
        names: for coco, lvis, imagenet: the forms of each row, the name itself first.
        nouns: how many WordNet nouns at most, by frequency.
        combined: how many "adjective noun" phrases.
    """
    forbidden = held.pattern()
    phrases: dict[str, Phrase] = {}

    def add(text: str, known: int = -1, *, exact: bool = False) -> None:
        if text and not forbidden.search(text):
            phrases.setdefault(text, Phrase(text, known, exact))

    rows = [forms for group in ("coco", "lvis", "imagenet") for forms in names[group]]
    for row, forms in enumerate(rows):
        add(clean(forms[0]), row, exact=True)
    for row, forms in enumerate(rows):
        for form in forms[1:]:
            add(clean(form), row)
            if "(" not in form and "," not in form:
                add(bare(form), row)
    ranked = sorted(_noun_scores(wordnet).items(), key=lambda item: -item[1])
    for text, _ in ranked[:nouns]:
        add(text)
    draw = random.Random(1)
    heads = [
        phrase.text
        for phrase in phrases.values()
        if phrase.exact and phrase.text.count(" ") < 2 and "(" not in phrase.text
    ]
    heads += [text for text, _ in ranked[:4000]]
    for _ in range(combined):
        add(f"{draw.choice(COLOURS if draw.random() < 0.5 else ADJECTIVES)} {draw.choice(heads)}")
    return list(phrases.values())


def _noun_scores(wordnet: WordNet) -> dict[str, float]:
    """Frequency (Zipf scale) of nouns; concrete ones are preferred, compounds count by their rarest word."""
    scores: dict[str, float] = {}
    for text, senses in wordnet.senses.items():
        words = text.split()
        if len(words) > 3 or not re.fullmatch(r"[a-z][a-z' -]+", text) or len(text) < 3:
            continue
        kinds = [wordnet.synsets[offset] for offset in senses[:3]]
        proper = all(any(lemma != lemma.lower() for lemma in kind.lemmas) for kind in kinds)
        rarest = min(zipf_frequency(word, "en") for word in words)
        concrete = any(kind.concrete for kind in kinds)
        if proper or rarest < (1.8 if concrete else 3.4):
            continue
        scores[text] = rarest + (1.5 if concrete else 0.0) - 0.6 * (len(words) - 1)
    return scores
