"""Runtimes that execute an exported graph: ONNX Runtime, OpenVINO, LiteRT, and PyTorch for a program in memory."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram

from cora.errors import CoraError, ModelError, needs_extra

Arrays = Mapping[str, NDArray[Any]]


class Backend(Protocol):
    """Runs a graph.

    Attributes:
        name: of the runtime, for people.
    """

    name: str

    def run(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Outputs in the order of the graph, for inputs by name.

        Raises:
            ModelError: the runtime refuses them.
        """
        ...


class OnnxRuntime:
    """ONNX Runtime.

    Args:
        path: of the ONNX file.
        device: "cpu", or "cuda" where the package has CUDA.
        threads: that compute; 0 leaves it to the runtime.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: it cannot load the file.
        CoraError: there is no such device for it.
    """

    name = "ONNX Runtime"

    def __init__(self, path: Path, *, device: str = "cpu", threads: int = 0) -> None:
        with needs_extra("running an ONNX file", extra="onnx"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # errors are raised as exceptions; the log would report them twice
        providers = _providers(device, onnxruntime.get_available_providers())
        with reported(f"{path}: expected a graph that ONNX Runtime loads, got"):
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self.inputs = [entry.name for entry in self.session.get_inputs()]

    def run(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Outputs of the ONNX graph, in its order, for inputs by name."""
        with reported("ONNX Runtime: expected inputs that the graph takes, got"):
            outputs: list[NDArray[Any]] = self.session.run(None, {name: inputs[name] for name in self.inputs})
        return outputs


class OpenVino:
    """OpenVINO.

    Args:
        path: of the .xml file; its weights lie beside it.
        device: "cpu".
        threads: that compute; 0 leaves it to the runtime.

    Raises:
        MissingExtraError: openvino is not installed.
        ModelError: it cannot load the file.
        CoraError: there is no such device for it.
    """

    name = "OpenVINO"

    def __init__(self, path: Path, *, device: str = "cpu", threads: int = 0) -> None:
        with needs_extra("running an OpenVINO file", extra="openvino"):
            import openvino
        if device != "cpu":
            raise CoraError(f"expected the device cpu for an OpenVINO file, got {device}; use --device cpu")
        # Half precision, the default on some processors, would change scores.
        options = {"INFERENCE_PRECISION_HINT": "f32", **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
        with reported(f"{path}: expected a graph that OpenVINO loads, got"):
            self.model = openvino.Core().compile_model(str(path), "CPU", options)
        self.inputs = [entry.get_any_name() for entry in self.model.inputs]
        self._one_call = threading.Lock()  # calls share one request, whose outputs another thread would overwrite

    def run(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Outputs of the OpenVINO graph, copied, for inputs by name; threads take turns."""
        with self._one_call:
            with reported("OpenVINO: expected inputs that the graph takes, got"):
                results = self.model([inputs[name] for name in self.inputs])
            return [np.array(results[index]) for index in range(len(self.model.outputs))]


class LiteRt:
    """LiteRT, on the CPU.

    Args:
        path: of the .tflite file.
        outputs: names of the outputs in the order of the graph.
        device: "cpu".
        threads: that compute; 0 leaves it to the runtime.

    Raises:
        MissingExtraError: ai-edge-litert is not installed.
        ModelError: it cannot load the file.
        CoraError: there is no such device for it.
    """

    name = "LiteRT"

    def __init__(self, path: Path, *, outputs: Sequence[str], device: str = "cpu", threads: int = 0) -> None:
        with needs_extra("running a LiteRT file", extra="litert"):
            from ai_edge_litert.interpreter import Interpreter
        if device != "cpu":
            raise CoraError(f"expected the device cpu for a LiteRT file, got {device}; use --device cpu")
        with reported(f"{path}: expected a graph that LiteRT loads, got"):
            self.signature = Interpreter(str(path), num_threads=threads or None).get_signature_runner()
        self.types = {name: entry["dtype"] for name, entry in self.signature.get_input_details().items()}
        self.outputs = outputs
        self._one_call = threading.Lock()  # inputs and outputs lie in the interpreter

    def run(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Outputs of the LiteRT graph, copied, for inputs by name; threads take turns."""
        with self._one_call, reported("LiteRT: expected inputs that the graph takes, got"):
            found = self.signature(**{name: inputs[name].astype(kind) for name, kind in self.types.items()})
        # Integers of the graph have 32 bits; PyTorch indexes with 64.
        outputs = [found[name] for name in self.outputs]
        return [one if one.dtype.kind == "f" else one.astype(np.int64) for one in outputs]


class Program:
    """PyTorch, for an exported program in memory.

    Args:
        program: what `torch.export` gave.
    """

    name = "exported program"

    def __init__(self, program: ExportedProgram) -> None:
        self.module = unguarded(program)
        self.inputs: Sequence[str] = [
            spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"
        ]

    def run(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Outputs of the exported program, for inputs by name."""
        with reported("exported program: expected inputs that it takes, got"), torch.inference_mode():
            outputs = self.module(*(torch.from_numpy(inputs[name]) for name in self.inputs))
        return [output.numpy() for output in outputs]


def unguarded(program: ExportedProgram) -> nn.Module:
    """The module of a program, without its guards.

    Guards (PyTorch 2.9 and later) check what tracing assumed of shapes, such as that a map is not one cell high. They
    refuse sizes for which the program is right; `cora export` compares it with the original instead.
    """
    has_guards = "check_guards" in inspect.signature(program.module).parameters
    return program.module(**({"check_guards": False} if has_guards else {}))


def _providers(device: str, available: Sequence[str]) -> list[str]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if device == "cuda" and "CUDAExecutionProvider" in available:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    raise CoraError(f"expected a device that this ONNX Runtime has, got {device}; use --device cpu")


@contextmanager
def reported(refusal: str) -> Iterator[None]:
    """Turn an exception of another package into a ModelError of one line.

    Args:
        refusal: start of the message. The first 200 characters of the exception follow, since runtimes write pages.

    Raises:
        ModelError: the block raised an exception.
    """
    try:
        yield
    except Exception as error:  # the packages' own exceptions share no base
        raise ModelError(f"{refusal}: {' '.join(str(error).split())[:200]}") from None
