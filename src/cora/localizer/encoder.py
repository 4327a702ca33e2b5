"""The encoder: self-attention over the cells of C3, as in DAB-DETR."""

from __future__ import annotations

from torch import Tensor, nn

from cora.localizer.attention import MapAttention
from cora.localizer.feed_forward import MLP, FeedForward


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each with residual and norm.

    Args:
        dim: width of the tokens.
        heads: attention heads.
        feed_forward: hidden width of the feed-forward network.
        dropout: dropout probability, 0..1, in training only.
        head_dim: width of a head; 0 stands for dim / heads.
    """

    def __init__(self, *, dim: int, heads: int, feed_forward: int, dropout: float, head_dim: int = 0) -> None:
        super().__init__()
        self.attention = MapAttention(dim=dim, heads=heads, dropout=dropout, head_dim=head_dim)
        self.feed_forward = FeedForward(dim=dim, hidden=feed_forward, dropout=dropout)

    def forward(self, tokens: Tensor, positions: Tensor, visible: Tensor | None) -> Tensor:
        """Update tokens [B, M, dim] of M cells with positions [B, M, dim]; `visible` as in `Memory`."""
        outputs: Tensor = self.feed_forward(self.attention(tokens, positions, visible))
        return outputs


class Encoder(nn.Module):
    """A stack of layers. Before each, an MLP of the tokens scales the positions; all layers share the MLP.

    Args:
        layers: built layers, in order.
        dim: width of the tokens.
    """

    def __init__(self, *, layers: list[EncoderLayer], dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.position_scale = MLP(dim, dim, dim)

    def forward(self, tokens: Tensor, positions: Tensor, visible: Tensor | None) -> Tensor:
        """Update tokens [B, M, dim] of M cells with positions [B, M, dim]; `visible` as in `Memory`."""
        for layer in self.layers:
            tokens = layer(tokens, positions * self.position_scale(tokens), visible)
        return tokens
