"""The built-in vocabulary: names of everyday things, for use where nobody gives class names.

They are the categories of LVIS v1 (Gupta, Dollar and Girshick, 2019), which `splits/lvis.json` lists, with these
changes:

- LVIS adds a remark in brackets to some names. It stays only where two names would be equal without it.
- A class that COCO has, too, has COCO's name.
- A name of a kind of things whose members are in the list is left out, since it would compete with them.
- A few classes that COCO has and LVIS lacks are added.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache

from cora.data.class_split import known_split
from cora.files import shipped_text
from cora.names import name_key, spoken_name

_REMARK = re.compile(r"\s*\(.*?\)")


@cache
def builtin_names() -> tuple[str, ...]:
    """The names, distinct, in the order of LVIS's file; the added ones come last."""
    names = [spoken_name(name) for name in known_split("lvis").all]
    short_names = {name: _REMARK.sub("", name) for name in names}
    counts = Counter(map(name_key, short_names.values()))
    # spoken: name in LVIS -> name to use; kinds: LVIS's names to leave out; added: names that LVIS lacks.
    lists = json.loads(shipped_text("data/nouns/builtin.json"))
    kept = [
        lists["spoken"].get(name) or (short if counts[name_key(short)] == 1 else name)
        for name, short in short_names.items()
        if name not in lists["kinds"]
    ]
    return (*kept, *lists["added"])
