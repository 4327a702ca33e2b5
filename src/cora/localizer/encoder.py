"""The encoder: self-attention over the cells of the map, with positions scaled by what the cells contain."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from cora.localizer.attention import MapAttention
from cora.localizer.feed_forward import MLP, FeedForward


@dataclass(frozen=True)
class Memory:
    """The encoded map that queries look at.

    Attributes:
        tokens: [B, M, dim] cells row by row, M = height * width of the padded map.
        positions: [B, M, dim] their sine positions.
        visible: [B, 1, 1, M] bool, True where a cell is not padding; None if nothing is.
    """

    tokens: Tensor
    positions: Tensor
    visible: Tensor | None


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each with residual and norm."""

    def __init__(self, *, dim: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.attention = MapAttention(dim=dim, heads=heads, dropout=dropout)
        self.feed_forward = FeedForward(dim=dim, hidden=feed_forward, dropout=dropout)

    def forward(self, tokens: Tensor, positions: Tensor, visible: Tensor | None) -> Tensor:
        """Map tokens [B, M, dim] to [B, M, dim]."""
        outputs: Tensor = self.feed_forward(self.attention(tokens, positions, visible))
        return outputs


class Encoder(nn.Module):
    """A stack of layers; before each, an MLP of the content scales the position map (shared by all layers).

    Args:
        layers: built layers, in order.
        dim: width of the tokens.
    """

    def __init__(self, *, layers: list[EncoderLayer], dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.position_scale = MLP(dim, dim, dim)

    def forward(self, tokens: Tensor, positions: Tensor, visible: Tensor | None) -> Memory:
        """Encode tokens [B, M, dim]; padding is where `visible` [B, 1, 1, M] is False, None for nowhere."""
        for layer in self.layers:
            tokens = layer(tokens, positions * self.position_scale(tokens), visible)
        return Memory(tokens=tokens, positions=positions, visible=visible)
