"""Models of the commands: a detector of this package, or one that was exported for another runtime."""

from __future__ import annotations

from pathlib import Path

import cora
from cora.compress.quantize_torch import is_int8_file, load_int8
from cora.detector import Detector, DetectorConfig, check_trained, read_config
from cora.errors import ModelError
from cora.export import load_exported
from cora.predictor import Predictor
from cora.predictor.device import pick_device
from cora.towers import known_towers

#: Endings of files that `cora export` writes and that `--model` takes.
EXPORTED = (".onnx", ".xml")


def open_detector(model: str, device: str = "auto", *, text_model: str | None = None) -> Predictor:
    """Load the model that `--model` names, on a device, ready to predict.

    What needs the network itself calls `open_torch_detector`.

    Args:
        model: name (see `cora models`), checkpoint, or an exported file: *.onnx, or OpenVINO's *.xml.
        device: name of a torch device, or "auto" for a GPU if there is one; "auto" keeps exported files on the CPU.
        text_model: name or checkpoint whose text tower embeds names for an exported file; the one in the file if None.

    Raises:
        ModelError: there is no such model, it cannot be read, or it cannot find boxes, as a tower alone.
        CoraError: there is no such device.
        MissingExtraError: an exported file's runtime is not installed.
    """
    if is_exported(model):
        runs_on = "cpu" if device == "auto" else device
        return load_exported(model, load_text_model=cora.load, text_model=text_model, device=runs_on)
    if text_model is not None:
        raise ModelError(f"--text-model {text_model}: expected an exported file as --model, got {model}; leave it out")
    check_detects(model)
    where = pick_device(device)
    return Predictor(load_int8(model).to(where)) if is_int8_file(model) else cora.load(model).to(where)


def check_detects(model: str) -> None:
    """Refuse a model that is a tower alone, before anything of it is loaded or downloaded.

    Raises:
        ModelError: it is the name of a tower, or a file whose localizer is untrained.
    """
    if model in known_towers():
        check_trained(DetectorConfig(untrained=True), model=f"model {model}")
    if Path(model).is_file() and not is_int8_file(model):
        check_trained(read_config(model)[0], model=f"model {model}")


def is_exported(model: str) -> bool:
    """Whether a name is that of an exported file."""
    return model.lower().endswith(EXPORTED)


def open_torch_detector(
    model: str, device: str = "auto", *, needs: str = "this command", trained: bool = True
) -> Detector:
    """The network of a model, for what needs its parts, which an exported file does not have.

    Args:
        model: name or checkpoint.
        device: name of a torch device, or "auto".
        needs: who asks, for the message.
        trained: whether it has to find boxes.

    Raises:
        ModelError: there is no such model, or it is an exported or an INT8 one.
    """
    if is_exported(model):
        raise ModelError(
            f"{needs}: expected a model by name or a checkpoint, got the exported {model}; name what it was made of"
        )
    if is_int8_file(model):
        raise ModelError(f"{needs}: expected a model of floats, got the INT8 copy {model}; name what it was made of")
    where = pick_device(device)
    if trained:
        check_detects(model)
    return cora.load(model).detector.to(where)
