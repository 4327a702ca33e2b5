"""The kit's names in the words of nano's own text tower: what the image tower has to meet.

The text tower gives CLIP's embeddings back at a cosine below 1 (its width bounds it). An image tower that is aligned to
CLIP's would pay for that difference with every name.
"""

from __future__ import annotations

from pathlib import Path

import torch
from basic_names import clean
from open_clip.transformer import QuickGELU, TextTransformer
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from cora.evaluation.synonyms import load_synonyms
from cora.towers.text_tower import TextTower

TEXT_HEADS = 4


def read_text_tower(path: Path) -> TextTower:
    """The text tower of `text_tower.py`'s file; its sizes are read off the weights."""
    state = {name: value.float() for name, value in load_file(path).items()}
    context, width = state["positional_embedding"].shape
    net = TextTransformer(
        context_length=context,
        vocab_size=state["token_embedding.weight"].shape[0],
        width=width,
        heads=TEXT_HEADS,
        layers=1 + max(int(k.split(".")[2]) for k in state if k.startswith("transformer.resblocks.")),
        output_dim=state["text_projection"].shape[1],
        act_layer=QuickGELU,
    )
    net.load_state_dict(state, strict=False)  # all but the attention mask, which is no weight
    return TextTower(net=net)


def own_names(path: Path, names: dict[str, list[str]]) -> dict[str, Tensor]:
    """Unit embeddings of "a NAME" by group; a name that lists synonyms gets the mean of theirs.

    Words that the evaluation keeps as unseen synonyms are left out; a name of which nothing is left gets zeros.

    Args:
        names: lists of names, for instance {"imagenet": ["tench, Tinca tinca", ...]}.

    Returns:
        [n, 512] a group.
    """
    tower, result = read_text_tower(path), {}
    unseen = {word.lower() for word in load_synonyms("coco").values()}
    for group, listed in names.items():
        forms = [(row, clean(form)) for row, name in enumerate(listed) for form in name.split(", ")]
        forms = [(row, form) for row, form in forms if form not in unseen]
        vectors = tower.encode([f"a {form}" for _, form in forms])
        sums = torch.zeros(len(listed), vectors.shape[1]).index_add_(
            0, torch.tensor([row for row, _ in forms]), vectors
        )
        result[group] = F.normalize(sums, dim=-1)
    return result
