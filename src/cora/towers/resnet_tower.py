"""CLIP ResNet image tower: C3 for the localizer and exact pooling, C4 for fast pooling (docs/method.md)."""

from __future__ import annotations

import copy
import math

import torch
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from torch import Tensor, nn
from torch.nn import functional as F

from cora.errors import ModelError
from cora.structures import FeatureMap
from cora.towers.folding import fold_batch_norms
from cora.towers.image_tower import ImageTower, mask_at_cells


class ResNetTower(ImageTower):
    """Frozen CLIP ResNet of open_clip, with access to its parts.

    Args:
        net: the network; the positional table of its attention pool is interpolated if it is not for `pool_size`.
        pool_size: S, side of the grid that the attention pool attends over.
    """

    stride = 16

    def __init__(self, *, net: ModifiedResNet, pool_size: int) -> None:
        super().__init__()
        self.net = net
        self.set_pool_size(pool_size)
        self.freeze()

    def set_pool_size(self, pool_size: int) -> None:
        """Change S, and interpolate the attention pool's positional table to S x S cells."""
        super().set_pool_size(pool_size)
        pool = self.attention_pool
        if pool.positional_embedding.shape[0] != pool_size**2 + 1:
            table = interpolate_positions(pool.positional_embedding.detach(), (pool_size, pool_size))
            pool.positional_embedding = nn.Parameter(table, requires_grad=False)

    @property
    def layer4(self) -> nn.Module:
        """The last stage, which maps regions [R, C3, 2S, 2S] to [R, C4, S, S]."""
        layer4: nn.Module = self.net.layer4
        return layer4

    @property
    def attention_pool(self) -> AttentionPool2d:
        """The attention pool; its `positional_embedding` is [S*S+1, C4]."""
        return self.net.attnpool

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of the maps."""
        dtype: torch.dtype = self.attention_pool.c_proj.weight.dtype
        return dtype

    @property
    def positions(self) -> Tensor:
        """[S*S+1, C4] the attention pool's positional table: the row of the mean token, then those of the cells."""
        positions: Tensor = self.attention_pool.positional_embedding
        return positions

    @property
    def c3_channels(self) -> int:
        """Channels of C3."""
        return self.c4_channels // 2

    @property
    def c4_channels(self) -> int:
        """Channels of C4."""
        return int(self.net.attnpool.positional_embedding.shape[1])

    @property
    def embed_dim(self) -> int:
        """Width D of the embeddings."""
        return int(self.net.attnpool.c_proj.out_features)

    def for_inference(self, dtype: torch.dtype) -> ResNetTower:
        """A copy with batch norms folded into convolutions, channels last, in `dtype`."""
        copied = copy.deepcopy(self)
        with torch.no_grad():
            fold_batch_norms(copied.net)
        return copied.freeze().to(dtype).to(memory_format=torch.channels_last)

    def maps(self, pixels: Tensor, mask: Tensor) -> tuple[FeatureMap, FeatureMap]:
        """C3 [B, C3, H/16, W/16] and C4 [B, C4, H/32, W/32] with the mask resized to each (nearest)."""
        c3 = self.encode_c3(pixels.to(self.dtype))
        c4: Tensor = self.net.layer4(c3)
        return FeatureMap(c3, mask_at_cells(mask, c3)), FeatureMap(c4, mask_at_cells(mask, c4))

    def encode_c3(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] normalised pixels to the output of layer3 [B, C3, H/16, W/16]."""
        net = self.net
        c3: Tensor = net.layer3(net.layer2(net.layer1(net.stem(pixels))))
        return c3

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] to unit embeddings [B, D]; positions are interpolated to the size of C4."""
        c4: Tensor = self.net.layer4(self.encode_c3(pixels))
        grid = (c4.shape[-2], c4.shape[-1])
        pool = self.attention_pool
        positions = pool.positional_embedding
        if grid != (self.pool_size, self.pool_size):
            positions = interpolate_positions(positions, grid)
        pooled: Tensor = torch.func.functional_call(pool, {"positional_embedding": positions}, (c4,))
        return F.normalize(pooled, dim=-1)


def resnet_of(tower: ImageTower, purpose: str) -> ResNetTower:
    """Return the tower if it is a CLIP ResNet, for code that needs the parts of one.

    Args:
        tower: of any kind.
        purpose: what the caller needs it for; the start of the error message.

    Raises:
        ModelError: the tower is of another kind.
    """
    if not isinstance(tower, ResNetTower):
        raise ModelError(
            f"{purpose}: expected a model whose image tower is a CLIP ResNet, got another kind; "
            "name such a model (cora models), for example RN50-quickgelu"
        )
    return tower


def interpolate_positions(
    table: Tensor, grid_hw: tuple[int, int], *, mode: str = "bicubic", antialias: bool = True
) -> Tensor:
    """Resize a positional table, or a region prompt, from n x n cells to another grid.

    Args:
        table: [n*n, C], row by row, or [n*n+1, C] with the row of the mean token first, which does not change.
        grid_hw: rows and columns (h, w) of the new grid.
        mode: as of `F.interpolate`.
        antialias: as of `F.interpolate`.

    Returns:
        [h*w, C] or [h*w+1, C].
    """
    side = math.isqrt(table.shape[0])
    first = table.shape[0] - side**2
    cells = table[first:].T.reshape(1, -1, side, side)
    cells = F.interpolate(cells, size=grid_hw, mode=mode, align_corners=False, antialias=antialias)
    return torch.cat([table[:first], cells.flatten(2)[0].T])
