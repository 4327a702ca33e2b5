"""INT8 of an exported ONNX file by ONNX Runtime's quantizer.

Static: convolutions and layers, weights per channel, inputs by the smallest and largest value that calibration meets,
in the QDQ form that the runtime fuses into INT8 kernels. Dynamic: layers alone; convolutions whose input is scaled when
it comes have no fast kernel on CPUs. Products of two activations (attention, region pooling, cosines with class
embeddings) stay float in both, and so do the layers of `FloatWeights`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cora.compress.quantize_float import FloatWeights
from cora.compress.quantize_quiet import running
from cora.console import quiet
from cora.errors import needs_extra

Feeds = Iterable[Mapping[str, NDArray[Any]]]

_LAYERS = ("MatMul", "Gemm")
_STATIC = ("Conv", *_LAYERS)


def quantize_onnx_file(plain: Path, target: Path, *, feeds: Feeds | None, keep: FloatWeights) -> None:
    """Write an INT8 copy of an ONNX file, with its description.

    Args:
        plain: the float file; it stays as it is.
        target: the file to write.
        feeds: inputs of the graph by name, one for each calibration image; None for dynamic quantization.
        keep: weights of layers that stay float.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
        ModelError: the quantizer fails.
    """
    with needs_extra("INT8 for ONNX Runtime", extra="quantize"):
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    model = onnx.load_model(str(plain))
    # The quantizer transposes weights and then finds the recorded shapes wrong; without them it infers new ones.
    del model.graph.value_info[:]
    separate_shared_layers(model.graph)
    options: dict[str, Any] = {
        "nodes_to_exclude": float_nodes(model.graph, keep),
        "per_channel": True,
        "weight_type": QuantType.QInt8,
        # Weights of 7 bits: CPUs without VNNI add pairs of products in 16 bits, which overflow with weights of 8 bits.
        "reduce_range": True,
        "extra_options": {"MatMulConstBOnly": True},
    }
    with quiet(None), running("ONNX Runtime"):  # it logs advice for developers to the root logger
        if feeds is None:
            quantize_dynamic(model, str(target), op_types_to_quantize=list(_LAYERS), **options)
        else:
            quantize_static(
                model,
                str(target),
                _reader(feeds),
                op_types_to_quantize=list(_STATIC),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                **options,
            )
    _copy_description(plain, target)


def separate_shared_layers(graph: Any) -> None:
    """Rewrite every Gemm that shares its weight with another node as Transpose, MatMul and Add.

    For dynamic quantization the quantizer transposes the weights of Gemm nodes in place. That changes the other nodes,
    too; with square weights the result is wrong and there is no error.
    """
    from onnx import helper

    users = Counter(name for node in graph.node for name in node.input)
    nodes = []
    for node in graph.node:
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        plain = not attributes.get("transA", 0) and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
        if node.op_type != "Gemm" or users[node.input[1]] == 1 or not plain:
            nodes.append(node)
            continue
        weight, name = node.input[1], node.name
        if attributes.get("transB", 0):
            weight = f"{name}_transposed"
            nodes.append(helper.make_node("Transpose", [node.input[1]], [weight], name=weight, perm=[1, 0]))
        biased = len(node.input) == 3
        product = f"{name}_product" if biased else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=f"{name}_matmul"))
        if biased:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{name}_add"))
    del graph.node[:]
    graph.node.extend(nodes)


def float_nodes(graph: Any, keep: FloatWeights) -> list[str]:
    """Names of the nodes that stay float: layers to keep, and products with anything but a constant matrix."""
    from onnx import numpy_helper

    constants = {entry.name: entry for entry in graph.initializer}

    def stays(node: Any) -> bool:
        weight = constants.get(node.input[1])
        if weight is None:
            return True
        return node.op_type in _LAYERS and (len(weight.dims) != 2 or numpy_helper.to_array(weight) in keep)

    return [node.name for node in graph.node if node.op_type in _STATIC and stays(node)]


def _reader(feeds: Feeds) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Calibration inputs, one at a time."""

        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            found = next(self.feeds, None)
            return None if found is None else dict(found)

    return Reader()


def _copy_description(plain: Path, target: Path) -> None:
    import onnx

    source = onnx.load_model(str(plain), load_external_data=False)
    model = onnx.load_model(str(target))
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in source.metadata_props})
    onnx.save_model(model, str(target))
