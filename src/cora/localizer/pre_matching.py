"""Anchor pre-matching (the paper's section of this name): give each anchor the class most similar to its region.

The text embedding of that class becomes the content of the anchor's query, so each query looks for one given class.
This lets the decoder, which learns from boxes of base classes, localize novel classes, too.
"""

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
    """Choose for each anchor the class with the highest cosine between text embedding and region embedding.

    A class weight multiplies the *probability* of the class, softmax(logit_scale * cosine): 1 changes nothing, more
    than 1 favours the class, even if its cosine is negative.

    Args:
        region_embeddings: [B, N, D] of the anchors' regions, of any norm.
        class_embeddings: [C, D] of any norm. A class that class dropout switched off is a row of zeros.
        weights: [C] class weights above 0; None for ones.
        top_k: classes per anchor, best first. The caller then repeats the anchors,
            `anchors.repeat_interleave(top_k, dim=1)`, so that each pair of anchor and class is a query.
        logit_scale: CLIP's factor on the cosine; matters only with weights.

    Returns:
        [B, N * top_k] int64 class indices, 0..C-1.

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
        # In log space: log(weight * softmax(scale * cosine)) / scale is this sum, apart from a constant per region.
        scores = scores + weights.log().to(scores) / logit_scale
    if top_k == 1:
        return scores.argmax(dim=-1)
    return torch.topk(scores, top_k, dim=-1).indices.flatten(-2)
