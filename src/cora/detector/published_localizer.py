"""Maps the names of the localizer's tensors in the published CORA code to those in `cora.localizer`.

The published modules are DAB-DETR's. In the decoder, every projection is a module (`sa_*` for self-attention, `ca_*`
for cross-attention). In the encoder, the projections to query, key and value are stacked in one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_PREFIXES = (
    ("input_proj.0.0.", "input_projection."),
    ("query_embed.weight", "learned_anchors.logits"),
    ("text_proj.", "class_projection."),
    ("objectness_embed.", "objectness_head."),
    ("transformer.decoder.bbox_embed.", "decoder.box_heads."),
    ("transformer.decoder.query_scale.", "decoder.position_scale."),
    ("transformer.decoder.ref_point_head.", "decoder.query_position."),
    ("transformer.decoder.ref_anchor_head.", "decoder.anchor_size."),
    ("transformer.decoder.norm.", "decoder.norm."),
    ("transformer.encoder.query_scale.", "encoder.position_scale."),
)
_LAYER = re.compile(r"transformer\.(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")
_FEED_FORWARD = {
    "linear1": "feed_forward.expand",
    "activation": "feed_forward.activation",
    "linear2": "feed_forward.contract",
}
_ENCODER = {
    **_FEED_FORWARD,
    "self_attn.out_proj": "attention.output",
    "norm1": "attention.norm",
    "norm2": "feed_forward.norm",
}
_DECODER = {
    **_FEED_FORWARD,
    "sa_qcontent_proj": "self_attention.content_query",
    "sa_kcontent_proj": "self_attention.content_key",
    "sa_qpos_proj": "self_attention.position_query",
    "sa_kpos_proj": "self_attention.position_key",
    "sa_v_proj": "self_attention.value",
    "self_attn.out_proj": "self_attention.output",
    "norm1": "self_attention.norm",
    "ca_qcontent_proj": "cross_attention.content_query",
    "ca_kcontent_proj": "cross_attention.content_key",
    "ca_qpos_proj": "cross_attention.position_query",
    "ca_kpos_proj": "cross_attention.position_key",
    "ca_qpos_sine_proj": "cross_attention.sine_query",
    "ca_v_proj": "cross_attention.value",
    "cross_attn.out_proj": "cross_attention.output",
    "norm2": "cross_attention.norm",
    "norm3": "feed_forward.norm",
}
_STACKED = re.compile(r"transformer\.encoder\.layers\.(\d+)\.self_attn\.in_proj_(weight|bias)")


def published_localizer_name(name: str) -> str | None:
    """The name in a `Localizer` of a published tensor; None if it has none, or is a stacked tensor of the encoder."""
    for published, own in _PREFIXES:
        if name.startswith(published):
            return own + name.removeprefix(published)
    found = _LAYER.fullmatch(name)
    if found is None:
        return None
    part, index, module, kind = found.groups()
    own_module = (_ENCODER if part == "encoder" else _DECODER).get(module)
    return None if own_module is None else f"{part}.layers.{index}.{own_module}.{kind}"


def published_localizer_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Extract the state dict of a `Localizer` from a published one.

    Args:
        tensors: state dict of the whole published model. Tensors of other parts are skipped, as is `bbox_embed.*`, a
            copy of `transformer.decoder.bbox_embed.*`.

    Returns:
        Tensors by their names in a `Localizer`, not copied.
    """
    state: dict[str, Tensor] = {}
    for name, value in tensors.items():
        own = published_localizer_name(name)
        if own is not None:
            state[own] = value
        elif stacked := _STACKED.fullmatch(name):
            index, kind = stacked.groups()
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                state[f"encoder.layers.{index}.attention.{part}.{kind}"] = rows
    return state
