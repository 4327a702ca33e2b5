"""The student: open_clip's CLIP ResNet at width 32, with heads of its training.

`StudentTower.visual` is the tower that ships; the linear adapters onto the teacher's maps are thrown away. A tower that
only names crops need not know where things end, so the encoder and the anchor proposals of the localizer learn with
it, through its C3; the localizer's own training goes on from them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from cora.localizer import Localizer, LocalizerConfig, Proposals
from cora.structures import FeatureMap

LAYERS, WIDTH, GRID, EMBED_DIM = (2, 2, 3, 2), 32, 4, 512
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

#: Small enough that all of nano stays under 40 MB in half precision.
LOCALIZER = LocalizerConfig(
    c3_channels=WIDTH * 16,
    embed_dim=EMBED_DIM,
    dim=192,
    heads=4,
    ff=512,
    enc_layers=1,
    dec_layers=2,
    num_queries=250,
    anchors="proposed",
    class_hidden=128,
    dropout=0.0,
)


class StudentMaps(NamedTuple):
    """Maps of the tower [B, channels, H/stride, W/stride]; C3 is stride 16, C4 stride 32."""

    stride4: Tensor
    stride8: Tensor
    c3: Tensor
    c4: Tensor


class StudentTower(nn.Module):
    """CLIP ResNet (layers 2-2-3-2, width 32, 4 x 4 pool, 512-d), adapters to the teacher's 24, 32, 96, 1280 channels"""

    def __init__(self) -> None:
        super().__init__()
        self.visual = ModifiedResNet(
            layers=list(LAYERS),
            output_dim=EMBED_DIM,
            heads=WIDTH * 32 // 64,
            image_size=GRID * 32,
            width=WIDTH,
        )
        c = WIDTH * 4
        # The teacher's cells of strides 4 and 8 lie half a cell off: adapters of 3 x 3 make up for it.
        self.to_teacher = nn.ModuleList(
            nn.Conv2d(i, o, k, padding=k // 2)
            for i, o, k in ((c, 24, 3), (2 * c, 32, 3), (4 * c, 96, 1), (8 * c, 1280, 1))
        )
        self.localizer = Localizer.from_config(LOCALIZER).requires_grad_(False)
        for part in (self.localizer.input_projection, self.localizer.encoder, self.localizer.proposals):
            part.requires_grad_(True)
        self.logit_scale = nn.Parameter(torch.tensor(20.0).log())
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(CLIP_STD).view(1, 3, 1, 1))

    def c3(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of strides 4, 8 and 16 of pixels [B, 3, H, W] in 0..1."""
        v = self.visual
        x = v.stem((pixels - self.mean) / self.std)
        stride4 = v.layer1(x)
        stride8 = v.layer2(stride4)
        return stride4, stride8, v.layer3(stride8)

    def maps(self, pixels: Tensor) -> StudentMaps:
        """All maps of whole crops."""
        stride4, stride8, c3 = self.c3(pixels)
        return StudentMaps(stride4, stride8, c3, self.visual.layer4(c3))

    def regions(self, c3: Tensor, boxes: list[Tensor]) -> Tensor:
        """C4 [n, 1024, 4, 4] of boxes (xyxy in pixels of the input), as exact region pooling makes it."""
        return self.visual.layer4(roi_align(c3.float(), boxes, 2 * GRID, spatial_scale=1 / 16, aligned=True))

    def propose(self, c3: Tensor) -> Proposals:
        """A box and its objectness in every cell of maps of stride 16."""
        padded = torch.zeros(len(c3), *c3.shape[-2:], dtype=torch.bool)
        return self.localizer.propose(self.localizer.encode(FeatureMap(c3, padded)))

    def embed(self, c4: Tensor) -> Tensor:
        """Unit embeddings [n, 512] by the attention pool; its position table is interpolated to other grids."""
        pool, (h, w) = self.visual.attnpool, c4.shape[-2:]
        table = pool.positional_embedding
        if (h, w) != (GRID, GRID):
            cells = table[1:].T.reshape(1, -1, GRID, GRID)
            cells = F.interpolate(cells, (h, w), mode="bilinear", align_corners=False)
            table = torch.cat([table[:1], cells.flatten(2)[0].T])
        tokens = c4.flatten(2).permute(0, 2, 1)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + table
        q = pool.q_proj(tokens[:, :1])
        k, v = pool.k_proj(tokens), pool.v_proj(tokens)
        q, k, v = (t.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return F.normalize(pool.c_proj(out[:, 0]).float(), dim=-1)
