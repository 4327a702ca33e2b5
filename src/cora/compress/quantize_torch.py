"""INT8 in PyTorch by torchao: the linear layers of the localizer and of the text tower, and its token table.

Convolutions stay float, since torchao has no INT8 kernel for them, and so do the layers that `int8_layers` leaves out.
The file is the detector's own checkpoint with these weights as integers and one scale per row: weight = int8 * scale.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cora.compress.quantize_float import FLOAT_PARTS
from cora.console import quiet
from cora.detector import Detector, DetectorConfig, check_no_variant
from cora.detector.checkpoint import FLOAT32_PREFIX, write_tensors
from cora.errors import ModelError, needs_extra
from cora.files import read_safetensors
from cora.images import ImageSource, read_image
from cora.regions import Vocabulary
from cora.towers.weights import load_checked

FORMAT = "cora-detector-int8"
FORMAT_VERSION = 1

Mode = Literal["dynamic", "static"]

_SCALE = "_scale"
_INPUT_SCALE = "_input_scale"

#: Parts whose linear layers become INT8; the token table of the text tower is most of its bytes.
_PARTS = ("localizer.", "text_tower.")


class Int8Detector(Detector):
    """A detector some of whose layers are INT8; it predicts like any other and cannot be trained."""

    mode: Mode = "dynamic"

    def save(self, path: str | Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Write config and weights: whole numbers with float32 scales, everything else as `dtype`.

        Raises:
            ModelError: the file cannot be written.
        """
        tensors = {}
        for name, value in self.state_dict().items():
            kept = not value.is_floating_point() or name.endswith(_SCALE) or name.startswith(FLOAT32_PREFIX)
            tensors[name] = value if kept else value.to(dtype)
        metadata = {"format": FORMAT, "version": str(FORMAT_VERSION), "mode": self.mode}
        write_tensors(Path(path), tensors, {**metadata, "config": json.dumps(self.config.to_dict())})


def int8_layers(detector: nn.Module) -> dict[str, nn.Linear | nn.Embedding]:
    """Layers that become INT8, by name.

    Left out are the heads of boxes and objectness and the position networks, for accuracy, and layers whose weights
    are used without calling them: the attention pool, and the projections of `nn.MultiheadAttention`.
    """
    return {
        name: layer
        for name, layer in detector.named_modules()
        # The exact type: attention's own subclass of Linear is not called as a layer.
        if type(layer) in (nn.Linear, nn.Embedding)
        and name.startswith(_PARTS)
        and not any(part in FLOAT_PARTS for part in name.split("."))
    }


def quantize_detector(
    detector: Detector,
    *,
    mode: Mode,
    vocabulary: Vocabulary | None = None,
    calibration: Iterable[ImageSource] = (),
) -> Int8Detector:
    """A copy of a detector with INT8 linear layers.

    Dynamic: every row of an input is scaled by its own largest value at run time. Static: all inputs of a layer are
    scaled by the largest value that the layer met in calibration; layers that were not called stay dynamic.

    Args:
        detector: the float model; it stays as it is.
        mode: "dynamic" or "static".
        vocabulary: classes that calibration looks for; static mode only.
        calibration: images; static mode only.

    Raises:
        MissingExtraError: torchao is not installed.
        ImageError: an image cannot be read.
        ModelError: static mode without images or vocabulary.
    """
    check_no_variant(detector.config, "quantization")
    tower = replace(detector.config.tower, templates=detector.vocabulary_encoder.templates)
    copy = Int8Detector.build(replace(detector.config, tower=tower), cache_dir=detector.vocabulary_encoder.cache_dir)
    copy.load_state_dict(detector.state_dict())
    copy.to(detector.device).eval()
    layers = int8_layers(copy)
    largest: dict[str, Tensor] = {}
    if mode == "static":
        if vocabulary is None:
            raise ModelError("static quantization: expected a vocabulary to calibrate with, got none")
        largest = _largest_inputs(copy, layers, vocabulary, calibration)
    for name, layer in layers.items():
        _make_int8(layer, largest.get(name))
    copy.mode = mode
    copy.vocabulary_encoder.forget()
    return copy


