"""INT8 of an exported OpenVINO file by NNCF.

Static: convolutions and layers with a constant matrix become INT8, their inputs scaled by what calibration meets, with
NNCF's correction of biases. Dynamic: their weights become INT8 and the processor's plugin decides, layer by layer,
whether to scale inputs when they come. All other operators stay float, and so do the layers of `keep`.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from cora.compress.quantize_float import FloatWeights
from cora.compress.quantize_onnx import Feeds
from cora.compress.quantize_quiet import quiet
from cora.errors import MissingExtraError
from cora.export.openvino_file import companions

_WITH_WEIGHTS = ("Convolution", "MatMul")
_DATA = ("Constant", "Parameter", "Result")


def quantize_openvino_file(plain: Path, target: Path, *, feeds: Feeds | None, keep: FloatWeights) -> None:
    """Write an INT8 copy of an OpenVINO file, with its weights and description beside it.

    Args:
        plain: the float file (.xml); it stays as it is.
        target: the file to write (.xml).
        feeds: inputs of the graph by name, one for each calibration picture; None for dynamic quantization.
        keep: weights of layers that stay float.

    Raises:
        MissingExtraError: openvino or nncf is not installed.
    """
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise MissingExtraError("INT8 for OpenVINO", extra="quantize") from error
    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(str(plain))
    scope = nncf.IgnoredScope(names=float_operators(model, keep), validate=False)
    with quiet("torch.utils.cpp_extension"):  # what NNCF imports on the way warns that there is no GPU
        if feeds is None:
            quantized = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=scope)
        else:
            inputs = list(feeds)
            quantized = nncf.quantize(
                model,
                nncf.Dataset(inputs),
                subset_size=len(inputs),
                model_type=nncf.ModelType.TRANSFORMER,
                ignored_scope=scope,
            )
    openvino.save_model(quantized, str(target), compress_to_fp16=False)
    shutil.copyfile(companions(plain)[1], companions(target)[1])


def float_operators(model: Any, keep: FloatWeights) -> list[str]:
    """Names of the operators that stay float: all but convolutions and layers with a constant matrix not in `keep`.

    Constants are not named: NNCF would leave out whatever they are the weights of.
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
