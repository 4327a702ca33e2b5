"""Anchor pre-matching: every anchor gets the class whose embedding is most similar to its region's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cora.errors import VocabularyError


def pre_match(
    region_embeddings: Tensor,
    class_embeddings: Tensor,
    weights: Tensor | None = None,
    *,
    top_k: int = 1,
    logit_scale: float = 100.0,
) -> Tensor:
    """The class of highest cosine with the region of each anchor.

    A weight multiplies the *probability* of its class, softmax(logit_scale * cosine): 1 changes nothing, more than 1
    favours the class whatever the sign of its cosine.

    Args:
        region_embeddings: [B, N, D]; need not be unit.
        class_embeddings: [C, D]; need not be unit. A class switched off by class dropout is a row of zeros.
        weights: [C] above 0; None for ones.
        top_k: classes per anchor, best first. The caller then repeats the anchors,
            `anchors.repeat_interleave(top_k, dim=1)`, so that each pair of anchor and class is a query.
        logit_scale: factor on the cosine (CLIP's); matters only with weights.

    Returns:
        [B, N * top_k] int64 in 0..C-1.

    Raises:
        VocabularyError: no class, fewer classes than `top_k`, or weights that are not positive or not one per class.
    """
    classes = class_embeddings.shape[0]
    if not 1 <= top_k <= classes:
        raise VocabularyError(
            f"pre-matching: expected top_k between 1 and the number of classes = {classes}, got {top_k}"
        )
    scores = F.normalize(region_embeddings, dim=-1) @ F.normalize(class_embeddings, dim=-1).T
    if weights is not None:
        if weights.shape != (classes,):
            raise VocabularyError(
                f"class weights: expected one for each of {classes} classes, got {list(weights.shape)}"
            )
        if not bool((weights > 0).all()):
            raise VocabularyError(f"class weights: expected numbers above 0, got {float(weights.min())}")
        scores = scores + weights.log().to(scores) / logit_scale
    if top_k == 1:
        return scores.argmax(dim=-1)
    return torch.topk(scores, top_k, dim=-1).indices.flatten(-2)
