"""The attention blocks of DAB-DETR (arXiv 2201.12329), each with residual and norm (post-norm).

`MapAttention` is the encoder's self-attention, `QueryAttention` the decoder's, `CrossAttention` lets the decoder's
queries attend to the map. Tensors are batch first: [B, tokens, dim].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cora.localizer.memory import Memory

#: Queries per block of `_attend_in_blocks`: the scores of 256 queries for some thousand keys fit into the CPU cache.
QUERIES_AT_ONCE = 256


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Split tokens [B, N, heads * d] into heads [B, heads, N, d], without copying."""
    batch, count, width = tokens.shape
    return tokens.view(batch, count, heads, width // heads).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, *, visible: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention; the outputs of all heads are concatenated.

    Args:
        query: [B, heads, N, d].
        key: [B, heads, M, d].
        value: [B, heads, M, v], v at most d.
        visible: bool, broadcastable to [B, heads, N, M]; True where the query may attend to the key (PyTorch's
            `attn_mask`); None: all may.
        dropout: probability with which an attention weight is dropped, 0..1.

    Returns:
        [B, N, heads * v].
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and not (dropout or torch.is_grad_enabled()):
        return _attend_in_blocks(query, key, value, visible)
    width = value.shape[-1]
    # Fused kernels need values as wide as queries; padding with zeros costs far less than an unfused kernel.
    value = F.pad(value, (0, query.shape[-1] - width))
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
    return attended[..., :width].transpose(1, 2).flatten(-2)


def _attend_in_blocks(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
    """`attend` by plain matrix products, one head and one block of queries at a time, for bfloat16 inference on a CPU.

    The scores of a block fit into the CPU cache, so this is faster there than the fused kernel. Training uses the fused
    kernel, which needs no memory for the scores.
    """
    query, key = query * query.shape[-1] ** -0.5, key.transpose(-1, -2)
    if visible is not None:
        visible = visible.expand(*query.shape[:-1], key.shape[-1])
    heads = []
    for head in range(query.shape[1]):
        blocks = []
        for start in range(0, query.shape[2], QUERIES_AT_ONCE):
            rows = slice(start, start + QUERIES_AT_ONCE)
            scores = query[:, head, rows] @ key[:, head]
            if visible is not None:
                scores = scores.masked_fill(~visible[:, head, rows], -torch.inf)
            blocks.append(scores.softmax(dim=-1) @ value[:, head])
        heads.append(torch.cat(blocks, dim=1))
    return torch.cat(heads, dim=-1)


class AttentionBlock(nn.Module):
    """Base class of the attention blocks: output projection, dropout, residual, norm.

    Args:
        dim: width of the tokens or queries.
        heads: number of heads.
        dropout: dropout probability of attention weights and of outputs, in training.
        head_dim: width d of a head; 0 stands for dim / heads. Pruned blocks have fewer heads of the same width.
    """

    def __init__(self, *, dim: int, heads: int, dropout: float, head_dim: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.inner = heads * (head_dim or dim // heads)
        self.output = nn.Linear(self.inner, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def attention_dropout(self) -> float:
        """Dropout probability of attention weights: 0 outside training."""
        return self.dropout.p if self.training else 0.0

    def add(self, inputs: Tensor, update: Tensor) -> Tensor:
        """Project attention's output `update` [B, N, heads * d], add it to `inputs` [B, N, dim], and normalise."""
        outputs: Tensor = self.norm(inputs + self.dropout(self.output(update)))
        return outputs


class MapAttention(AttentionBlock):
    """The encoder's self-attention over map cells; positions are added to queries and keys, not to values."""

    def __init__(self, *, dim: int, heads: int, dropout: float, head_dim: int = 0) -> None:
        super().__init__(dim=dim, heads=heads, dropout=dropout, head_dim=head_dim)
        self.query = nn.Linear(dim, self.inner)
        self.key = nn.Linear(dim, self.inner)
        self.value = nn.Linear(dim, self.inner)

    def forward(self, tokens: Tensor, positions: Tensor, visible: Tensor | None) -> Tensor:
        """Update tokens [B, M, dim] of M cells with positions [B, M, dim]; `visible` as in `attend`."""
        positioned = tokens + positions
        update = attend(
            split_heads(self.query(positioned), self.heads),
            split_heads(self.key(positioned), self.heads),
            split_heads(self.value(tokens), self.heads),
            visible=visible,
            dropout=self.attention_dropout(),
        )
        return self.add(tokens, update)


class QueryAttention(AttentionBlock):
    """The decoder's self-attention among queries; content and position are projected separately, then added."""

    def __init__(self, *, dim: int, heads: int, dropout: float, head_dim: int = 0) -> None:
        super().__init__(dim=dim, heads=heads, dropout=dropout, head_dim=head_dim)
        self.content_query = nn.Linear(dim, self.inner)
        self.content_key = nn.Linear(dim, self.inner)
        self.position_query = nn.Linear(dim, self.inner)
        self.position_key = nn.Linear(dim, self.inner)
        self.value = nn.Linear(dim, self.inner)

    def forward(self, content: Tensor, positions: Tensor, visible: Tensor | None) -> Tensor:
        """Update the content [B, N, dim] of N queries with positions [B, N, dim]; `visible` as in `attend`."""
        update = attend(
            split_heads(self.content_query(content) + self.position_query(positions), self.heads),
            split_heads(self.content_key(content) + self.position_key(positions), self.heads),
            split_heads(self.value(content), self.heads),
            visible=visible,
            dropout=self.attention_dropout(),
        )
        return self.add(content, update)


class CrossAttention(AttentionBlock):
    """The decoder's cross-attention from queries to map cells, of Conditional DETR (arXiv 2108.06152).

    In every head, the content part and the position part (sine features) are concatenated, so queries and keys are
    twice as wide as values. The first layer also adds positions to the content, which does not yet contain any.

    Args:
        dim: width of queries and map tokens.
        heads: number of heads.
        dropout: dropout probability of attention weights and of outputs, in training.
        first: whether this is the first layer of the decoder.
        head_dim: width of a head; 0 stands for dim / heads.
    """

    def __init__(self, *, dim: int, heads: int, dropout: float, first: bool, head_dim: int = 0) -> None:
        super().__init__(dim=dim, heads=heads, dropout=dropout, head_dim=head_dim)
        self.content_query = nn.Linear(dim, self.inner)
        self.content_key = nn.Linear(dim, self.inner)
        self.position_query = nn.Linear(dim, self.inner) if first else None
        self.position_key = nn.Linear(dim, self.inner)
        self.sine_query = nn.Linear(dim, self.inner)
        self.value = nn.Linear(dim, self.inner)

    def forward(self, content: Tensor, positions: Tensor, sine: Tensor, memory: Memory) -> Tensor:
        """Let the queries attend to the encoded map.

        Args:
            content: [B, N, dim].
            positions: [B, N, dim] sine features of the anchors after an MLP; used in the first layer only.
            sine: [B, N, dim] sine features of the anchors' centres, scaled by content and by size
                (DAB-DETR's modulated attention, computed in `Decoder`).
            memory: the encoded map; queries attend to all its cells but padding.

        Returns:
            [B, N, dim] updated content.
        """
        query, key = self.content_query(content), self.content_key(memory.tokens)
        position_key = self.position_key(memory.positions)
        if self.position_query is not None:
            query, key = query + self.position_query(positions), key + position_key
        update = attend(
            self._concatenate(query, self.sine_query(sine)),
            self._concatenate(key, position_key),
            split_heads(self.value(memory.tokens), self.heads),
            visible=memory.visible,
            dropout=self.attention_dropout(),
        )
        return self.add(content, update)

    def _concatenate(self, content: Tensor, position: Tensor) -> Tensor:
        """Concatenate content and position [B, N, heads * d] in every head: [B, heads, N, 2 d]."""
        return torch.cat([split_heads(content, self.heads), split_heads(position, self.heads)], dim=-1)
