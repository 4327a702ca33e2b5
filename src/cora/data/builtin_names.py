"""The names of the built-in vocabulary: everyday things, for those who only want to look.

They are the categories of LVIS v1 (Gupta, Dollar and Girshick, 2019), whose list `splits/lvis.json` holds. They are
written as people say them: without the remark in brackets that LVIS adds where a name needs none, and by COCO's name
where both have a class of their own for it. A few names stand for kinds whose members are in the list; they are left
out, since they would compete with those. A few things that COCO has and LVIS lacks are added.
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
    spoken = [spoken_name(name) for name in known_split("lvis").all]
    bare = Counter(name_key(_REMARK.sub("", name)) for name in spoken)
    # spoken: name of LVIS -> that of the list; kinds: names whose members the list has; added: what LVIS lacks.
    lists = json.loads(shipped_text("data/nouns/builtin.json"))
    names = [lists["spoken"].get(name) or _shown(name, bare) for name in spoken if name not in lists["kinds"]]
    return (*names, *lists["added"])


def _shown(name: str, bare: Counter[str]) -> str:
    short = _REMARK.sub("", name)
    return short if bare[name_key(short)] == 1 else name
