"""Structured pruning: removes the least important units. The result is an ordinary, smaller detector.

Units are feed-forward channels, attention heads, encoder and decoder layers and anchors of the localizer, and channels,
heads of the pool and residual blocks of the image tower. All weights that belong to a kept unit are copied as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cora.compress.arch_sizes import Architecture, head_width
from cora.detector import Detector, DetectorConfig, check_no_variant
from cora.errors import ModelError
from cora.towers.weights import load_checked

#: Channels of a head of the image tower's attention pool.
POOL_HEAD = 64

#: The attentions of a layer of the localizer, whose heads are units.
ATTENTIONS = {"encoder": ("attention",), "decoder": ("self_attention", "cross_attention")}

#: Name of a set of units -> importance of each unit; units of low importance are removed first.
Importance = Mapping[str, Tensor]
#: Name of a set of units -> indices [K] of the units that are kept, ascending.
Kept = Mapping[str, Tensor]


def unit_sets(config: DetectorConfig, sizes: Architecture) -> dict[str, int]:
    """Number of units in every set, for a detector of this configuration that is cut to these sizes.

    The sets are those of the whole detector, and so include the channels of layers that are removed.
    """
    blocks, channels = config.tower.layers, sizes.width
    sets = {
        "encoder.layers": sizes.enc_layers,
        "decoder.layers": sizes.dec_layers,
        "anchors": sizes.anchors,
        "stem.0": channels // 2,
        "stem.1": channels // 2,
        "stem.2": channels,
        "pool.heads": max(channels * 32 // POOL_HEAD, 1),
    }
    for part, count in (("encoder", config.localizer.enc_layers), ("decoder", config.localizer.dec_layers)):
        for index in range(count):
            sets[f"{part}.layers.{index}.ffn"] = sizes.ff
            sets |= {f"{part}.layers.{index}.{attention}": sizes.heads for attention in ATTENTIONS[part]}
    for stage in range(4):
        sets[f"layer{stage + 1}"] = sizes.layers[stage]
        sets[f"layer{stage + 1}.channels"] = 4 * channels * 2**stage
        for block in range(blocks[stage]):
            sets |= {f"layer{stage + 1}.{block}.{place}": channels * 2**stage for place in ("first", "second")}
    return sets


def prune(detector: Detector, sizes: Architecture, importance: Importance) -> Detector:
    """A detector of these sizes that keeps the most important units; the given one stays as it is.

    Args:
        detector: to make smaller.
        sizes: not larger than the detector's; the resolution may be any.
        importance: of every set of `unit_sets` that shrinks, from `rank_units`.

    Raises:
        ModelError: a size is larger than the detector's.
    """
    check_sizes(Architecture.of(detector.config), sizes)
    now = unit_sets(detector.config, Architecture.of(detector.config))
    kept = {
        name: torch.arange(now[name]) if count == now[name] else most_important(importance[name], count)
        for name, count in unit_sets(detector.config, sizes).items()
    }
    return cut(detector, sizes, kept)


def check_sizes(present: Architecture, wanted: Architecture) -> None:
    """Raise ModelError for sizes that pruning cannot reach: it removes and adds nothing."""
    for (name, have), want in zip(present.numbers().items(), wanted.numbers().values(), strict=True):
        if want > have and name != "short_side":
            raise ModelError(f"pruning {name}: expected at most the model's {have}, got {want}; pruning only removes")


def most_important(importance: Tensor, count: int) -> Tensor:
    """Indices [count] of the greatest importances, ascending; of equal ones the first."""
    return importance.argsort(descending=True, stable=True)[:count].sort().values.cpu()


def cut(detector: Detector, sizes: Architecture, kept: Kept) -> Detector:
    """A detector of these sizes with the kept units of every set of `unit_sets`.

    Of encoder and decoder layers and of residual blocks the first of each stack is always kept: it alone reads what
    comes before.
    """
    check_no_variant(detector.config, "pruning")
    if detector.config.localizer.cross_attention != "map":
        raise ModelError("pruning: expected a localizer that attends to the whole map, got deformable attention")
    config = sizes.configure(detector.config)
    smaller = Detector.build(config, cache_dir=detector.vocabulary_encoder.cache_dir)
    load_checked(smaller, cut_state(detector.state_dict(), kept, head_width(detector.config)), source="pruned model")
    smaller.vocabulary_encoder.templates = detector.vocabulary_encoder.templates
    smaller.precision = detector.precision
    return smaller.to(detector.device).eval()


def cut_state(state: Mapping[str, Tensor], kept: Kept, head: int) -> dict[str, Tensor]:
    """The tensors of the smaller model: those of the whole one without the removed units, renamed where needed.

    Args:
        state: of the whole model.
        kept: of every set of `unit_sets`.
        head: width of an attention head of the localizer.
    """
    smaller = {}
    for name, value in state.items():
        renamed = _renamed(name, kept)
        if renamed is None:
            continue
        for axis, units in enumerate(_axes(name)[: value.ndim]):
            if units is not None:
                width = channels_of(units, head)
                places = (kept[units][:, None] * width + torch.arange(width)).flatten()
                value = value.index_select(axis, places.to(value.device))
        smaller[renamed] = value
    return smaller


def channels_of(units: str, head: int) -> int:
    """Channels that belong to one unit of a set; `head` is the width of a head of the localizer."""
    if units == "pool.heads":
        return POOL_HEAD
    return head if units.endswith("attention") else 1


def _renamed(name: str, kept: Kept) -> str | None:
    """Name of a tensor in the smaller model, with the new number of its layer; None if the layer is removed."""
    if name.startswith("localizer.decoder.position_scale.") and len(kept["decoder.layers"]) == 1:
        return None  # a single layer has nothing to scale
    parts = name.split(".")
    for place, stack in _STACKS.items():
        head = place.split(".")
        if parts[: len(head)] == head:
            numbers = kept[stack].tolist()
            old = int(parts[len(head)])
            if old not in numbers:
                return None
            parts[len(head)] = str(numbers.index(old))
            return ".".join(parts)
    return name


#: Prefix of numbered layers -> the set whose units they are.
_STACKS = {
    "localizer.encoder.layers": "encoder.layers",
    "localizer.decoder.layers": "decoder.layers",
    "localizer.decoder.box_heads": "decoder.layers",
    **{f"image_tower.net.layer{stage}": f"layer{stage}" for stage in range(1, 5)},
}

#: Name of a tensor outside the numbered layers -> set of units along its first and second axis.
_AXES: dict[str, tuple[str | None, ...]] = {
    "localizer.learned_anchors.logits": ("anchors",),
    "localizer.input_projection.weight": (None, "layer3.channels"),
    "prompt.offset": (None, "layer4.channels"),
    "conv1": ("stem.0", None),
    "bn1": ("stem.0",),
    "conv2": ("stem.1", "stem.0"),
    "bn2": ("stem.1",),
    "conv3": ("stem.2", "stem.1"),
    "bn3": ("stem.2",),
    "attnpool.positional_embedding": (None, "layer4.channels"),
    "attnpool.c_proj.weight": (None, "pool.heads"),
    **{
        f"attnpool.{projection}_proj.{kind}": ("pool.heads", "layer4.channels")
        for projection in "qkv"
        for kind in ("weight", "bias")
    },
}


def _axes(name: str) -> tuple[str | None, ...]:
    """Set of units along each axis of a tensor; None, or no entry, for an axis that is not cut."""
    parts = name.split(".")
    if name.startswith(("localizer.encoder.layers.", "localizer.decoder.layers.")):
        return _layer_axes(*parts[1:])
    if not name.startswith("image_tower.net."):
        return _AXES.get(name, ())
    module = parts[2]
    if module.startswith("layer"):
        return _block_axes(int(module.removeprefix("layer")), int(parts[3]), parts[4:])
    return _AXES.get(".".join(parts[2:]) if module == "attnpool" else module, ())


def _layer_axes(stack: str, layers: str, index: str, block: str, linear: str, *rest: str) -> tuple[str | None, ...]:
    """The same for a layer of the localizer: a block is a feed-forward network or an attention."""
    if linear in ("norm", "activation"):  # no unit has weights of its own there
        return ()
    units = f"{stack}.{layers}.{index}.{'ffn' if block == 'feed_forward' else block}"
    if linear in ("contract", "output"):  # reads the units; its bias is of what it writes
        return (None, units) if rest[-1] == "weight" else ()
    return (units,)


def _block_axes(stage: int, block: int, parts: list[str]) -> tuple[str | None, ...]:
    own, first, second = f"layer{stage}.channels", f"layer{stage}.{block}.first", f"layer{stage}.{block}.second"
    before = own if block else ("stem.2" if stage == 1 else f"layer{stage - 1}.channels")
    if parts[0] == "downsample":
        return (own, before)
    return {
        "conv1": (first, before),
        "bn1": (first,),
        "conv2": (second, first),
        "bn2": (second,),
        "conv3": (own, second),
        "bn3": (own,),
    }[parts[0]]
