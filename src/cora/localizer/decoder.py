"""The decoder: layer by layer, it refines the anchors to boxes (DAB-DETR, Liu et al., 2022, arXiv 2201.12329).

A query has two parts: its *content*, which starts as the embedding of the class that its anchor was matched with, and
its *position*, the anchor box.
"""

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

# As published, the inverse sigmoid clamps the next layer's anchors (1e-3) more than the output boxes (1e-5).
REFINE_MARGIN = 1e-3
OUTPUT_MARGIN = 1e-5


@dataclass(frozen=True)
class Decoded:
    """Output of the decoder for every query, after each of its L layers.

    Attributes:
        hidden: [L, B, N, dim] content of the queries, after a layer norm.
        references: [L, B, N, 4] anchors that each layer started from, cxcywh in 0..1 of the unpadded image.
        boxes_cxcywh: [L, B, N, 4] boxes after each layer, 0..1 of the unpadded image.
    """

    hidden: Tensor
    references: Tensor
    boxes_cxcywh: Tensor


class DecoderLayer(nn.Module):
    """Self-attention of the queries, cross-attention to the map, feed-forward.

    Args:
        dim: width of queries and map tokens.
        heads: number of heads.
        feed_forward: hidden width of the feed-forward network.
        dropout: dropout probability, 0..1, in training only.
        first: whether this is the first layer of the decoder.
        levels: levels of the memory for `DeformableAttention`; 0 for `CrossAttention` to all cells.
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
        cross_position: Tensor,
        memory: Memory,
        visible_queries: Tensor | None,
    ) -> Tensor:
        """Update the content of all queries.

        Args:
            content: [B, N, dim].
            positions: [B, N, dim] sine features of the anchors after an MLP.
            cross_position: where cross-attention looks: anchors [B, N, 4] for `DeformableAttention`, scaled sine
                features [B, N, dim] for `CrossAttention`.
            memory: the encoded map.
            visible_queries: bool, broadcastable to [B, heads, N, N]; True where the row's query may attend to the
                column's; None: all may.

        Returns:
            [B, N, dim].
        """
        content = self.self_attention(content, positions, visible_queries)
        content = self.cross_attention(content, positions, cross_position, memory)
        outputs: Tensor = self.feed_forward(content)
        return outputs


class Decoder(nn.Module):
    """A stack of layers, each with its own box head that predicts an offset of the anchors in logit space.

    Args:
        layers: built layers, in order; only the first with `first=True`, all with the same `levels`.
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
            anchors_cxcywh: [B, N, 4], 0..1 of the unpadded image.
            content: [B, N, dim].
            blocked_queries: bool, broadcastable to [B, heads, N, N]; True where the row's query may not attend to the
                column's, as denoising training (DN-DETR) needs; None: all may.
        """
        visible_queries = None if blocked_queries is None else ~blocked_queries
        anchors = anchors_cxcywh
        hidden: list[Tensor] = []
        references: list[Tensor] = [anchors]
        boxes: list[Tensor] = []
        for index, (layer, box_head) in enumerate(zip(self.layers, self.box_heads, strict=True)):
            features = anchor_positions(anchors, features=self.dim // 2)
            cross_position = anchors
            if self.anchor_size is not None:
                cross_position = self._modulate(features, content, self.anchor_size, anchors, first=index == 0)
            content = layer(content, self.query_position(features), cross_position, memory, visible_queries)
            hidden.append(self.norm(content))
            boxes.append(_add_in_logit_space(references[-1], box_head(hidden[-1]), margin=OUTPUT_MARGIN))
            if index < len(self.layers) - 1:
                # As in DAB-DETR (DINO: "look forward twice"), the next layer's output box passes gradients to this box.
                # The next layer's positions do not: they are computed from the detached anchors.
                refined = _add_in_logit_space(anchors, box_head(content), margin=REFINE_MARGIN)
                references.append(refined)
                anchors = refined.detach()
        return Decoded(hidden=torch.stack(hidden), references=torch.stack(references), boxes_cxcywh=torch.stack(boxes))

    def _modulate(self, features: Tensor, content: Tensor, anchor_size: MLP, anchors: Tensor, *, first: bool) -> Tensor:
        """Scale the anchors' sine features as DAB-DETR's modulated attention: [B, N, 2 dim] to [B, N, dim] of (y, x).

        All features are multiplied by an MLP of the content (not in the first layer). Those of y are multiplied by
        predicted height / anchor height as well, those of x by the ratio of the widths.
        """
        sine = features[..., : self.dim]  # of y and x; those of width and height follow
        if not first and self.position_scale is not None:
            sine = sine * self.position_scale(content)
        width_ratio, height_ratio = (anchor_size(content).sigmoid() / anchors[..., 2:]).split(1, dim=-1)
        y, x = sine.chunk(2, dim=-1)
        return torch.cat([y * height_ratio, x * width_ratio], dim=-1)


def _add_in_logit_space(boxes: Tensor, logit_offset: Tensor, *, margin: float) -> Tensor:
    """Add an offset [..., 4] to the logits of boxes [..., 4] in 0..1; `margin` as in `inverse_sigmoid`."""
    return (inverse_sigmoid(boxes, margin=margin) + logit_offset).sigmoid()
