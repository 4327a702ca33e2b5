"""`cora align`: fits the fast alignment, on most of the images, and measures it on the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive
from cora.apps.command import Command
from cora.apps.data_options import MeasuringOptions, images_in, numbers_option, photos_option, write_numbers
from cora.apps.model_options import resnet_option
from cora.apps.options import group, option
from cora.errors import ModelError

#: One image in this many is kept back, to see whether the alignment holds for images that it was not fitted to.
KEPT_BACK = 10


@dataclass(frozen=True, kw_only=True)
class AlignMeasuringOptions(MeasuringOptions):
    """The options of all commands for smaller models, with more images by default."""

    photos: int = photos_option(500)


@dataclass(frozen=True, kw_only=True)
class AlignOptions:
    """Options of `cora align`."""

    model: str = resnet_option()
    images: Path = option(required=True, metavar="DIR", help="images; they need no labels")
    output: Path = option(required=True, writes=kinds.MODEL, help="model file to write")
    exact_boxes: int | None = option(
        type=positive, help="boxes per image that the new model still pools exactly (default: as many as the model)"
    )
    measuring: AlignMeasuringOptions = group(AlignMeasuringOptions)
    json: Path | None = numbers_option(kinds.ALIGNED)


def run(options: AlignOptions) -> int:
    """Fit the fast alignment of a model; prints cosines, and AP50 where there are boxes; returns 0.

    Raises:
        CoraError: bad input, before anything is written.
    """
    from cora.apps.open_model import open_torch_detector
    from cora.compress.align import align
    from cora.console import counted, output_console, say
    from cora.detector.checkpoint import check_model_file
    from cora.towers import TimmTower

    check_model_file(options.output)
    measuring = options.measuring
    held_out = measuring.read_held_out()
    paths = measuring.draw_paths(images_in(options.images))
    count = max(1, len(paths) - len(paths) // KEPT_BACK)
    detector = open_torch_detector(options.model, measuring.device, needs="cora align")
    if isinstance(detector.image_tower, TimmTower):
        raise ModelError(
            f"{options.model}: expected a model that pools boxes in two ways, exact and fast, got one whose tower "
            "pools all in one way; there is nothing to align, use the model as it is"
        )
    if not (options.exact_boxes or detector.config.postprocess.exact_boxes):
        raise ModelError(f"{options.model}: expected --exact-boxes N, as this model pools all boxes exactly, got none")
    names = measuring.names(held_out.dataset if held_out is not None else None)
    vocabulary = detector.vocabulary_encoder.encode(names).to(detector.device)
    found = align(
        detector, paths[:count], paths[count:], vocabulary, held_out=held_out, exact_boxes=options.exact_boxes
    )
    found.detector.save(options.output)
    console = output_console()
    say(console, f"Fitted to {counted(count, 'image')}")
    if paths[count:]:
        before, after = (f"{cosine:.3f} {when}" for when, cosine in found.cosine.items())
        say(console, f"Cosine of fast to exact embeddings on {len(paths) - count} other images: {before}, {after}")
    if found.scores:
        console.print(found.table())
    scores = {way: {group: score.as_dict() for group, score in one.items()} for way, one in found.scores.items()}
    write_numbers(options.json, {"photos": count, "cosine": found.cosine, "scores": scores})
    say(console, f"Wrote {options.output}")
    return 0


COMMAND = Command(
    name="align",
    options=AlignOptions,
    run=run,
    help="bring fast scores near to exact ones, on images without labels",
    description="Learn how embeddings of fast pooling differ from exact ones, so that fewer boxes need exact "
    "pooling. Takes minutes and images without labels; nothing else of the model changes.",
)
