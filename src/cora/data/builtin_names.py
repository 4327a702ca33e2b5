"""The names of the built-in vocabulary: everyday things, for those who only want to look.

They are the categories of LVIS v1 (Gupta, Dollar and Girshick, 2019), whose list `splits/lvis.json` holds. They are
written as people say them: without the remark in brackets that LVIS adds where a name needs none, and by COCO's name
where both have a class of their own for it. A few names stand for kinds whose members are in the list; they are left
out, since they would compete with those. A few things that COCO has and LVIS lacks are added.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from cora.data.class_split import known_split
from cora.names import name_key, spoken_name

_REMARK = re.compile(r"\s*\(.*?\)")

#: Category of LVIS as it is spoken -> how the list has it.
_SPOKEN = {
    "arctic (type of shoe)": "overshoe",
    "ax": "axe",
    "baguet": "baguette",
    "bow (decorative ribbons)": "ribbon bow",
    "bow (weapon)": "archery bow",
    "broach": "brooch",
    "cab (taxi)": "taxi",
    "cantaloup": "cantaloupe",
    "cellular telephone": "cell phone",
    "chili (vegetable)": "chili pepper",
    "cock": "rooster",
    "computer keyboard": "keyboard",
    "control": "game controller",
    "crisp (potato chip)": "potato chip",
    "date (fruit)": "date (fruit)",
    "domestic ass": "donkey",
    "doughnut": "donut",
    "edible corn": "corn",
    "file (tool)": "file (tool)",
    "fireplug": "fire hydrant",
    "fish (food)": "cooked fish",
    "football (American)": "American football",
    "hair dryer": "hair drier",
    "hand glass": "hand mirror",
    "heart": "heart shape",
    "icecream": "ice cream",
    "jean": "jeans",
    "laptop computer": "laptop",
    "legging (clothing)": "leggings",
    "mat (gym equipment)": "gym mat",
    "microwave oven": "microwave",
    "monitor (computer equipment) computer monitor": "computer monitor",
    "mouse (computer equipment)": "computer mouse",
    "necktie": "tie",
    "octopus (animal)": "octopus",
    "octopus (food)": "cooked octopus",
    "pan (for cooking)": "pan",
    "pan (metal container)": "baking pan",
    "pin (non jewelry)": "pin",
    "poker (fire stirring tool)": "fire poker",
    "pop (soda)": "soda",
    "postbox (public)": "postbox",
    "puffer (fish)": "pufferfish",
    "puncher": "hole puncher",
    "runner (carpet)": "carpet runner",
    "salmon (fish)": "salmon",
    "salmon (food)": "salmon fillet",
    "scale (measuring instrument)": "weighing scale",
    "sherbert": "sherbet",
    "short pants": "shorts",
    "ski": "skis",
    "sofa": "couch",
    "straw (for drinking)": "drinking straw",
    "tank (storage vessel)": "storage tank",
    "television set": "tv",
    "trunk": "trunk (luggage)",
    "truffle (chocolate)": "chocolate truffle",
    "wineglass": "wine glass",
}

#: Kinds of things whose members the list has.
_KINDS = (
    "cleansing agent", "coloring material", "condiment", "cooking utensil", "cover", "legume", "motor vehicle",
    "musical instrument", "pet", "rodent", "sportswear",
)  # fmt: skip

#: Things that COCO has and LVIS lacks, and some that every home and street has.
_ADDED = ("hot dog", "potted plant", "door", "window", "tree", "flower", "house", "shelf")


@cache
def builtin_names() -> tuple[str, ...]:
    """The names, distinct, in the order of LVIS's file; the added ones come last."""
    spoken = [spoken_name(name) for name in known_split("lvis").all]
    bare = Counter(name_key(_REMARK.sub("", name)) for name in spoken)
    names = [_SPOKEN.get(name) or _shown(name, bare) for name in spoken if name not in _KINDS]
    return (*names, *_ADDED)


def _shown(name: str, bare: Counter[str]) -> str:
    short = _REMARK.sub("", name)
    return short if bare[name_key(short)] == 1 else name
