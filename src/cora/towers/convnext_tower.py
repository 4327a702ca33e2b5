"""CLIP ConvNeXt image tower of open_clip: C3 for the localizer and exact pooling, C4 for fast pooling.

C3 is the output of the third stage, stride 16. C4, stride 32, is that of the last stage without its last block.

The region prompt is added to pooled cells of C4, before the last block. After that block only the prompt's mean would
matter, since the head averages the cells. Before the last stage, fast pooling would have to run this stage per anchor.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from timm.layers.mlp import Mlp
from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from torch import Tensor, nn
from torch.nn import functional as F

from cora.structures import FeatureMap
from cora.towers.image_tower import ImageTower, mask_at_cells

Projection = Literal["linear", "mlp"]


class ConvNeXtNet(nn.Module):
    """A ConvNeXt with a projection to CLIP's embedding; modules are named as in open_clip, so that its files load.

    Args:
        layers: blocks of the four stages.
        width: channels of the first stage; each further stage has twice as many.
        embed_dim: width D of the embeddings.
        projection: after the head's norm: a linear layer, or an MLP of two.
        norm_eps: added to the variance in norms.
    """

    def __init__(
        self,
        *,
        layers: tuple[int, int, int, int],
        width: int,
        embed_dim: int,
        projection: Projection = "linear",
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        dims = (width, 2 * width, 4 * width, 8 * width)
        self.trunk = ConvNeXt(depths=layers, dims=dims, num_classes=0, norm_eps=norm_eps)
        self.head = nn.Sequential()
        if projection == "linear":
            self.head.add_module("proj", nn.Linear(dims[-1], embed_dim, bias=False))
        else:
            self.head.add_module("mlp", Mlp(dims[-1], 2 * embed_dim, embed_dim, bias=(True, False)))


class ConvNeXtTower(ImageTower):
    """Frozen ConvNeXt of open_clip, with access to its parts.

    Args:
        net: the network.
        pool_size: S, side of the grid that a region is pooled to.
    """

    stride = 16
    net: Any  # timm's networks declare no types

    def __init__(self, *, net: ConvNeXtNet, pool_size: int) -> None:
        super().__init__()
        self.net = net
        self.pool_size = pool_size
        self.freeze()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of the maps."""
        dtype: torch.dtype = self.net.trunk.head.norm.weight.dtype
        return dtype

    @property
    def positions(self) -> Tensor:
        """[S*S, C4] zeros: a ConvNeXt has no positional table, so only the prompt is added to the cells."""
        weight: Tensor = self.net.trunk.head.norm.weight
        return weight.new_zeros(self.pool_size**2, self.c4_channels)

    @property
    def c3_channels(self) -> int:
        """Channels of C3."""
        return self.c4_channels // 2

    @property
    def c4_channels(self) -> int:
        """Channels of C4."""
        return int(self.net.trunk.num_features)

    @property
    def embed_dim(self) -> int:
        """Width D of the embeddings."""
        *_, last = (layer for layer in self.net.head.modules() if isinstance(layer, nn.Linear))
        return int(last.out_features)

    def for_inference(self, dtype: torch.dtype) -> ConvNeXtTower:
        """A copy with each block's layer scale folded into its last linear layer, channels last, in `dtype`."""
        copied = copy.deepcopy(self)
        with torch.no_grad():
            for block in copied.net.trunk.modules():
                if isinstance(block, ConvNeXtBlock):
                    _fold_layer_scale(block)
        return copied.freeze().to(dtype).to(memory_format=torch.channels_last)

    def maps(self, pixels: Tensor, mask: Tensor) -> tuple[FeatureMap, FeatureMap]:
        """C3 [B, C3, H/16, W/16] and C4 [B, C4, H/32, W/32] with the mask resized to each (nearest)."""
        c3 = self.encode_c3(pixels.to(self.dtype))
        c4 = self.before_last_block(c3)
        return FeatureMap(c3, mask_at_cells(mask, c3)), FeatureMap(c4, mask_at_cells(mask, c4))

    def encode_c3(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] normalised pixels to the output of the third stage [B, C3, H/16, W/16]."""
        trunk = self.net.trunk
        c3: Tensor = trunk.stages[2](trunk.stages[1](trunk.stages[0](trunk.stem(pixels))))
        return c3

    def before_last_block(self, c3: Tensor) -> Tensor:
        """Run the last stage without its last block: [R, C3, 2h, 2w] to [R, C4, h, w]."""
        stage = self.net.trunk.stages[3]
        c4: Tensor = stage.blocks[:-1](stage.downsample(c3))
        return c4

    def last_block(self, cells: Tensor) -> Tensor:
        """Run the last block of the last stage: [R, C4, h, w] to the same shape."""
        output: Tensor = self.net.trunk.stages[3].blocks[-1](cells)
        return output

    def head(self, pooled: Tensor) -> Tensor:
        """Norm and projection: means over cells [R, C4] to unit embeddings [R, D]."""
        normed: Tensor = self.net.trunk.forward_head(pooled[:, :, None, None])
        return F.normalize(self.net.head(normed), dim=-1)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Whole images [B, 3, H, W] to unit embeddings [B, D]."""
        c4 = self.before_last_block(self.encode_c3(pixels))
        return self.head(self.last_block(c4).mean(dim=(2, 3)))


def _fold_layer_scale(block: Any) -> None:
    last = block.mlp.fc2
    last.weight.mul_(block.gamma.unsqueeze(1))
    last.bias.mul_(block.gamma)
    block.gamma = None
