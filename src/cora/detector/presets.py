"""Models by name: the embedded default, CLIP towers with the published settings, or a file."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib import resources
from pathlib import Path

from cora.detector.checkpoint import read_checkpoint
from cora.detector.config import DetectorConfig
from cora.detector.cora import Detector
from cora.errors import ModelError
from cora.localizer import LocalizerConfig
from cora.towers import TowerConfig, known_towers, load_towers, tower_config
from cora.towers.weights import load_checked

_LOG = logging.getLogger(__name__)

EMBEDDED = "nano"
_ASSET = "nano.safetensors"


def known_models() -> list[str]:
    """Names that `load` takes."""
    return [EMBEDDED, *known_towers()]


def load(name_or_path: str | Path = EMBEDDED) -> Detector:
    """Load a detector in evaluation mode.

    Args:
        name_or_path: "nano" (embedded, no download), a file that `Detector.save` wrote, or the name of a CLIP
            tower such as "RN50-quickgelu": published settings, OpenAI's weights, a localizer still to train.

    Raises:
        ModelError: unknown name (the known are listed), weights that cannot be had, a file that does not fit.
    """
    name = str(name_or_path)
    if name == EMBEDDED:
        return _load_embedded()
    if name in known_towers():
        _LOG.warning("%s: the localizer is untrained; train it or load a checkpoint before detecting", name)
        return new_detector(name).eval()
    path = Path(name_or_path)
    if path.is_file():
        return load_checkpoint(path)
    if isinstance(name_or_path, Path) or path.suffix or len(path.parts) > 1:
        raise ModelError(f"model {name}: expected an existing file, got none; known names: {', '.join(known_models())}")
    raise ModelError(f"unknown model {name!r}: expected one of {', '.join(known_models())}, or the path of a file")


def load_checkpoint(path: str | Path) -> Detector:
    """Rebuild a detector from its checkpoint, in evaluation mode.

    Raises:
        ModelError: not a checkpoint, or its tensors do not fit its configuration.
    """
    config, weights = read_checkpoint(path)
    detector = Detector.build(config)
    load_checked(detector, weights, source=f"checkpoint {path}")
    detector.precision = "auto"
    return detector.eval()


def preset_config(name: str) -> DetectorConfig:
    """Published settings of a CLIP tower: 1000 anchors, 3 + 6 layers; see METHOD section 4.

    Raises:
        ModelError: no tower has that name; the message lists the known.
    """
    return config_for_tower(tower_config(name))


def config_for_tower(tower: TowerConfig, localizer: LocalizerConfig | None = None) -> DetectorConfig:
    """A configuration whose localizer has the widths of the tower."""
    base = localizer or LocalizerConfig()
    return DetectorConfig(tower=tower, localizer=replace(base, embed_dim=tower.embed_dim, c3_channels=tower.width * 16))


def new_detector(name: str, pretrained: str | Path | None = "openai") -> Detector:
    """A detector to train: a named CLIP tower with its weights, no prompt, a fresh localizer.

    Args:
        name: of the tower, for example "RN50-quickgelu".
        pretrained: tag of open_clip, weight file, or None for random weights.

    Raises:
        ModelError: unknown name or tag, weights that cannot be had.
    """
    config = preset_config(name)
    image_tower, text_tower, logit_scale = load_towers(name, pretrained)
    config = replace(config, tower=replace(config.tower, logit_scale=logit_scale))
    return Detector.build(config, towers=(image_tower, text_tower))


def _load_embedded() -> Detector:
    asset = resources.files("cora") / "assets" / _ASSET
    if not asset.is_file():
        raise ModelError(
            f"model {EMBEDDED!r}: expected the file {_ASSET} in the package, got none; "
            "install a release, or name another model or the path of a file"
        )
    with resources.as_file(asset) as file:
        return load_checkpoint(file)
