"""Basic-level names of the teacher's classes: what people call a Brittany spaniel is "dog".

    python recipes/nano/basic_names.py --kit ../shared/kit --wordnet WORDNET --out basic_names.json

CLIP's embedding of a breed is not near that of "dog". Captions hold both words; the teacher's labels hold the breed
only. WordNet's hypernyms give back the everyday word: every ImageNet class joins the group of its nearest ancestor
that COCO or LVIS names (COCO first), or stays alone. Words that the evaluation keeps as unseen synonyms are not used.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from wordnet import WordNet

#: Ancestors whose everyday sense is another than the one WordNet means there ("toy" dogs, "cap" of a mushroom ...).
WRONG_SENSE = {
    "toy",
    "wall socket",
    "cap",
    "skirt",
    "glass",
    "plate",
    "box",
    "pot",
    "dish",
    "ball",
    "wheel",
    "stool",
}
#: Where the path through WordNet misses the everyday word.
BY_HAND = {
    "coffee mug": "cup",
    "ox": "cow",
    "airliner": "airplane",
    "warplane": "airplane",
    "tusker": "elephant",
    "television": "tv",
    "screen": "tv",
    "monitor": "tv",
    "notebook": "laptop",
    "desktop computer": "tv",
    "electric locomotive": "train",
    "steam locomotive": "train",
    "toilet seat": "toilet",
    "washbasin": "sink",
    "streetcar": "train",
    "schooner": "boat",
    "trimaran": "boat",
    "catamaran": "boat",
    "pirate": "boat",
    "ballplayer": "person",
    "groom": "person",
    "scuba diver": "person",
    "ram": "sheep",
    "bighorn": "sheep",
    "kite": "bird",
}


def clean(name: str) -> str:
    """`arctic_(type_of_shoe)` -> `arctic`."""
    return re.sub(r"_\(.*\)", "", name).replace("_", " ").lower()


def basic_names(kit: Path, wordnet: WordNet, unseen: set[str]) -> dict[str, list[object]]:
    """For each of 1,000 ImageNet classes its group; for each group its name and the place of its embedding."""
    names = json.loads((kit / "clip_rn50_text" / "names.json").read_text())
    lvis = {clean(n): i for i, n in reversed(list(enumerate(names["lvis"]))) if clean(n) not in unseen}
    coco = {n: i for i, n in enumerate(names["coco"])}
    offsets = sorted(int(p.name[1:9]) for p in (kit / "photos_1k").glob("n*.jpg"))
    places: list[tuple[str, int]] = []
    for k, (offset, label) in enumerate(zip(offsets, names["imagenet"], strict=True)):
        ancestors = [[lemma.lower() for lemma in wordnet.synsets[o].lemmas] for o in closure(wordnet, offset)]
        by_hand = BY_HAND.get(label.split(",")[0])
        in_coco = [w for level in ancestors for w in level if w in coco and w not in WRONG_SENSE]
        in_lvis = [w for level in ancestors for w in level if w in lvis and w not in WRONG_SENSE]
        if by_hand or in_coco:
            places.append(("coco", coco[by_hand or in_coco[0]]))
        else:
            places.append(("lvis", lvis[in_lvis[0]]) if in_lvis else ("imagenet", k))
    groups = sorted(set(places))
    return {
        "names": [names[kind][i] for kind, i in groups],
        "places": [list(place) for place in groups],
        "group_of": [groups.index(place) for place in places],
    }


def closure(wordnet: WordNet, offset: int) -> list[int]:
    """The synset and its ancestors, nearest first; people stop at "person", not at "organism"."""
    order, front = [], [offset]
    while front:
        order += front
        front = [h for o in front for h in wordnet.synsets[o].hypernyms if h in wordnet.synsets]
    return order


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    from cora.evaluation.synonyms import load_synonyms

    held_out = {word.lower() for word in load_synonyms("coco").values()}
    made = basic_names(arguments.kit, WordNet(folder=arguments.wordnet), held_out)
    arguments.out.write_text(json.dumps(made))
