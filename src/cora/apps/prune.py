"""`cora prune`: a smaller model, without what matters least."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from cora.apps import kinds
from cora.apps.argument_types import above_zero, positive, share, whole
from cora.apps.command import Command
from cora.apps.data_options import MeasuringOptions, images_in, numbers_option, tell_models
from cora.apps.model_options import resnet_option
from cora.apps.options import group, option
from cora.errors import DataError

if TYPE_CHECKING:
    from cora.data.coco import CocoDataset

_REMOVED = ("what is removed", "the least important units; nothing by default")
_TUNED = ("fine-tuning", "trains the pruned localizer on the boxes of --annotations")


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """Options of `cora prune`."""

    model: str = resnet_option()
    images: Path = option(required=True, metavar="DIR", help="images that importance is measured on")
    output: Path = option(required=True, writes=kinds.MODEL, help="model file to write")
    ffn: float | None = option(
        section=_REMOVED, type=share, metavar="SHARE", help="of the localizer's feed-forward channels"
    )
    heads: float | None = option(
        section=_REMOVED, type=share, metavar="SHARE", help="of the localizer's attention heads"
    )
    anchors: float | None = option(section=_REMOVED, type=share, metavar="SHARE", help="of the anchors")
    encoder_layers: int | None = option(section=_REMOVED, type=whole, help="encoder layers")
    decoder_layers: int | None = option(section=_REMOVED, type=whole, help="decoder layers")
    tower_blocks: int | None = option(section=_REMOVED, type=whole, help="residual blocks of the image tower")
    tower_width: float | None = option(
        section=_REMOVED, type=share, metavar="SHARE", help="of the image tower's channels, and heads of its pool"
    )
    architecture: Path | None = option(
        section=_REMOVED, help="JSON of the sizes that are left, such as 'cora search-arch' writes"
    )
    measuring: MeasuringOptions = group(MeasuringOptions)
    json: Path | None = numbers_option(kinds.COMPARED)
    annotations: Path | None = option(section=_TUNED, help="boxes of the images: COCO, LVIS, VOC or YOLO")
    epochs: int | None = option(section=_TUNED, type=positive, help="epochs (default: no fine-tuning)")
    lr: float = option(
        section=_TUNED, type=above_zero, default=2e-4, metavar="RATE", help="learning rate (default: %(default)s)"
    )
    run_dir: Path = option(
        "--run",
        section=_TUNED,
        writes=kinds.PRUNE_RUN,
        default=Path("cora-prune"),
        metavar="DIR",
        help="folder of the fine-tuning, which goes on after a stop (default: %(default)s)",
    )


def run(options: PruneOptions) -> int:
    """Remove what matters least; prints a table of before and after, writes the model; returns 0.

    Raises:
        CoraError: bad input, before anything is written.
    """
    from cora.apps.open_model import open_torch_detector
    from cora.compress.arch_sizes import Architecture, read_architecture
    from cora.compress.shrink import Removal, finetune_localizer, shrink
    from cora.console import progress_report
    from cora.detector.checkpoint import check_model_file
    from cora.towers import resnet_of
    from cora.training.alignment import refit_alignment

    check_model_file(options.output)
    dataset = _annotated(options)
    measuring = options.measuring
    held_out = measuring.read_held_out()
    images = measuring.draw(images_in(options.images))
    whole = open_torch_detector(options.model, measuring.device, needs="cora prune", trained=False)
    resnet_of(whole.image_tower, "cora prune")
    names = measuring.names(dataset)
    vocabulary = whole.vocabulary_encoder.encode(names).to(whole.device)
    present = Architecture.of(whole.config)
    base = None if options.architecture is None else read_architecture(options.architecture, present)
    removal = Removal(**{field.name: getattr(options, field.name) for field in fields(Removal)})
    sizes = removal.sizes(present, base)
    with progress_report() as report:
        small = shrink(
            whole, sizes, images, vocabulary, blocks=options.tower_blocks or 0, seed=measuring.seed, report=report
        )
        if dataset is not None and options.epochs is not None:
            finetune_localizer(
                small,
                dataset,
                options.run_dir,
                model=options.model,
                epochs=options.epochs,
                lr=options.lr,
                seed=measuring.seed,
                report=report,
            )
        else:
            refit_alignment(small, images.__getitem__, len(images), vocabulary, report=report)
    small.save(options.output)
    models = {"whole": whole, "pruned": small}
    tell_models(models, images, names, held_out, output=options.output, json=options.json, photos=len(images))
    return 0


def _annotated(options: PruneOptions) -> CocoDataset | None:
    """The annotated images, for their class names and to fine-tune on; None without --annotations."""
    from cora.data.read import read_dataset
    from cora.evaluation.held_out import check_extras

    if options.annotations is None:
        if options.epochs is not None:
            raise DataError("expected --annotations with --epochs, got none; without boxes use 'cora distill'")
        return None
    if options.epochs is not None:
        check_extras("fine-tuning in cora prune", measures=False)
    return read_dataset(images=options.images, annotations=options.annotations)


COMMAND = Command(
    name="prune",
    options=PruneOptions,
    run=run,
    help="a smaller model: remove what matters least",
    description="A smaller model: removes channels, heads, layers and anchors that matter least on given images.",
    epilog="The result is an ordinary model file. Without boxes to fine-tune on, 'cora distill' mends it.",
)
