"""Configuration of a study: frozen tower and its weights, trainable part, loss, training."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cora.errors import DataError
from cora.files import found_instead, json_kind

_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
#: A CLIP ResNet, since its attention pool has values to make maps of; OpenAI's weights.
DEFAULT_TOWER = "RN50-quickgelu"


@dataclass(frozen=True, kw_only=True)
class TowerPart:
    """The frozen part.

    Attributes:
        name: of a ViT of open_clip ("ViT-B-32", as RemoteCLIP; "ViT-B-32-quickgelu", as OpenAI), or anything that
            `cora.load` takes ("RN50-quickgelu", the file of a detector), whose own tower must be a CLIP ResNet.
        checkpoint: file of a ViT's weights in open_clip's format, such as RemoteCLIP-ViT-B-32.pt; None for OpenAI's,
            which are downloaded. Nothing but tensors is unpickled.
        image_size: (height, width) in pixels that images are resized to, whatever their shape: multiples of the
            tower's patches (32 for ResNets). IoU does not change when both boxes are stretched alike.
        layers: last layers whose activation maps are averaged.
        sharpened: ResNets only, see `cora.towers.surgery.ResNetSurgery`.
    """

    name: str = DEFAULT_TOWER
    checkpoint: str | None = None
    image_size: tuple[int, int] = (256, 256)
    layers: int = 2
    sharpened: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", _pair("tower.image_size", self.image_size))
        _check("tower.layers", self.layers >= 1, "1 or more", self.layers)


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    """The trainable part.

    Attributes:
        cam_resolution: (height, width) of the maps that the head works on; a box is predicted in every cell.
        image_channels: of the image encoder.
        hidden: channels of the head; a multiple of 8.
    """

    cam_resolution: tuple[int, int] = (32, 32)
    image_channels: int = 128
    hidden: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "cam_resolution", _pair("model.cam_resolution", self.cam_resolution))
        for name in ("image_channels", "hidden"):
            value = getattr(self, name)
            _check(f"model.{name}", value >= 8 and value % 8 == 0, "a multiple of 8", value)


@dataclass(frozen=True, kw_only=True)
class LossPart:
    """What is learned from a ground-truth box.

    Attributes:
        radius: cells around the best one (in rows and columns) that learn, too, once the best is good enough.
        threshold: IoU of the best cell that is good enough.
        l1: weight of the absolute differences of centre and size.
        giou: weight of 1 - GIoU.
    """

    radius: int = 1
    threshold: float = 0.3
    l1: float = 5.0
    giou: float = 2.0

    def __post_init__(self) -> None:
        _check("loss.radius", self.radius >= 0, "0 or more", self.radius)
        _check("loss.threshold", 0 <= self.threshold <= 1, "a number in 0..1", self.threshold)
        _check("loss.l1 and loss.giou", min(self.l1, self.giou) >= 0 < self.l1 + self.giou, "weights of 0 or more", (
            self.l1, self.giou))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainPart:
    """Training: AdamW with a cosine schedule.

    Attributes:
        epochs: passes over the images.
        batch: images per step.
        lr: learning rate of AdamW.
        weight_decay: of AdamW.
        warmup_steps: steps over which the learning rate rises linearly.
        grad_clip: bound on the norm of the gradient.
        versions: flipped and cropped versions of every image, of which the frozen part's maps are kept on disk; an
            epoch sees one of them.
        max_gigabytes: bound on these files.
        workers: processes that read.
        seed: of everything drawn at random.
    """

    epochs: int = 10
    batch: int = 16
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 20
    grad_clip: float = 1.0
    versions: int = 2
    max_gigabytes: float = 20.0
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "versions"):
            _check(f"train.{name}", getattr(self, name) >= 1, "1 or more", getattr(self, name))
        for name in ("lr", "grad_clip", "max_gigabytes"):
            _check(f"train.{name}", getattr(self, name) > 0, "a number above 0", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The four parts of a study."""

    tower: TowerPart = field(default_factory=TowerPart)
    model: ModelPart = field(default_factory=ModelPart)
    loss: LossPart = field(default_factory=LossPart)
    train: TrainPart = field(default_factory=TrainPart)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Nested plain values, ready for JSON."""
        values: dict[str, dict[str, Any]] = json.loads(json.dumps(asdict(self)))
        return values

    def changed(self, *, tower: Mapping[str, Any], train: Mapping[str, Any]) -> StudyConfig:
        """A copy with other settings of the tower and of training; a value of None changes nothing."""
        return replace(
            self,
            tower=replace(self.tower, **{name: value for name, value in tower.items() if value is not None}),
            train=replace(self.train, **{name: value for name, value in train.items() if value is not None}),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StudyConfig:
        """The reverse of `to_dict`; what the values lack keeps its default.

        Raises:
            DataError: an unknown part or setting, or an impossible value.
        """
        parts: dict[str, type] = {"tower": TowerPart, "model": ModelPart, "loss": LossPart, "train": TrainPart}
        _check_names("study", values, set(parts))
        built: dict[str, Any] = {}
        for name, part in parts.items():
            given = values.get(name, {})
            if not isinstance(given, Mapping):
                raise DataError(f"{name}: expected an object of settings, got {json_kind(given)}")
            _check_names(name, given, {entry.name for entry in fields(part)})
            _check_types(name, given, part())
            built[name] = part(**given)
        return cls(**built)


def read_config(path: Path) -> StudyConfig:
    """A study from a JSON file such as ``{"tower": {"name": "ViT-B-32", "checkpoint": "RemoteCLIP-ViT-B-32.pt"}}``.

    A file *.yaml or *.yml is read as YAML.

    Raises:
        DataError: no such file, neither JSON nor YAML, an unknown setting or an impossible value.
    """
    kind = "YAML" if path.suffix.lower() in (".yaml", ".yml") else "JSON"
    try:
        text = path.read_text(encoding="utf-8")
        content = _from_yaml(text) if kind == "YAML" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: expected a {kind} file with the settings of a study, could not read it: "
            f"{' '.join(found_instead(path, error).split())}"
        ) from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with tower, model, loss, train, got {json_kind(content)}")
    return StudyConfig.from_dict(content)


def _from_yaml(text: str) -> Any:
    import yaml  # type: ignore[import-untyped]  # here, since only these files need it

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # untyped
        """Reads 1e-3 as a number, which YAML 1.1 takes for text."""

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _pair(name: str, value: Any) -> tuple[int, int]:
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(isinstance(v, int) and v >= 1 for v in value):
        raise DataError(f"{name}: expected (height, width), two whole numbers of 1 or more, got {value}")
    return (value[0], value[1])


def _check(name: str, fine: bool, expected: str, got: Any) -> None:
    if not fine:
        raise DataError(f"{name}: expected {expected}, got {got}")


def _check_types(part: str, given: Mapping[str, Any], default: object) -> None:
    """Refuse a setting of another type than its default's; whole numbers pass for others."""
    for name, value in given.items():
        wanted = type(getattr(default, name))
        if name == "checkpoint":
            fine = value is None or isinstance(value, str)
        elif wanted is tuple:
            fine = True  # checked by the part
        else:
            fine = type(value) is wanted or (wanted is float and type(value) is int)
        _check(f"{part}.{name}", fine, f"a value like {getattr(default, name)!r}", repr(value))


def _check_names(name: str, values: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(values.keys() - known)
    if unknown:
        raise DataError(f"{name}: expected settings of {', '.join(sorted(known))}, got {', '.join(map(str, unknown))}")
