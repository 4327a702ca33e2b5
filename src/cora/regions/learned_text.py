"""Learned text: context vectors in the input of the text tower, or offsets on its output. It is not in the paper.

Both are learned on boxes of base classes (`cora text-prompts`) and apply to any class name. The rest of the detector
does not change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cora.errors import VocabularyError
from cora.names import name_key, spoken_name
from cora.regions.templates import shorten
from cora.towers.text_tower import TextTower, byte_pair_tokenizer


@dataclass(frozen=True, kw_only=True)
class LearnedTextConfig:
    """Sizes from which learned text is rebuilt before its weights are loaded.

    Attributes:
        kind: "context" (`LearnedContext`) or "offsets" (`LearnedOffsets`).
        width: width of the text transformer for a context, D for offsets.
        length: number of context vectors; 0 for offsets.
        rank: rank of the offsets' low-rank map; 0 for none.
        names: class names that have their own offset.

    Raises:
        ValueError: an unknown kind, or sizes that do not fit it.
    """

    kind: Literal["context", "offsets"]
    width: int
    length: int = 0
    rank: int = 0
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if self.kind not in ("context", "offsets"):
            raise ValueError(f"learned text: expected the kind context or offsets, got {self.kind!r}")
        if self.width < 1 or self.rank < 0:
            raise ValueError(f"learned text: expected width >= 1 and rank >= 0, got {self.width} and {self.rank}")
        if (self.kind == "context") != (self.length > 0):
            raise ValueError(f"learned text: expected a length for context and for nothing else, got {self.length}")


class LearnedContext(nn.Module):
    """Learned vectors instead of a template's words: CoOp's unified context (Zhou et al., 2022, arXiv 2109.01134).

    The frozen text tower embeds the token sequence [start, v_1 .. v_M, class name, end].

    Args:
        length: M, number of vectors.
        width: width of the text transformer.
    """

    def __init__(self, *, length: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(length, width).normal_(std=0.02))

    @classmethod
    def from_text(cls, text_tower: TextTower, text: str = "a photo of a") -> Self:
        """A context initialised with the token embeddings of `text`, one vector per token.

        Raises:
            VocabularyError: the text has no token, or leaves no room for a name.
        """
        tokens = byte_pair_tokenizer(int(text_tower.net.vocab_size)).encode(text)
        if not 1 <= len(tokens) <= text_tower.context_length - 3:
            raise VocabularyError(
                f"context {shorten(repr(text))}: expected 1 to {text_tower.context_length - 3} tokens, "
                f"got {len(tokens)}"
            )
        table = text_tower.net.token_embedding.weight
        context = cls(length=len(tokens), width=table.shape[1]).to(table)
        with torch.no_grad():
            context.vectors.copy_(table[tokens])
        return context

    @property
    def config(self) -> LearnedTextConfig:
        """Sizes of this context."""
        return LearnedTextConfig(kind="context", width=self.vectors.shape[1], length=self.vectors.shape[0])

    @property
    def fingerprint(self) -> str:
        """Hash of the vectors, part of every cache key."""
        return hashlib.sha256(self.vectors.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()[:20]

    def encode(self, text_tower: TextTower, names: Sequence[str]) -> Tensor:
        """Embed n class names: [n, D], L2-normalised. Gradients reach the vectors.

        Raises:
            VocabularyError: a name and the context together do not fit the tower's context.
        """
        table, length = text_tower.net.token_embedding, len(self.vectors)
        rows = [self._tokens(text_tower, name) for name in names]
        longest = max(len(row) for row in rows)
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = torch.tensor(row)
        vectors = table(tokens.to(table.weight.device))
        context = self.vectors.to(vectors).expand(len(rows), -1, -1)
        whole = torch.cat([vectors[:, :1], context, vectors[:, 1 + length :]], dim=1)
        ends = torch.tensor([len(row) - 1 for row in rows], device=whole.device)
        return text_tower.encode_vectors(whole, ends)

    def _tokens(self, text_tower: TextTower, name: str) -> list[int]:
        """Token ids of [start, context, name, end], with zeros for the context."""
        tokenizer = byte_pair_tokenizer(int(text_tower.net.vocab_size))
        words, length = tokenizer.encode(spoken_name(name)), len(self.vectors)
        if len(words) + length + 2 > text_tower.context_length:
            raise VocabularyError(
                f"class name {shorten(repr(name))}: expected at most {text_tower.context_length - length - 2} tokens "
                f"beside {length} learned ones, got {len(words)}; use a shorter name"
            )
        return [tokenizer.sot_token_id, *[0] * length, *words, tokenizer.eot_token_id]


class LearnedOffsets(nn.Module):
    """A learned residual on class embeddings: e' = normalize(e + s + U V e + o_name). It starts as the identity.

    The shift s [D] and the low-rank map U V [D, D] apply to any class name. Only the names seen in training have their
    own offset o_name [D].

    Args:
        width: D.
        rank: rank of U V; 0 for none.
        names: class names that have their own offset.
    """

    def __init__(self, *, width: int, rank: int = 16, names: Sequence[str] = ()) -> None:
        super().__init__()
        self.names = tuple(names)
        self._rows = {name_key(name): row for row, name in enumerate(self.names)}
        self.shift = nn.Parameter(torch.zeros(width))
        self.down = nn.Parameter(torch.empty(rank, width).normal_(std=width**-0.5))
        self.up = nn.Parameter(torch.zeros(width, rank))
        self.own = nn.Parameter(torch.zeros(len(self.names), width))

    @property
    def config(self) -> LearnedTextConfig:
        """Sizes of these offsets."""
        return LearnedTextConfig(kind="offsets", width=self.shift.shape[0], rank=self.down.shape[0], names=self.names)

    def forward(self, embeddings: Tensor, names: Sequence[str], own: Tensor | None = None) -> Tensor:
        """Add the residual to class embeddings.

        Args:
            embeddings: [n, D] of the names, unit norm.
            names: n class names.
            own: [n] factor on each name's own offset, since training drops some at random; None for ones.

        Returns:
            [n, D], unit norm.
        """
        shifted = self._add_shared(embeddings)
        rows = [self._rows.get(name_key(name), -1) for name in names]
        known = [index for index, row in enumerate(rows) if row >= 0]
        if known:
            offsets = self.own[[rows[index] for index in known]]
            factor = 1.0 if own is None else own[known][:, None]
            shifted = shifted.index_add(0, torch.tensor(known, device=shifted.device), offsets * factor)
        return F.normalize(shifted, dim=-1)

    @torch.no_grad()
    def lead_to(self, targets: Tensor, embeddings: Tensor, names: Sequence[str]) -> None:
        """Set the names' own offsets so that `forward` maps their embeddings [n, D] to the unit targets [n, D].

        Raises:
            KeyError: a name does not have its own offset.
        """
        self.own[[self._rows[name_key(name)] for name in names]] = targets - self._add_shared(embeddings)

    def _add_shared(self, embeddings: Tensor) -> Tensor:
        """The part of the residual that all names share: e + s + U V e [n, D], not normalised."""
        return embeddings + self.shift + embeddings @ self.down.T @ self.up.T


LearnedText = LearnedContext | LearnedOffsets


def build_learned_text(config: LearnedTextConfig) -> LearnedText:
    """Freshly initialised, frozen learned text of these sizes; training tasks unfreeze it."""
    learned: LearnedText
    if config.kind == "context":
        learned = LearnedContext(length=config.length, width=config.width)
    else:
        learned = LearnedOffsets(width=config.width, rank=config.rank, names=config.names)
    return learned.requires_grad_(False)
