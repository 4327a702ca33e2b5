"""A smaller model in one call: ranks the units on images, removes the least important, recalibrates the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from cora.compress.arch_sizes import Architecture
from cora.compress.prune import check_sizes, prune, unit_sets
from cora.compress.prune_importance import Report, blocks_left, rank_units, recalibrate
from cora.data.coco import CocoDataset
from cora.detector import Detector
from cora.errors import ModelError
from cora.regions import Vocabulary
from cora.training.defaults import default_recipe
from cora.training.pipeline import Hooks, TrainingPipeline


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What pruning removes; None removes nothing of that kind.

    Attributes:
        ffn: share of the localizer's feed-forward channels.
        heads: share of the localizer's attention heads.
        anchors: share of the anchors.
        encoder_layers: encoder layers.
        decoder_layers: decoder layers.
        tower_blocks: residual blocks of the image tower.
        tower_width: share of the image tower's channels, and of the heads of its pool.
    """

    ffn: float | None = None
    heads: float | None = None
    anchors: float | None = None
    encoder_layers: int | None = None
    decoder_layers: int | None = None
    tower_blocks: int | None = None
    tower_width: float | None = None

    def sizes(self, present: Architecture, base: Architecture | None = None) -> Architecture:
        """The sizes that are left, before residual blocks are removed: which of them go is measured first.

        Args:
            present: sizes of the model.
            base: sizes to remove from, which include the blocks; those of the model if None.

        Raises:
            ModelError: nothing is removed, or more than there is, or both `base` and `tower_blocks` are given.
        """
        if base is not None and self.tower_blocks:
            raise ModelError(
                "expected --architecture, which has the blocks, or --tower-blocks, got both; leave one out"
            )
        sizes = base or present
        sizes = replace(
            sizes,
            ff=_left(sizes.ff, self.ffn),
            heads=_left(sizes.heads, self.heads),
            anchors=_left(sizes.anchors, self.anchors),
            width=2 * _left(sizes.width // 2, self.tower_width),
            enc_layers=_fewer("encoder layers", sizes.enc_layers, self.encoder_layers),
            dec_layers=_fewer("decoder layers", sizes.dec_layers, self.decoder_layers),
        )
        check_sizes(present, sizes)
        if sizes == present and not self.tower_blocks:
            raise ModelError("expected something to remove, such as --ffn 0.5 or --anchors 0.5, got nothing")
        _fewer("residual blocks", sum(sizes.layers) - 3, self.tower_blocks)
        return sizes


def shrink(
    whole: Detector,
    sizes: Architecture,
    images: Sequence[Image.Image],
    vocabulary: Vocabulary,
    *,
    blocks: int = 0,
    seed: int = 0,
    report: Report | None = None,
) -> Detector:
    """The detector without its least important units, with new statistics for a tower that was cut.

    Args:
        whole: stays as it is.
        sizes: from `Removal.sizes`.
        images: that importance is measured on.
        vocabulary: of the detector, on its device.
        blocks: residual blocks of the image tower that go besides.
        seed: of the random signs of the ranking.
        report: called with (name of the step, images or units done, their number).

    Raises:
        ModelError: there are fewer blocks to remove.
    """
    present = unit_sets(whole.config, Architecture.of(whole.config))
    shrinking = [name for name, count in unit_sets(whole.config, sizes).items() if count < present[name]]
    shrinking += [f"layer{stage}" for stage in range(1, 5) if blocks]
    importance = rank_units(whole, images, vocabulary, shrinking=shrinking, seed=seed, report=report)
    if blocks:
        sizes = replace(sizes, layers=blocks_left(importance, sizes.layers, blocks))
    small = prune(whole, sizes, importance)
    if any(name.startswith(("layer", "stem")) for name in shrinking):
        recalibrate(small, images)
    return small


def finetune_localizer(
    detector: Detector,
    dataset: CocoDataset,
    run_dir: Path,
    *,
    model: str,
    epochs: int,
    lr: float,
    seed: int,
    report: Report,
) -> None:
    """Train the localizer alone, in place, with the default recipe for the model; the boxes keep their classes.

    Args:
        detector: that was cut.
        dataset: images with boxes.
        run_dir: folder of the run, which resumes.
        model: name of the model that was cut, for the recipe.
        epochs: over the images.
        lr: learning rate.
        seed: of everything drawn at random.
        report: called with (name of the step, images done, number of images).
    """
    recipe = default_recipe(model, short_side=detector.preprocessor.config.usual_short_side)
    assert recipe.localizer is not None
    stage = replace(recipe.localizer, epochs=epochs, lr=lr)
    recipe = replace(recipe, prompts=None, relabel=None, localizer=stage, seed=seed, evaluate_every=epochs)
    TrainingPipeline(recipe=recipe, detector=detector, dataset=dataset, run=run_dir, hooks=Hooks(report=report)).all()
    detector.eval()


def _left(count: int, gone: float | None) -> int:
    return max(1, round(count * (1 - (gone or 0))))


def _fewer(what: str, count: int, gone: int | None) -> int:
    if (gone or 0) >= count:
        raise ModelError(f"{what}: expected at most {count - 1} to remove, got {gone}; the first ones must stay")
    return count - (gone or 0)
