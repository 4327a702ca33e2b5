"""The localizer: a DAB-DETR whose query content is not learned, but made from the class embedding of each anchor.

Forward pass: `encode` the map, take the `anchors`, make their `query_content` from the classes that pre-matching gave
them, `decode` to boxes and objectness. `cora.detector.cora.Detector` runs these steps.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cora.errors import ModelError
from cora.localizer.anchors import LearnedAnchors
from cora.localizer.decoder import Decoder, DecoderLayer
from cora.localizer.deformable import DeformableAttention
from cora.localizer.encoder import Encoder, EncoderLayer
from cora.localizer.feed_forward import MLP
from cora.localizer.memory import MapLevel, Memory
from cora.localizer.position import map_positions
from cora.localizer.proposals import AnchorProposals, Proposals
from cora.localizer.pyramid import (
    FINEST_MEMORY,
    PyramidEncoder,
    PyramidMemory,
    PyramidProposals,
    encode_pyramid,
    encoded_strides,
    first_look,
    objectness_at,
    visible_cells,
)
from cora.localizer.refinement import BoxRefinement, product_logit
from cora.pyramid import PyramidLayout
from cora.structures import DenseBoxes, FeatureMap

#: Initial objectness of every query, since most queries find no object.
OBJECTNESS_PRIOR = 0.01
#: Cells of a pyramid that NMS of the proposals considers, per anchor; those of highest objectness.
CONSIDERED = 8


#: Fields of a configuration that are not numbers of at least 1.
_NOT_COUNTS = ("dropout", "anchors", "head_dim", "levels", "cross_attention", "refinement")


@dataclass(frozen=True, kw_only=True)
class LocalizerConfig:
    """Sizes of a localizer; the defaults are those of the paper for a RN50.

    Attributes:
        c3_channels: channels of C3.
        embed_dim: width D of the class embeddings.
        dim: width of tokens and queries; a multiple of 4, and of `heads` if `head_dim` is 0.
        heads: attention heads.
        head_dim: width of a head; 0 stands for dim / heads. Pruned models have fewer heads of the same width.
        ff: hidden width of the feed-forward networks.
        enc_layers: encoder layers, at least 1. With `levels`: 0, or any other number to mix neighbouring levels.
        dec_layers: decoder layers, at least 1.
        num_queries: anchors per image.
        anchors: "learned", the same for every image, as published, or "proposed" from the encoded map of each image.
        class_hidden: hidden width of the MLP from class embedding to query content.
        dropout: dropout probability, 0..1, in training only.
        cross_attention: "map": queries attend to every cell, as published; "deformable": to a few points around their
            anchors, on all levels (`DeformableAttention`).
        levels: (stride, channels) of the levels of a packed pyramid (`cora.pyramid`), which a `PyramidEncoder` encodes
            without attention; () for a single map, as published.
        refinement: hidden width of a second look at the decoder's boxes (`BoxRefinement`); 0 for none, as published.

    Raises:
        ModelError: an impossible value.
    """

    c3_channels: int = 1024
    embed_dim: int = 1024
    dim: int = 256
    heads: int = 8
    ff: int = 1024
    enc_layers: int = 3
    dec_layers: int = 6
    num_queries: int = 1000
    anchors: Literal["learned", "proposed"] = "learned"
    class_hidden: int = 128
    dropout: float = 0.1
    head_dim: int = 0
    levels: tuple[tuple[int, int], ...] = ()
    cross_attention: Literal["map", "deformable"] = "map"
    refinement: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", PyramidLayout(self.levels).levels)
        if self.levels and self.anchors != "proposed":
            raise ModelError('localizer anchors: expected "proposed" with the levels of a pyramid, got learned ones')
        for name, value in asdict(self).items():
            _check_number(name, value)
            if name == "enc_layers" and self.levels and value in (0, 1):
                continue
            if name not in _NOT_COUNTS and value < 1:
                raise ModelError(f"localizer {name}: expected at least 1, got {value}")
        if self.anchors not in ("learned", "proposed"):
            raise ModelError(f'localizer anchors: expected "learned" or "proposed", got {self.anchors!r}')
        if self.cross_attention not in ("map", "deformable"):
            raise ModelError(f'localizer cross_attention: expected "map" or "deformable", got {self.cross_attention!r}')
        if self.head_dim < 0:
            raise ModelError(f"localizer head_dim: expected 0 (dim / heads) or more, got {self.head_dim}")
        if self.refinement < 0:
            raise ModelError(f"localizer refinement: expected 0 (none) or more, got {self.refinement}")
        if self.dim % 4 or (not self.head_dim and self.dim % self.heads):
            raise ModelError(f"localizer dim: expected a multiple of 4 and of heads = {self.heads}, got {self.dim}")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"localizer dropout: expected 0 or more and below 1, got {self.dropout}")


def _check_number(name: str, value: object) -> None:
    """Refuse sizes that are no whole numbers, and a dropout that is no number."""
    if name == "dropout" and type(value) not in (int, float):
        raise ModelError(f"localizer dropout: expected a number of 0 or more and below 1, got {value!r}")
    if name not in ("dropout", "anchors", "levels", "cross_attention") and type(value) is not int:
        raise ModelError(f"localizer {name}: expected a whole number, got {value!r}")


@dataclass(frozen=True)
class LocalizerOutput:
    """Output for N queries after each of L decoder layers. The last layer is the result, training uses all.

    The refinement of a localizer that has one counts as another layer.

    Attributes:
        boxes_cxcywh: [L, B, N, 4], 0..1 of the unpadded image.
        objectness: [L, B, N] logits: does the box hold an object of the class that the anchor was matched with?
        hidden: [L, B, N, dim] query content after each layer, after a layer norm.
        references: [L, B, N, 4] anchors that each layer started from, cxcywh in 0..1.
    """

    boxes_cxcywh: Tensor
    objectness: Tensor
    hidden: Tensor
    references: Tensor


class Localizer(nn.Module):
    """Encoder, anchors, class-conditioned decoder, heads and optional refinement; each step is a public method.

    Args:
        input_projection: 1 x 1 convolution from C3's channels to `dim`; None with a `PyramidEncoder`.
        encoder: encodes the map.
        learned_anchors: anchors that are the same for every image; None if they are proposed.
        proposals: proposes anchors from the encoded map; None if they are learned.
        class_projection: MLP from class embedding to query content.
        decoder: refines the anchors.
        objectness_head: from query content to objectness logit; all layers share it.
        refinement: corrects the boxes of the last decoder layer and judges their fit; None for no such step.

    Examples:
        >>> config = LocalizerConfig(c3_channels=8, embed_dim=16, dim=32, num_queries=5)
        >>> localizer = Localizer.from_config(config)
        >>> c3 = FeatureMap(torch.rand(2, 8, 6, 4), torch.zeros(2, 6, 4, dtype=torch.bool))
        >>> content = localizer.query_content(torch.rand(3, 16), torch.tensor([[0, 1, 2, 0, 1]] * 2))
        >>> memory = localizer.encode(c3)
        >>> output = localizer.decode(memory, localizer.anchors(memory), content)
        >>> output.boxes_cxcywh.shape
        torch.Size([6, 2, 5, 4])
    """

    def __init__(
        self,
        *,
        input_projection: nn.Conv2d | None,
        encoder: Encoder | PyramidEncoder,
        learned_anchors: LearnedAnchors | None,
        proposals: AnchorProposals | PyramidProposals | None = None,
        class_projection: MLP,
        decoder: Decoder,
        objectness_head: nn.Linear,
        refinement: BoxRefinement | None = None,
    ) -> None:
        super().__init__()
        self.input_projection = input_projection
        self.encoder = encoder
        if (learned_anchors is None) == (proposals is None):
            raise ValueError("localizer: expected either learned anchors or proposals, got both or neither")
        self.learned_anchors = learned_anchors
        self.proposals = proposals
        self.class_projection = class_projection
        self.decoder = decoder
        self.objectness_head = objectness_head
        self.refinement = refinement

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the encoder's weights, which feature maps must have as well."""
        return next(self.encoder.parameters()).dtype

    @property
    def proposing(self) -> tuple[nn.Module, ...]:
        """Modules that compute proposals: input projection, encoder, proposals; none if anchors are learned."""
        parts = (self.input_projection, self.encoder, self.proposals)
        return () if self.proposals is None else tuple(part for part in parts if part is not None)

    @classmethod
    def from_config(cls, config: LocalizerConfig) -> Localizer:
        """A localizer of the given sizes with freshly initialised weights."""
        dim = config.dim
        shared = {"dim": dim, "heads": config.heads, "feed_forward": config.ff, "head_dim": config.head_dim}
        count = 0 if config.levels else config.enc_layers
        encoder_layers = [EncoderLayer(**shared, dropout=config.dropout) for _ in range(count)]
        decoder_layers = [
            DecoderLayer(**shared, dropout=config.dropout, first=index == 0, levels=_deformable_levels(config))
            for index in range(config.dec_layers)
        ]
        learned = config.anchors == "learned"
        projection, encoder, proposals = _pyramid_parts(config) if config.levels else _map_parts(config, encoder_layers)
        localizer = cls(
            input_projection=projection,
            encoder=encoder,
            learned_anchors=LearnedAnchors(count=config.num_queries) if learned else None,
            proposals=proposals,
            class_projection=MLP(config.embed_dim, config.class_hidden, dim),
            decoder=Decoder(layers=decoder_layers, dim=dim),
            objectness_head=nn.Linear(dim, 1),
            refinement=BoxRefinement(dim=dim, hidden=config.refinement) if config.refinement else None,
        )
        localizer._reset_parameters()
        return localizer

    def encode(self, c3: FeatureMap, start: DenseBoxes | None = None) -> Memory:
        """Encode C3 into the memory that queries attend to.

        Args:
            c3: [B, c3_channels, h, w]; a packed pyramid (`cora.pyramid`) if the localizer has levels.
            start: boxes that the image tower itself predicts at the cells of a pyramid (`nano`'s NanoDet), which the
                proposals correct; None if it predicts none.
        """
        if isinstance(self.encoder, PyramidEncoder):
            assert isinstance(self.proposals, PyramidProposals)
            finest = 1 if self.decoder.deformable else FINEST_MEMORY
            return encode_pyramid(c3, self.encoder, self.proposals, start, finest=finest)
        assert self.input_projection is not None
        height, width = c3.features.shape[-2:]
        tokens = self.input_projection(c3.features).flatten(2).transpose(1, 2).contiguous()
        positions = map_positions(c3.extents_hw.to(tokens.dtype), height=height, width=width, dim=tokens.shape[-1])
        visible = visible_cells(c3.mask.flatten(1))
        return Memory(
            tokens=self.encoder(tokens, positions, visible),
            positions=positions,
            visible=visible,
            size_hw=(height, width),
            extents_hw=c3.extents_hw,
            levels=(MapLevel(height, width),),
        )

    def anchors(self, memory: Memory) -> Tensor:
        """Anchors [B, N, 4], cxcywh in 0..1 of the unpadded image: the learned ones, or the best proposals of the map.

        Proposed anchors carry no gradient. To train the proposals, compute a loss on the output of `propose`.
        """
        if self.learned_anchors is not None:
            anchors: Tensor = self.learned_anchors(memory.tokens.shape[0])
            return anchors
        with torch.no_grad():
            count = self._proposer().count
            # A pyramid has thousands of cells, most of them background.
            considered = CONSIDERED * count if isinstance(memory, PyramidMemory) else None
            return self.propose(memory).best(count, considered=considered)

    def propose(self, memory: Memory) -> Proposals:
        """Propose a box with its objectness at every cell of the encoded map.

        Raises:
            ModelError: this localizer has learned anchors.
        """
        if isinstance(memory, PyramidMemory):
            return memory.proposals
        proposals: Proposals = self._proposer()(memory)
        return proposals

    def class_queries(self, class_embeddings: Tensor) -> Tensor:
        """Project class embeddings [C, D] to the query content [C, dim] of each class."""
        queries: Tensor = self.class_projection(class_embeddings)
        return queries

    def query_content(self, class_embeddings: Tensor, classes: Tensor) -> Tensor:
        """Query content [B, N, dim] of anchors from class embeddings [C, D] and each anchor's class [B, N], 0..C-1."""
        return self.class_queries(class_embeddings)[classes]

    def decode(
        self, memory: Memory, anchors_cxcywh: Tensor, content: Tensor, blocked_queries: Tensor | None = None
    ) -> LocalizerOutput:
        """Refine anchors to boxes, one query per anchor.

        Args:
            memory: from `encode`.
            anchors_cxcywh: [B, N, 4], 0..1 of the unpadded image, widths and heights above 0: those of `anchors`, other
                boxes (denoising training adds noisy ground truth), or both.
            content: [B, N, dim] from `query_content`.
            blocked_queries: bool, broadcastable to [B, heads, N, N]; True where the row's query may not attend to the
                column's; None: all may.
        """
        decoded = self.decoder(memory, anchors_cxcywh, content, blocked_queries)
        objectness = self.objectness_head(decoded.hidden).squeeze(-1)
        if isinstance(memory, PyramidMemory):
            # The head predicts a correction of the objectness of the proposal that the anchor came from.
            with torch.no_grad():
                start = objectness_at(anchors_cxcywh, memory.proposals)
            objectness = objectness + start
        output = LocalizerOutput(
            boxes_cxcywh=decoded.boxes_cxcywh,
            objectness=objectness,
            hidden=decoded.hidden,
            references=decoded.references,
        )
        return output if self.refinement is None else self._refined(memory, output, self.refinement)

    def _refined(self, memory: Memory, output: LocalizerOutput, refinement: BoxRefinement) -> LocalizerOutput:
        """The output with the refinement as its last layer: objectness is that of the box times its fit.

        No gradients pass to the boxes that it starts from.
        """
        start = output.boxes_cxcywh[-1].detach()
        boxes, fit = refinement(memory, start)
        after = (boxes, product_logit(output.objectness[-1], fit), output.hidden[-1], start)
        before = (output.boxes_cxcywh, output.objectness, output.hidden, output.references)
        return LocalizerOutput(*(torch.cat([all_, one[None]]) for all_, one in zip(before, after, strict=True)))

    def forward(self, c3: FeatureMap, anchors_cxcywh: Tensor, content: Tensor) -> LocalizerOutput:
        """`encode`, then `decode`: C3, anchors [B, N, 4] and query content [B, N, dim] as described there."""
        return self.decode(self.encode(c3), anchors_cxcywh, content)

    def _proposer(self) -> AnchorProposals | PyramidProposals:
        """The proposals, or ModelError if anchors are learned."""
        if self.proposals is None:
            raise ModelError("this localizer has learned anchors and proposes none; use anchors")
        return self.proposals

    def _reset_parameters(self) -> None:
        """Initialise by Xavier, but start boxes at their anchors, and objectness at a prior or at the proposals'."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.proposals is not None:
            self.proposals.reset_parameters()
        if self.refinement is not None:
            self.refinement.reset_parameters()
        for head in self.decoder.box_heads:
            nn.init.zeros_(head.layers[-1].weight)  # type: ignore[union-attr, index]
        for attention in self.decoder.modules():
            if isinstance(attention, DeformableAttention):
                attention.reset_parameters()
        if isinstance(self.encoder, PyramidEncoder):
            # A correction of zero: objectness starts as that of the proposals.
            nn.init.zeros_(self.objectness_head.weight)
        else:
            nn.init.constant_(self.objectness_head.bias, math.log(OBJECTNESS_PRIOR / (1 - OBJECTNESS_PRIOR)))


def _deformable_levels(config: LocalizerConfig) -> int:
    """Number of levels that deformable attention samples; 0 if queries attend to all cells."""
    if config.cross_attention == "map":
        return 0
    strides = first_look(encoded_strides(tuple(stride for stride, _ in config.levels))) if config.levels else (16,)
    return len(strides)


def _map_parts(
    config: LocalizerConfig, layers: list[EncoderLayer]
) -> tuple[nn.Conv2d, Encoder, AnchorProposals | None]:
    """Input projection, encoder and proposals of a localizer for a single map."""
    projection = nn.Conv2d(config.c3_channels, config.dim, kernel_size=1)
    encoder = Encoder(layers=layers, dim=config.dim)
    proposed = config.anchors == "proposed"
    return projection, encoder, AnchorProposals(dim=config.dim, count=config.num_queries) if proposed else None


def _pyramid_parts(config: LocalizerConfig) -> tuple[None, PyramidEncoder, PyramidProposals]:
    """The same for a pyramid, which needs no input projection."""
    encoder = PyramidEncoder(layout=PyramidLayout(config.levels), dim=config.dim, passes=config.enc_layers > 0)
    return None, encoder, PyramidProposals(dim=config.dim, count=config.num_queries, strides=encoder.encoded_strides)
