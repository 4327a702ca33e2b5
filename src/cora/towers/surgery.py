"""CLIP Surgery (Li et al., arXiv 2304.05653): patch tokens of a frozen CLIP that can be compared with text embeddings.

A second path runs beside the last blocks. Its attention is value to value instead of query to key, so that a patch
attends to similar patches, and it has no MLPs. The class token comes from the original path, patches from the new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cora.errors import ModelError
from cora.towers.frozen import FrozenModule
from cora.towers.resnet_tower import ResNetTower, interpolate_positions

#: Number of last blocks of a ViT that have the second path.
SURGERY_BLOCKS = 6
#: Factor on the attention scale of unit values in a ResNet's pool: one layer of attention is too uniform without it.
SHARPENING = 8.0


@dataclass(frozen=True)
class SurgeryTokens:
    """Output of a tower with surgery for B images of one size.

    Attributes:
        tokens: [L, B, 1 + h*w, D] class token, then patches row by row, after each of the last L layers, in order;
            projected into the space of the text embeddings, not normalised.
        features: [B, h*w, width] patches before the projection, mean over the L layers.
        grid_hw: (h, w), rows and columns of patches.
    """

    tokens: Tensor
    features: Tensor
    grid_hw: tuple[int, int]


class SurgeryTower(Protocol):
    """Interface of a frozen CLIP image tower with surgery, an `nn.Module`."""

    @property
    def feature_width(self) -> int:
        """Channels of `SurgeryTokens.features`."""

    @property
    def embed_dim(self) -> int:
        """Width D of the embeddings."""

    @property
    def stride(self) -> int:
        """Side of a patch in pixels."""

    @property
    def setting(self) -> tuple[int, ...]:
        """Options, as integers, that the tokens depend on besides the weights."""

    def __call__(self, pixels: Tensor) -> SurgeryTokens:
        """Normalised pixels [B, 3, H, W], sides multiples of the stride, to tokens."""


class VitSurgery(FrozenModule):
    """Surgery on the last blocks of a CLIP ViT.

    Args:
        net: vision transformer of open_clip with a class token, learned positions and a projection.
        blocks: number of last blocks that have two paths.
        layers: L, number of last blocks whose tokens are returned.

    Raises:
        ModelError: a network of another kind, or with fewer blocks.
    """

    def __init__(self, *, net: VisionTransformer, blocks: int = SURGERY_BLOCKS, layers: int = 1) -> None:
        super().__init__()
        if getattr(net, "attn_pool", None) is not None or net.pool_type != "tok" or net.proj is None:
            raise ModelError("expected a CLIP ViT that projects its class token, got one with another pooling")
        depth = len(net.transformer.resblocks)
        if not 1 <= layers <= blocks <= depth:
            raise ModelError(
                f"surgery: expected 1 <= layers <= blocks <= {depth}, the blocks of the tower, got {layers} layers "
                f"and {blocks} blocks"
            )
        self.net, self.blocks, self.layers = net, blocks, layers
        self.freeze()

    @property
    def feature_width(self) -> int:
        """Width of the transformer."""
        return int(self.net.proj.shape[0])

    @property
    def embed_dim(self) -> int:
        """Width D of the embeddings."""
        return int(self.net.proj.shape[1])

    @property
    def stride(self) -> int:
        """Side of a patch in pixels."""
        return int(self.net.conv1.stride[0])

    @property
    def setting(self) -> tuple[int, ...]:
        """(layers, blocks)."""
        return self.layers, self.blocks

    def forward(self, pixels: Tensor) -> SurgeryTokens:
        """Normalised pixels [B, 3, H, W] to tokens; positions are interpolated to the grid of the pixels."""
        _check_pixels(pixels, self.stride)
        net = self.net
        cells = net.conv1(pixels)
        grid_hw = (cells.shape[-2], cells.shape[-1])
        class_token = net.class_embedding.expand(len(cells), 1, -1)
        positions = bilinear_positions(net.positional_embedding, grid_hw)
        original = net.ln_pre(torch.cat([class_token, cells.flatten(2).transpose(1, 2)], dim=1) + positions)
        blocks = list(net.transformer.resblocks)
        for block in blocks[: -self.blocks]:
            original = _with_mlp(block, original + _attend(block, original)[0])
        new, levels = original, []
        for block in blocks[-self.blocks :]:
            original_update, new_update = _attend(block, original)
            original, new = _with_mlp(block, original + original_update), new + new_update
            levels.append(net.ln_post(torch.cat([original[:, :1], new[:, 1:]], dim=1)))
        chosen = torch.stack(levels[-self.layers :])
        return SurgeryTokens(tokens=chosen @ net.proj, features=chosen[:, :, 1:].mean(dim=0), grid_hw=grid_hw)


class ResNetSurgery(FrozenModule):
    """Surgery in the attention pool of a CLIP ResNet, applied to the output of the last blocks of layer4.

    All blocks of layer4 are residual updates of the same channels, so the pool can read the output of any of them; the
    published code uses the last one.

    Args:
        tower: its network is used, frozen.
        layers: L, number of last blocks of layer4 whose output is pooled.
        sharpened: whether patches attend by unit values with 8 times the scale, as a comment in the published code
            describes. False: by plain values, as that code computes.

    Raises:
        ModelError: layer4 has fewer blocks.
    """

    def __init__(self, *, tower: ResNetTower, layers: int = 1, sharpened: bool = True) -> None:
        super().__init__()
        depth = len(tower.net.layer4)
        if not 1 <= layers <= depth:
            raise ModelError(f"surgery: expected 1 to {depth} layers, the blocks of the tower's layer4, got {layers}")
        self.tower, self.layers, self.sharpened = tower, layers, sharpened
        self.freeze()

    @property
    def feature_width(self) -> int:
        """Channels of C4."""
        return self.tower.c4_channels

    @property
    def embed_dim(self) -> int:
        """Width D of the embeddings."""
        return self.tower.embed_dim

    @property
    def stride(self) -> int:
        """Side of a cell of C4 in pixels."""
        return 2 * self.tower.stride

    @property
    def setting(self) -> tuple[int, ...]:
        """(layers, 1 if sharpened else 0)."""
        return self.layers, int(self.sharpened)

    def forward(self, pixels: Tensor) -> SurgeryTokens:
        """Normalised pixels [B, 3, H, W] to tokens; positions are interpolated to the grid of the pixels."""
        _check_pixels(pixels, self.stride)
        cells, levels = self.tower.encode_c3(pixels), []
        for block in self.tower.net.layer4:
            cells = block(cells)
            levels.append(cells)
        grid_hw = (cells.shape[-2], cells.shape[-1])
        chosen = [level.flatten(2).transpose(1, 2) for level in levels[-self.layers :]]
        tokens = torch.stack([self._pool(level, grid_hw) for level in chosen])
        return SurgeryTokens(tokens=tokens, features=torch.stack(chosen).mean(dim=0), grid_hw=grid_hw)

    def _pool(self, cells: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """Cells [B, h*w, C4] to tokens [B, 1 + h*w, D]."""
        pool = self.tower.attention_pool
        positions = bilinear_positions(pool.positional_embedding, grid_hw)
        tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + positions
        values = pool.v_proj(tokens).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(values, values, values)
        if self.sharpened:
            unit = values / (values.norm(dim=-1, keepdim=True) + 1e-6)
            scale = SHARPENING * values.shape[-1] ** -0.5
            sharp = F.scaled_dot_product_attention(unit, unit, values, scale=scale)
            attended = torch.cat([attended[:, :, :1], sharp[:, :, 1:]], dim=2)
        projected: Tensor = pool.c_proj(attended.transpose(1, 2).flatten(2))
        return projected


def bilinear_positions(table: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Resize a positional table [n*n + 1, C] to [h*w + 1, C], bilinearly; the class token's row does not change."""
    side = round((table.shape[0] - 1) ** 0.5)
    if grid_hw == (side, side):
        return table
    return interpolate_positions(table, grid_hw, mode="bilinear", antialias=False)


def _attend(block: ResidualAttentionBlock, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Residual updates [B, N, width] by a block's attention on tokens [B, N, width]: of the original and the new path.

    Both are computed from the tokens of the original path.
    """
    attention: nn.MultiheadAttention = block.attn
    projected = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1)
    )
    original, new = (
        block.ls_1(attention.out_proj(F.scaled_dot_product_attention(q, k, value).transpose(1, 2).flatten(2)))
        for q, k in ((query, key), (value, value))
    )
    return original, new


def _with_mlp(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    """Tokens plus the residual update by a block's MLP."""
    result: Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    return result


def _check_pixels(pixels: Tensor, stride: int) -> None:
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] % stride or pixels.shape[3] % stride:
        raise ValueError(
            f"pixels: expected shape [B, 3, H, W] with sides that are multiples of {stride}, got {list(pixels.shape)}"
        )
