"""What `cora prune` does: rank the units on images, cut, fine-tune if asked, measure, write."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import cora
from cora.apps.held_out import check_extras
from cora.apps.open_model import open_torch_detector
from cora.apps.prune_report import check_model_file, draw_pictures, measure, names_for, print_table, read_measured
from cora.compress.arch_sizes import Architecture, read_architecture
from cora.compress.prune import check_sizes, prune, unit_sets
from cora.compress.prune_importance import blocks_left, rank_units, recalibrate
from cora.console import output_console, progress_report, say
from cora.data.coco import CocoDataset
from cora.data.read import read_dataset
from cora.detector import Detector
from cora.errors import DataError, ModelError
from cora.files import write_json
from cora.towers import resnet_of
from cora.training.alignment import refit_alignment
from cora.training.defaults import default_recipe
from cora.training.pipeline import Hooks, TrainingPipeline
from cora.training.recipe import TrainRecipe


def prune_model(args: argparse.Namespace) -> int:
    """Remove what matters least; prints a table of before and after, writes the model; returns 0.

    Raises:
        CoraError: bad input, before anything is written.
    """
    check_model_file(args.output)
    dataset = _annotated(args)
    held_out = read_measured(args)
    pictures = draw_pictures(args.images, args.photos, args.seed)
    whole = open_torch_detector(args.model, args.device, needs="cora prune", trained=False)
    resnet_of(whole.image_tower, "cora prune")
    names = names_for(args, dataset.class_names if dataset is not None else None)
    vocabulary = whole.vocabulary_encoder.encode(names).to(whole.device)
    sizes = _sizes(args, Architecture.of(whole.config))
    now = unit_sets(whole.config, Architecture.of(whole.config))
    shrinking = [name for name, count in unit_sets(whole.config, sizes).items() if count < now[name]]
    stacks = [f"layer{stage}" for stage in range(1, 5) if args.tower_blocks]
    console = output_console()
    with progress_report() as report:
        importance = rank_units(
            whole, pictures, vocabulary, shrinking=[*shrinking, *stacks], seed=args.seed, report=report
        )
        if args.tower_blocks:
            sizes = replace(sizes, layers=blocks_left(importance, sizes.layers, args.tower_blocks))
        small = prune(whole, sizes, importance)
        if any(name.startswith(("layer", "stem")) for name in (*shrinking, *stacks)):
            recalibrate(small, pictures)
        if dataset is not None and args.epochs is not None:
            TrainingPipeline(
                recipe=_recipe(args, small),
                detector=small,
                dataset=dataset,
                run=args.run_dir,
                hooks=Hooks(report=report),
            ).all()
            small.eval()
        else:
            refit_alignment(small, pictures.__getitem__, len(pictures), vocabulary, report=report)
    small.save(args.output)
    columns = measure({"whole": whole, "pruned": small}, pictures, names, held_out)
    print_table(console, columns)
    if args.json is not None:
        content = {"command": ["cora", *sys.argv[1:]], "version": cora.__version__, "photos": len(pictures)}
        write_json(args.json, {**content, "models": {key: value.to_dict() for key, value in columns.items()}})
    say(console, f"Wrote {args.output}")
    return 0


def _annotated(args: argparse.Namespace) -> CocoDataset | None:
    """The images with boxes to fine-tune on, and for their class names."""
    if args.annotations is None:
        if args.epochs is not None:
            raise DataError("expected --annotations with --epochs, got none; without boxes use 'cora distill'")
        return None
    if args.epochs is not None:
        check_extras("fine-tuning in cora prune", measures=False)
    return read_dataset(images=args.images, annotations=args.annotations)


def _sizes(args: argparse.Namespace, present: Architecture) -> Architecture:
    """What is left, residual blocks apart: which of them go is measured first."""
    if args.architecture is not None and args.tower_blocks:
        raise ModelError("expected --architecture, which has the blocks, or --tower-blocks, got both; leave one out")
    sizes = read_architecture(args.architecture, present) if args.architecture is not None else present

    def left(count: int, gone: float | None) -> int:
        return max(1, round(count * (1 - (gone or 0))))

    sizes = replace(
        sizes,
        ff=left(sizes.ff, args.ffn),
        heads=left(sizes.heads, args.heads),
        anchors=left(sizes.anchors, args.anchors),
        width=2 * left(sizes.width // 2, args.tower_width),
        enc_layers=_fewer("encoder layers", sizes.enc_layers, args.encoder_layers),
        dec_layers=_fewer("decoder layers", sizes.dec_layers, args.decoder_layers),
    )
    check_sizes(present, sizes)
    if sizes == present and not args.tower_blocks:
        raise ModelError("expected something to remove, such as --ffn 0.5 or --anchors 0.5, got nothing")
    _fewer("residual blocks", sum(sizes.layers) - 3, args.tower_blocks)
    return sizes


def _fewer(what: str, count: int, gone: int | None) -> int:
    if (gone or 0) >= count:
        raise ModelError(f"{what}: expected at most {count - 1} to remove, got {gone}; the first ones must stay")
    return count - (gone or 0)


def _recipe(args: argparse.Namespace, detector: Detector) -> TrainRecipe:
    """The localizer alone, with the settings for images of this size; the prompt and the labels stay."""
    recipe = default_recipe(args.model, short_side=detector.preprocessor.config.usual_short_side)
    assert recipe.localizer is not None
    stage = replace(recipe.localizer, epochs=args.epochs, lr=args.lr)
    return replace(recipe, prompts=None, relabel=None, localizer=stage, seed=args.seed, evaluate_every=args.epochs)