def is_int8_file(path: str | Path) -> bool:
    """Whether a file is one that `Int8Detector.save` wrote."""
    try:
        with safe_open(str(path), framework="pt") as content:
            return (content.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def load_int8(path: str | Path) -> Int8Detector:
    """Rebuild an INT8 detector from its file, in evaluation mode.

    Raises:
        MissingExtraError: torchao is not installed.
        ModelError: not such a file, one of another version, or its tensors do not fit its configuration.
    """
    file = Path(path)
    metadata, tensors = _read(file)
    detector = Int8Detector.build(DetectorConfig.from_dict(json.loads(metadata["config"])))
    names = [name.removesuffix(".weight" + _SCALE) for name in tensors if name.endswith(".weight" + _SCALE)]
    known = int8_layers(detector)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        found = f"{len(unknown)} unknown, for example {unknown[0]}" if unknown else "none"
        raise ModelError(f"checkpoint {file}: expected INT8 weights of this model's layers, got {found}")
    int8 = {name: tensors.pop(f"{name}.weight", torch.empty(0)) for name in names}
    if any(value.dtype != torch.int8 or value.shape != known[name].weight.shape for name, value in int8.items()):
        raise ModelError(f"checkpoint {file}: expected an INT8 weight and its scale for each layer; was it damaged?")
    scales = {name: tensors.pop(f"{name}.weight{_SCALE}") for name in names}
    inputs = {name: tensors.pop(f"{name}.weight{_INPUT_SCALE}", None) for name in names}
    floats = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    floats |= {f"{name}.weight": int8[name].float() * scales[name] for name in names}
    load_checked(detector, floats, source=f"checkpoint {file}")
    for name in names:
        _make_int8(known[name], inputs[name], scaled=True)
        # Bit for bit what was saved: a scale that is found again may differ in its last digit.
        weight: Any = known[name].weight
        weight.qdata.copy_(int8[name])
        weight.scale.copy_(scales[name])
    detector.mode = "static" if metadata.get("mode") == "static" else "dynamic"
    detector.vocabulary_encoder.forget()
    return detector.eval()


def _read(file: Path) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    if not file.is_file():
        raise ModelError(f"checkpoint {file}: expected an existing file, got none")
    try:
        metadata, tensors = read_safetensors(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"checkpoint {file}: expected a file of `cora quantize`, could not read it ({error})"
        ) from None
    if metadata.get("format") != FORMAT or metadata.get("version") != str(FORMAT_VERSION):
        raise ModelError(
            f"checkpoint {file}: expected an INT8 model of format version {FORMAT_VERSION}, "
            f"got {metadata.get('format')} {metadata.get('version')}; make it again with `cora quantize`"
        )
    return metadata, tensors


@torch.inference_mode()
def _largest_inputs(
    detector: Detector,
    layers: Mapping[str, nn.Module],
    vocabulary: Vocabulary,
    calibration: Iterable[ImageSource],
) -> dict[str, Tensor]:
    """Largest absolute input of every layer that was called, with as many dimensions as that input."""
    largest: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found = inputs[0].abs().amax(dim=tuple(range(inputs[0].ndim)), keepdim=True)
            before = largest.get(name)
            largest[name] = found if before is None else torch.maximum(before, found)

        return note

    linear = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in linear.items()]
    pictures = 0
    try:
        # Directly, since cached embeddings would not pass through the text tower.
        detector.text_tower.encode(vocabulary.names)
        for source in calibration:
            batch = detector.preprocessor([read_image(source)]).to(detector.device)
            detector(batch, vocabulary.to(detector.device))
            pictures += 1
    finally:
        for handle in handles:
            handle.remove()
    if not pictures:
        raise ModelError("static quantization: expected images to calibrate with, got none")
    return largest


def _make_int8(layer: nn.Linear | nn.Embedding, largest_input: Tensor | None, *, scaled: bool = False) -> None:
    """Replace a layer's weight by an INT8 one.

    Args:
        layer: changed in place.
        largest_input: [1, ...], makes the scale of its inputs static; None for dynamic.
        scaled: whether `largest_input` is the scale itself.
    """
    # Importing torchao makes PyTorch warn about its own internals.
    with quiet("torch.utils._pytree"), needs_extra("INT8 in PyTorch", extra="quantize"):
        from torchao.quantization import (
            Int8DynamicActivationInt8WeightConfig,
            Int8StaticActivationInt8WeightConfig,
            Int8WeightOnlyConfig,
            PerRow,
            PerTensor,
            quantize_,
        )
    config: Any
    if isinstance(layer, nn.Embedding):
        config = Int8WeightOnlyConfig(set_inductor_config=False)
    elif largest_input is None:
        config = Int8DynamicActivationInt8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    else:
        scale = largest_input if scaled else largest_input.clamp(min=1e-8) / 127
        granularity = [PerTensor(), PerRow()]
        config = Int8StaticActivationInt8WeightConfig(
            act_quant_scale=scale, granularity=granularity, set_inductor_config=False
        )
    quantize_(layer, config, filter_fn=lambda module, name: module is layer)
    layer._save_to_state_dict = MethodType(_save_plain_tensors, layer)  # type: ignore[method-assign]


def _save_plain_tensors(layer: Any, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
    """Put the parts of an INT8 weight into a state dict, since torchao's tensor type cannot be stored.

    In inference mode it cannot be detached either, which any other hook would need.
    """
    weight = layer.weight
    destination[f"{prefix}weight"] = weight.qdata
    destination[f"{prefix}weight{_SCALE}"] = weight.scale
    if weight.act_quant_scale is not None:
        destination[f"{prefix}weight{_INPUT_SCALE}"] = weight.act_quant_scale
    if getattr(layer, "bias", None) is not None:
        destination[f"{prefix}bias"] = layer.bias if keep_vars else layer.bias.detach()
