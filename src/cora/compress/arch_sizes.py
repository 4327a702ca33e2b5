"""The sizes of a detector that pruning, distillation and search can reduce."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from cora.detector import DetectorConfig
from cora.errors import ModelError
from cora.files import found_instead

#: With a shorter side the tower's last map has a single cell, which has no variance to learn.
LEAST_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of a detector; its embedding width, token width and text tower are not among them.

    Attributes:
        width: channels of the image tower's stem, even; all other channels of the tower are multiples of it.
        layers: residual blocks of layer1..layer4.
        enc_layers: encoder layers of the localizer.
        dec_layers: decoder layers of the localizer.
        ff: hidden width of the localizer's feed-forward networks.
        heads: of every attention of the localizer; their width stays.
        anchors: anchors an image.
        short_side: of the images, in pixels; the bound of the long side keeps its ratio to it.
    """

    width: int
    layers: tuple[int, int, int, int]
    enc_layers: int
    dec_layers: int
    ff: int
    heads: int
    anchors: int
    short_side: int

    def __post_init__(self) -> None:
        if not isinstance(self.layers, list | tuple) or len(self.layers) != 4:
            raise ModelError(f"architecture layers: expected four numbers of blocks, got {self.layers!r}")
        object.__setattr__(self, "layers", tuple(self.layers))
        for name, value in self.numbers().items():
            if type(value) is not int or value < 1:
                raise ModelError(f"architecture {name}: expected a whole number of at least 1, got {value!r}")
        if self.width % 2:
            raise ModelError(f"architecture width: expected an even number, got {self.width}")
        if self.short_side < LEAST_SIDE:
            raise ModelError(f"architecture short_side: expected at least {LEAST_SIDE} pixels, got {self.short_side}")

    @classmethod
    def of(cls, config: DetectorConfig) -> Architecture:
        """The sizes of a configuration."""
        tower, localizer = config.tower, config.localizer
        return cls(
            width=tower.width,
            layers=tower.layers,
            enc_layers=localizer.enc_layers,
            dec_layers=localizer.dec_layers,
            ff=localizer.ff,
            heads=localizer.heads,
            anchors=localizer.num_queries,
            short_side=config.preprocess.short_side,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: Architecture, *, source: str) -> Architecture:
        """Sizes by name; those that are missing are the base's.

        Raises:
            ModelError: an unknown name, or an impossible value.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(values.keys() - known)
        if unknown:
            raise ModelError(f"{source}: expected some of {', '.join(sorted(known))}, got {', '.join(unknown)}")
        return replace(base, **values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {**asdict(self), "layers": list(self.layers)}

    def numbers(self) -> dict[str, int]:
        """Every size by name, the four of `layers` apart."""
        values = {name: value for name, value in asdict(self).items() if name != "layers"}
        return values | {f"layer{stage}": blocks for stage, blocks in enumerate(self.layers, start=1)}

    def configure(self, config: DetectorConfig) -> DetectorConfig:
        """The configuration with these sizes."""
        factor = self.short_side / config.preprocess.short_side
        # Unchanged sizes must give an unchanged configuration, whatever rounding would do.
        long_side = config.preprocess.long_side if factor == 1 else round(config.preprocess.long_side * factor)
        return replace(
            config,
            tower=replace(config.tower, width=self.width, layers=self.layers),
            localizer=replace(
                config.localizer,
                c3_channels=16 * self.width,
                enc_layers=self.enc_layers,
                dec_layers=self.dec_layers,
                ff=self.ff,
                heads=self.heads,
                head_dim=config.localizer.head_dim if self.heads == config.localizer.heads else head_width(config),
                num_queries=self.anchors,
            ),
            preprocess=replace(config.preprocess, short_side=self.short_side, long_side=long_side),
        )


def head_width(config: DetectorConfig) -> int:
    """Width of an attention head of the localizer."""
    return config.localizer.head_dim or config.localizer.dim // config.localizer.heads


def read_architecture(path: Path, base: Architecture) -> Architecture:
    """Sizes from a JSON file such as `cora search-arch` writes; those that are missing are the base's.

    Raises:
        ModelError: no such file, no JSON object, an unknown name or an impossible value.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        found = found_instead(path, error)
        raise ModelError(f"architecture {path}: expected a JSON file of sizes, got {found}; check the path") from None
    if not isinstance(values, dict):
        raise ModelError(f'architecture {path}: expected an object such as {{"width": 24}}, got {values!r}')
    return Architecture.from_dict(values, base, source=f"architecture {path}")
