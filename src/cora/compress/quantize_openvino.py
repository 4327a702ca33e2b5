"""INT8 of an exported OpenVINO file by NNCF.

Static: convolutions and layers with a constant matrix become INT8, their inputs scaled by what calibration meets.
Dynamic: their weights become INT8 and the processor's plugin decides, layer by layer, whether to scale inputs when they
come. All other operators stay float, and so do the layers of `keep`.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cora.compress.quantize_float import FloatWeights
from cora.compress.quantize_onnx import Feeds
from cora.compress.quantize_quiet import running
from cora.console import quiet
from cora.errors import needs_extra
from cora.export.openvino_file import companions

_WITH_WEIGHTS = ("Convolution", "MatMul")
_DATA = ("Constant", "Parameter", "Result")


def quantize_openvino_file(plain: Path, target: Path, *, feeds: Feeds | None, keep: FloatWeights) -> None:
    """Write an INT8 copy of an OpenVINO file, with its weights and description beside it.

    Args:
        plain: the float file (.xml); it stays as it is.
        target: the file to write (.xml).
        feeds: inputs of the graph by name, one for each calibration image; None for dynamic quantization.
        keep: weights of layers that stay float.

    Raises:
        MissingExtraError: openvino or nncf is not installed.
        ModelError: NNCF fails.
    """
    with needs_extra("INT8 for OpenVINO", extra="quantize"):
        import nncf
        import openvino
    # Not `nncf.set_log_level`: that also sets the level of every handler, those of the caller among them.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino.Core().read_model(str(plain))
    scope = nncf.IgnoredScope(names=float_operators(model, keep), validate=False)
    # A package that NNCF imports warns if there is no GPU.
    with quiet("torch.utils.cpp_extension"), running("NNCF"):
        if feeds is None:
            quantized = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=scope)
        else:
            # Calibrated at one image size, since NNCF may collect no statistics from graphs of open sizes.
            inputs = padded_alike(feeds)
            open_shapes = {entry.get_any_name(): entry.get_partial_shape() for entry in model.inputs}
            model.reshape({name: list(inputs[0][name].shape) for name in ("pixels", "sizes_hw")})
            quantized = nncf.quantize(model, nncf.Dataset(inputs), subset_size=len(inputs), ignored_scope=scope)
            quantized.reshape(open_shapes)
    openvino.save_model(quantized, str(target), compress_to_fp16=False)
    shutil.copyfile(companions(plain)[1], companions(target)[1])


def padded_alike(feeds: Feeds) -> list[dict[str, NDArray[Any]]]:
    """The same inputs, all `pixels` [1, 3, H, W] padded to the largest height and width."""
    inputs = [dict(feed) for feed in feeds]
    height, width = (max(feed["pixels"].shape[axis] for feed in inputs) for axis in (2, 3))
    for feed in inputs:
        missing = (height - feed["pixels"].shape[2], width - feed["pixels"].shape[3])
        feed["pixels"] = np.pad(feed["pixels"], ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])))
    return inputs


def float_operators(model: Any, keep: FloatWeights) -> list[str]:
    """Names of the operators that stay float: all but convolutions and layers with a constant matrix not in `keep`.

    Constants are left out, since NNCF would then leave every operator float that has one of them as its weight.
    """
    return [
        node.get_friendly_name()
        for node in model.get_ops()
        if node.get_type_name() not in _DATA and not _becomes_int8(node, keep)
    ]


def _becomes_int8(node: Any, keep: FloatWeights) -> bool:
    if node.get_type_name() not in _WITH_WEIGHTS:
        return False
    weight = node.input_value(1).get_node()
    if weight.get_type_name() != "Constant":
        return False
    return node.get_type_name() == "Convolution" or (len(weight.shape) == 2 and weight.data not in keep)
