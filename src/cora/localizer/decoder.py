"""The decoder: every layer refines the anchor boxes of its queries (DAB-DETR, Liu et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cora.localizer.anchors import inverse_sigmoid
from cora.localizer.attention import CrossAttention, QueryAttention
from cora.localizer.deformable import DeformableAttention
from cora.localizer.feed_forward import MLP, FeedForward
from cora.localizer.memory import Memory
from cora.localizer.position import anchor_positions

# As published: anchors of the next layer and boxes of the output are clamped differently by the inverse sigmoid.
REFINE_MARGIN = 1e-3
READ_OUT_MARGIN = 1e-5


@dataclass(frozen=True)
class Decoded:
    """Output of the decoder for every query, after each of its L layers.

    Attributes:
        hidden: [L, B, N, dim] normalised content.
        references: [L, B, N, 4] anchors that each layer started from, cxcywh in 0..1 of the unpadded image.
        boxes_cxcywh: [L, B, N, 4] boxes after each layer, 0..1 of the unpadded image.
    """

    hidden: Tensor
    references: Tensor
    boxes_cxcywh: Tensor


class DecoderLayer(nn.Module):
    """Self-attention of the queries, cross-attention to the map, feed-forward.

    Args:
        dim: width of queries and map.
        heads: number of heads.
        feed_forward: hidden width of the feed-forward network.
        dropout: 0..1, in training only.
        first: whether this is the first layer of the decoder.
        levels: levels of the memory in which queries read points (`DeformableAttention`); 0: they attend to all cells.
        head_dim: width of a head; 0 stands for dim / heads.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        feed_forward: int,
        dropout: float,
        first: bool,
        levels: int = 0,
        head_dim: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "heads": heads, "head_dim": head_dim}
        self.self_attention = QueryAttention(**sizes, dropout=dropout)
        self.cross_attention = (
            DeformableAttention(**sizes, dropout=dropout, levels=levels)
            if levels
            else CrossAttention(**sizes, dropout=dropout, first=first)
        )
        self.feed_forward = FeedForward(dim=dim, hidden=feed_forward, dropout=dropout)

    def forward(
        self,
        content: Tensor,
        positions: Tensor,
        place: Tensor,
        memory: Memory,
        visible_queries: Tensor | None,
    ) -> Tensor:
        """Update content [B, N, dim].

        Args:
            content: [B, N, dim].
            positions: [B, N, dim] the anchors' sine features after an MLP.
            place: where the queries look: anchors [B, N, 4] for deformable attention, else scaled sine features
                [B, N, dim], see `CrossAttention`.
            memory: the encoded map.
            visible_queries: which queries see each other, see `attend`.
        """
        content = self.self_attention(content, positions, visible_queries)
        content = self.cross_attention(content, positions, place, memory)
        outputs: Tensor = self.feed_forward(content)
        return outputs


class Decoder(nn.Module):
    """A stack of layers, each with its own box head.

    Args:
        layers: built layers, in order; only the first one with `first=True`, all with the same levels.
        dim: width of the content, a multiple of 4.
    """

    def __init__(self, *, layers: list[DecoderLayer], dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.ModuleList(layers)
        self.box_heads = nn.ModuleList(MLP(dim, dim, dim, 4) for _ in layers)
        self.query_position = MLP(2 * dim, dim, dim)
        self.deformable = isinstance(layers[0].cross_attention, DeformableAttention)
        # The first layer does not scale its sine features, so a single layer needs no MLP for it.
        self.position_scale = MLP(dim, dim, dim) if len(layers) > 1 and not self.deformable else None
        self.anchor_size = None if self.deformable else MLP(dim, dim, 2)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, memory: Memory, anchors_cxcywh: Tensor, content: Tensor, blocked_queries: Tensor | None = None
    ) -> Decoded:
        """Decode all queries at once.

        Args:
            memory: the encoded map.
            anchors_cxcywh: [B, N, 4], 0..1 of the unpadded image, learned or not.
            content: [B, N, dim].
            blocked_queries: bool, broadcastable to [B, heads, N, N]; True where the query of the row may not attend
                to the query of the column, as denoising needs. None: all attend to all.
        """
        visible_queries = None if blocked_queries is None else ~blocked_queries
        anchors = anchors_cxcywh
        hidden: list[Tensor] = []
        references: list[Tensor] = [anchors]
        boxes: list[Tensor] = []
        for index, (layer, box_head) in enumerate(zip(self.layers, self.box_heads, strict=True)):
            features = anchor_positions(anchors, features=self.dim // 2)
            place = anchors
            if self.anchor_size is not None:
                place = self._modulate(features[..., : self.dim], content, self.anchor_size, anchors, first=index == 0)
            content = layer(content, self.query_position(features), place, memory, visible_queries)
            hidden.append(self.norm(content))
            boxes.append(_shift(references[-1], box_head(hidden[-1]), margin=READ_OUT_MARGIN))
            if index < len(self.layers) - 1:
                # As in DAB-DETR, gradients reach this box through the next layer's output, not through its positions.
                refined = _shift(anchors, box_head(content), margin=REFINE_MARGIN)
                references.append(refined)
                anchors = refined.detach()
        return Decoded(hidden=torch.stack(hidden), references=torch.stack(references), boxes_cxcywh=torch.stack(boxes))

    def _modulate(self, sine: Tensor, content: Tensor, anchor_size: MLP, anchors: Tensor, *, first: bool) -> Tensor:
        """Scale the sine features [B, N, dim] of (y, x) by an MLP of content, and by predicted / anchor (h, w)."""
        if not first and self.position_scale is not None:
            sine = sine * self.position_scale(content)
        ratio = anchor_size(content).sigmoid() / anchors[..., 2:]
        width_ratio, height_ratio = ratio.split(1, dim=-1)
        y, x = sine.chunk(2, dim=-1)
        return torch.cat([y * height_ratio, x * width_ratio], dim=-1)


def _shift(boxes: Tensor, logit_offset: Tensor, *, margin: float) -> Tensor:
    """Add an offset to boxes [..., 4] in logit space."""
    return (inverse_sigmoid(boxes, margin=margin) + logit_offset).sigmoid()
