"""The configuration in a model file: all that is needed to rebuild a detector before its weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from cora.detector.postprocess import BUILTIN_THRESHOLD, SCORE_THRESHOLD, PostprocessConfig
from cora.errors import ModelError
from cora.images import PreprocessConfig
from cora.localizer import LocalizerConfig
from cora.pyramid import STRIDE
from cora.regions import LearnedTextConfig
from cora.towers import LARGEST_POOL_SIZE, TowerConfig

_Config = TypeVar("_Config")

#: Names of detectors that differ from CORA in one step (`cora.detector.variants`); "" is CORA itself.
VARIANT_NAMES = ("", "crops", "region-proposals", "conditional", "end-to-end", "top-2")


@dataclass(frozen=True)
class DetectorConfig:
    """Sizes and settings of a detector.

    Attributes:
        tower: sizes of both towers, logit scale and template set.
        localizer: sizes of the localizer; its `embed_dim` and `c3_channels` are the towers'.
        preprocess: how images become batches.
        postprocess: how scores become detections.
        text: sizes of the learned text; None for none.
        fast_alignment: whether the detector has a fast alignment (`cora align`).
        untrained: whether the localizer has random weights, so that its boxes are meaningless; see `check_trained`.
        class_names: class names that the model was fine-tuned on, see `own_names`; () for none.
        variant: one of `VARIANT_NAMES`.

    Raises:
        ValueError: an unknown variant, or parts whose sizes do not fit each other.
    """

    tower: TowerConfig = field(default_factory=TowerConfig)
    localizer: LocalizerConfig = field(default_factory=LocalizerConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    text: LearnedTextConfig | None = None
    fast_alignment: bool = False
    untrained: bool = False
    class_names: tuple[str, ...] = ()
    variant: str = ""

    def __post_init__(self) -> None:
        if self.variant not in VARIANT_NAMES:
            raise ValueError(f"variant: expected one of {', '.join(VARIANT_NAMES[1:])} or none, got {self.variant!r}")
        if self.localizer.embed_dim != self.tower.embed_dim:
            raise ValueError(
                f"localizer.embed_dim: expected the tower's {self.tower.embed_dim}, got {self.localizer.embed_dim}"
            )
        if self.tower.backbone and (self.preprocess.multiple % STRIDE or not self.preprocess.whole):
            raise ValueError(
                f"preprocess: expected whole cells, of a multiple of {STRIDE} pixels, for the backbone "
                f"{self.tower.backbone}, got {self.preprocess.multiple}"
            )
        if self.text is not None:
            width = self.tower.text_width if self.text.kind == "context" else self.tower.embed_dim
            if self.text.width != width:
                raise ValueError(f"text.width: expected the tower's {width}, got {self.text.width}")

    @property
    def own_names(self) -> tuple[str, ...]:
        """Class names that the detector was fine-tuned on, the default of a call without class names; () for none.

        Files older than the field `class_names` have them in the learned text.
        """
        # Offsets with rank 0 come from fine-tuning; those of `cora text-prompts` have a low-rank map.
        tuned = self.text.names if self.text is not None and self.text.kind == "offsets" and not self.text.rank else ()
        return self.class_names or tuned

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts of plain values, for JSON."""
        values = asdict(self)
        # Older versions refuse unknown fields, so fields that were added later are left out if they have their default.
        for name in ("text", "fast_alignment", "untrained", "class_names", "variant"):
            if not values[name]:
                del values[name]
        if not values["localizer"]["refinement"]:
            del values["localizer"]["refinement"]
        if self.tower.family == "resnet":
            for name in ("family", "projection", "norm_eps"):
                del values["tower"][name]
        post = values["postprocess"]
        for name, default in (("score_threshold", SCORE_THRESHOLD), ("builtin_threshold", BUILTIN_THRESHOLD)):
            if post[name] == default:
                del post[name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectorConfig:
        """The reverse of `to_dict`; missing settings keep their defaults.

        Raises:
            ModelError: an unknown setting or an impossible value.
        """
        _check_fields(cls, values)
        parts = {"tower": TowerConfig, "localizer": LocalizerConfig, "preprocess": PreprocessConfig}
        try:
            return cls(
                **{name: _build(part, values.get(name, {})) for name, part in parts.items()},
                postprocess=_build(PostprocessConfig, values.get("postprocess", {})),
                text=_build(LearnedTextConfig, values["text"]) if values.get("text") else None,
                fast_alignment=bool(values.get("fast_alignment", False)),
                untrained=bool(values.get("untrained", False)),
                class_names=_read_class_names(values.get("class_names", ())),
                variant=values.get("variant", ""),
            )
        except (TypeError, ValueError) as error:
            raise ModelError(f"configuration of the detector: {error}") from error


def check_trained(config: DetectorConfig, *, model: str = "this detector") -> None:
    """Refuse to detect with a localizer of random weights.

    Args:
        config: configuration of the detector.
        model: name or path of the model, for the message.

    Raises:
        ModelError: the localizer is untrained.
    """
    if config.untrained:
        raise ModelError(
            f"{model}: expected a trained localizer to find boxes with, got random weights (a tower only); train it "
            "(cora train all, or cora train localizer), or measure how it names true boxes (cora region-accuracy)"
        )


def check_no_variant(config: DetectorConfig, purpose: str) -> None:
    """Refuse a variant where the caller relies on CORA's own steps.

    Args:
        config: configuration of the detector.
        purpose: what the caller does; the message begins with it.

    Raises:
        ModelError: the detector is a variant.
    """
    if config.variant:
        raise ModelError(
            f"{purpose}: expected CORA itself, got its variant {config.variant!r}, which detects and is measured only; "
            "train it with 'cora train', without --variant"
        )


def check_pool_size(config: DetectorConfig, pool_size: int) -> None:
    """Check a new S, the side of the grid that a region is pooled to.

    Args:
        config: configuration of the detector that will change.
        pool_size: the new S.

    Raises:
        ModelError: S is out of range, or the detector is a variant.
    """
    if not 1 <= pool_size <= LARGEST_POOL_SIZE:
        raise ModelError(
            f"pool_size: expected 1 to {LARGEST_POOL_SIZE} cells a side, got {pool_size}; "
            f"the model has {config.tower.pool_size}"
        )
    check_no_variant(config, f"pool_size {pool_size}")


def _build(part: type[_Config], values: Mapping[str, Any]) -> _Config:
    """A part of the configuration from the values of JSON, where tuples are lists."""
    _check_fields(part, values)
    return part(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _read_class_names(values: object) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"class_names: expected a list of names, got {values!r}")
    return tuple(values)


def _check_fields(part: type, values: Mapping[str, Any]) -> None:
    """Raise ModelError if `values` has keys that are not fields of the dataclass `part`."""
    known = {entry.name for entry in fields(part)}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ModelError(
            f"configuration of the detector: {part.__name__} expected {', '.join(sorted(known))}, "
            f"got {', '.join(unknown)}; was the file made by a newer version?"
        )
