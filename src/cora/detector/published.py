"""Converts checkpoints of the published CORA code (Wu et al., CVPR 2023) to a `Detector`.

A published file holds the tensors under `model`, their moving average (EMA) under `model_ema` (-1 if there is none),
the arguments of the run as an `argparse.Namespace`, and the state of the optimizer. The shapes of the tensors show all
sizes except the number of attention heads: one per 64 channels in the towers, 8 in the localizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cora.detector.clip_file import detector_from_clip, is_clip, num_parts, resnet_sizes, text_sizes
from cora.detector.config import DetectorConfig
from cora.detector.cora import Detector
from cora.detector.foreign import Weights, read_tensors
from cora.detector.postprocess import ALL_BOXES, PostprocessConfig
from cora.detector.published_localizer import published_localizer_state
from cora.detector.published_prompt import apply_published_prompt
from cora.errors import ModelError
from cora.localizer import LocalizerConfig
from cora.towers import TowerConfig
from cora.towers.weights import load_checked

# Published files hold some tensors twice: prefix of the copy, prefix of the original.
_DUPLICATES = (
    ("backbone.0.layer4.", "backbone.0.body.layer4."),
    ("backbone.0.body.attnpool.", "backbone.0.attn_pool."),
    ("bbox_embed.", "transformer.decoder.bbox_embed."),
)
# Published prefix of a tower's tensors, prefix of the same tensors in a `Detector`.
_TOWERS = (
    ("backbone.0.body.", "image_tower.net."),
    ("backbone.0.attn_pool.", "image_tower.net.attnpool."),
    ("classifier.", "text_tower.net."),
)
# Tensors that a `Detector` does not need.
_UNUSED = re.compile(r"num_batches_tracked$|^classifier\.(logit_scale|attn_mask)$")


def load_published(path: str | Path, *, ema: bool = True) -> Detector:
    """Load a published checkpoint (.pth, or a safetensors file of its state dict), in evaluation mode.

    Args:
        path: the file. Only tensors, plain values and an `argparse.Namespace` of them are unpickled.
        ema: whether to use the averaged weights, if the file has them.

    Raises:
        ModelError: no such file, not a checkpoint of CORA, or tensors that do not fit; the message counts them.
    """
    return load_foreign(path, weights=None if ema else "model")


def load_foreign(
    path: str | Path, *, weights: Weights | None = None, prompt: str | Path | None = None, gelu: bool = False
) -> Detector:
    """Load a published checkpoint, or CLIP's weights, which give a detector with an untrained localizer.

    Args:
        path: the file, see `cora.detector.foreign`.
        weights: which weights of a published checkpoint: averaged ("ema") or of the last step ("model"); None for the
            averaged ones if there are any.
        prompt: file of a released region prompt, which replaces that of the checkpoint.
        gelu: whether CLIP's text tower has GELU instead of OpenAI's QuickGELU.

    Raises:
        ModelError: a file cannot be read or has other content, or tensors that do not fit; the message counts them.
    """
    file = Path(path)
    tensors = read_tensors(file, weights=weights, called="published checkpoint")
    if is_clip(tensors):
        detector = detector_from_clip(tensors, source=f"weight file {file}", gelu=gelu)
    elif tensors and all("positional_embedding" in name for name in tensors) and len(tensors) < 3:
        raise ModelError(
            f"{file}: expected a checkpoint or CLIP's weights, got a region prompt; give it as --prompt beside one"
        )
    else:
        detector = detector_from_published(tensors, source=str(file))
    if prompt is not None:
        apply_published_prompt(detector, Path(prompt))
    return detector


def detector_from_published(tensors: Mapping[str, Tensor], *, source: str = "published state dict") -> Detector:
    """Build a detector from a published state dict.

    Its region prompt stays in the tower's positional table, since the file stores only their sum; see `RegionPrompt`.

    Raises:
        ModelError: missing or unknown tensors, or tensors of another shape; the message counts them.
    """
    config = infer_config(tensors, source=source)
    detector = Detector.build(config)
    renamed = {name: value.float() for name, value in published_to_own(_without_duplicates(tensors)).items()}
    renamed["prompt.offset"] = torch.zeros_like(detector.prompt.offset)
    load_checked(detector, renamed, source=source)
    return detector.eval()


def infer_config(weights: Mapping[str, Tensor], *, source: str = "published state dict") -> DetectorConfig:
    """Infer the sizes of a published model from the shapes of its tensors.

    Raises:
        ModelError: a tensor that shows a size is missing.
    """
    try:
        tower = TowerConfig(
            **resnet_sizes(weights, body="backbone.0.body.", pool="backbone.0.attn_pool."),
            **text_sizes(weights, "classifier."),
        )
        dim, c3_channels = weights["input_proj.0.0.weight"].shape[:2]
        localizer = LocalizerConfig(
            dim=dim,
            c3_channels=c3_channels,
            ff=weights["transformer.encoder.layers.0.linear1.weight"].shape[0],
            enc_layers=num_parts(weights, r"transformer\.encoder\.layers\.(\d+)\."),
            dec_layers=num_parts(weights, r"transformer\.decoder\.layers\.(\d+)\."),
            num_queries=weights["query_embed.weight"].shape[0],
            embed_dim=tower.embed_dim,
            class_hidden=weights["text_proj.layers.0.weight"].shape[0],
        )
    except KeyError as error:
        raise ModelError(
            f"{source}: expected a state dict of the published CORA code, got "
            f"{len(weights)} tensor{'s' * (len(weights) != 1)} without {error.args[0]}"
        ) from error
    except ValueError as error:
        raise ModelError(f"{source}: expected a state dict of the published CORA code, but {error}") from error
    return DetectorConfig(tower=tower, localizer=localizer, postprocess=PostprocessConfig(**ALL_BOXES))


def published_to_own(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename published tensors to their names in a `Detector`; those it does not have keep the published name."""
    own: dict[str, Tensor] = {}
    for name, value in weights.items():
        tower = next((pair for pair in _TOWERS if name.startswith(pair[0])), None)
        if tower is not None:
            own[tower[1] + name.removeprefix(tower[0])] = value
        else:
            pieces = published_localizer_state({name: value})
            own |= {f"localizer.{key}": piece for key, piece in pieces.items()} or {name: value}
    return own


def _without_duplicates(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the tensors that are not needed, and those that are stored twice."""
    kept = {name: value for name, value in weights.items() if not _UNUSED.search(name)}
    for copy, original in _DUPLICATES:
        for name in [name for name in kept if name.startswith(copy)]:
            if original + name.removeprefix(copy) in kept:
                del kept[name]
    return kept
