"""Loads models by name or path: embedded models, CLIP towers with the published settings, model files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from cora.detector.checkpoint import read_checkpoint
from cora.detector.config import DetectorConfig
from cora.detector.cora import Detector
from cora.detector.skip_init import SkipInit
from cora.detector.variants import detector_class
from cora.errors import ModelError
from cora.images import PreprocessConfig
from cora.localizer import LocalizerConfig
from cora.pyramid import STRIDE
from cora.towers import TowerConfig, known_towers, load_towers, tower_config
from cora.towers.weights import DEFAULT_WEIGHTS, load_checked

DEFAULT = "nano"
#: Name of an embedded model, stored as NAME.safetensors in the package -> a sentence about it for users.
EMBEDDED = {
    DEFAULT: "The default, taught by everything at hand.",
    "nano-ovcoco": "Strict: of all boxes it saw those of OV-COCO's 48 base classes only.",
}


def known_models() -> list[str]:
    """Names that `load` accepts."""
    return [*EMBEDDED, *known_towers()]


def load(name_or_path: str | Path = DEFAULT) -> Detector:
    """Load a detector in evaluation mode; `cora.load` returns the same inside a predictor.

    Args:
        name_or_path: "nano" or "nano-ovcoco" (embedded, no download), a file that `Detector.save` wrote, or the name of
            a CLIP tower such as "RN50-quickgelu", which gives the published settings, CLIP's weights and an untrained
            localizer.

    Raises:
        ModelError: unknown name (the message lists the known ones), weights that cannot be found, or a file that is not
            a model file.
    """
    name = str(name_or_path)
    if name in EMBEDDED:
        with embedded_file(name) as file:
            return load_checkpoint(file)
    if name in known_towers():
        return new_detector(name).eval()
    path = Path(name_or_path)
    if path.is_file():
        return load_checkpoint(path)
    if path.is_dir():
        inside = [f", {file} perhaps" for file in sorted(path.glob("*.safetensors"))]
        raise ModelError(f"model {name}: expected a file, got a folder; name a file in it{(inside or [''])[0]}")
    if isinstance(name_or_path, Path) or path.suffix or len(path.parts) > 1:
        raise ModelError(f"model {name}: expected an existing file, got none; known names: {', '.join(known_models())}")
    raise ModelError(f"unknown model {name!r}: expected one of {', '.join(known_models())}, or the path of a file")


def load_checkpoint(path: str | Path) -> Detector:
    """Rebuild a detector from a model file, in evaluation mode.

    Raises:
        ModelError: not a model file, or its tensors do not fit its configuration.
    """
    config, weights = read_checkpoint(path)
    with SkipInit():
        detector = detector_class(config.variant).build(config, precision="auto")
    load_checked(detector, weights, source=f"checkpoint {path}", assign=True)
    return detector.eval()


def preset_config(name: str) -> DetectorConfig:
    """Published settings of a CLIP tower: 1000 anchors, 3 encoder and 6 decoder layers.

    Raises:
        ModelError: no tower has that name; the message lists the known ones.
    """
    return config_for_tower(tower_config(name))


def config_for_tower(tower: TowerConfig, localizer: LocalizerConfig | None = None) -> DetectorConfig:
    """A configuration with this tower, and with a localizer whose sizes fit it; None for the published localizer."""
    base = localizer or LocalizerConfig()
    # A ConvNeXt downsamples without padding: it would ignore pixels beyond a multiple of the stride.
    whole = tower.family == "convnext"
    return DetectorConfig(
        tower=tower,
        localizer=replace(base, embed_dim=tower.embed_dim, c3_channels=tower.c3_channels),
        preprocess=PreprocessConfig(multiple=STRIDE, whole=True) if whole else PreprocessConfig(),
    )


def new_detector(name: str, pretrained: str | Path | None = DEFAULT_WEIGHTS) -> Detector:
    """Build a detector to train: a CLIP tower with its weights, a zero region prompt, a localizer with random weights.

    Args:
        name: name of the tower, for example "RN50-quickgelu".
        pretrained: tag of open_clip, weight file, None for random weights, or "default"; see `load_towers`.

    Raises:
        ModelError: unknown name or tag, weights that cannot be found.
    """
    config = preset_config(name)
    image_tower, text_tower, logit_scale = load_towers(name, pretrained)
    config = replace(config, tower=replace(config.tower, logit_scale=logit_scale), untrained=True)
    return Detector.build(config, towers=(image_tower, text_tower))


def has_embedded(name: str) -> bool:
    """Whether the package was built with an embedded model's file."""
    return (_assets() / f"{name}.safetensors").is_file()


@contextmanager
def embedded_file(name: str) -> Iterator[Path]:
    """Path of an embedded model's file, valid inside the context: a zipped package unpacks it to a temporary file.

    Raises:
        ModelError: the package was built without the file.
    """
    entry = _assets() / f"{name}.safetensors"
    if not has_embedded(name):
        raise ModelError(
            f"model {name!r}: expected the file {entry.name} in the package, got none; "
            "install a release, or name another model or the path of a file"
        )
    with resources.as_file(entry) as file:
        yield file


def _assets() -> Traversable:
    return resources.files("cora") / "assets"
