"""The command line. Parsing only: the imports that take seconds wait until a command needs them."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from cora.apps import (
    align,
    batch,
    calibrate,
    cam,
    convert,
    detect,
    distill,
    evaluate,
    export,
    finetune,
    groups,
    index,
    kinds,
    models,
    prune,
    pseudo_label,
    quantize,
    search,
    search_arch,
    serve,
    shards,
    split,
    study,
    text,
    train,
    video,
)
from cora.apps.command import run_command, set_command
from cora.apps.parser import Parser
from cora.errors import CoraError

_INTERRUPTED = 130  # the shell's convention for a program ended by Ctrl-C


class _Version(argparse.Action):
    """Print the version, which takes a while to find, and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from cora import __version__

        sys.stdout.write(f"cora {__version__}\n")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 (done), 1 (some files of a batch failed) or 2 (bad input)."""
    arguments = _parser().parse_args(argv)
    try:
        code = run_command(arguments)
        sys.stdout.flush()
        return code
    except CoraError as error:
        sys.stderr.write(f"cora: error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt as interruption:
        sys.stderr.write(f"cora: interrupted {interruption}".rstrip() + "\n")
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; flushing at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # The machine's refusals (permission, full disk, unreadable folder) are no bugs and need no traceback.
        place = f": {error.filename}" if error.filename else ""
        sys.stderr.write(f"cora: error: {error.strerror or error}{place}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="cora", description="Name the objects, get the boxes: open-vocabulary detection."
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="show the version and end"
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    pictures = commands.add_parser(
        "detect",
        help="find named objects in pictures",
        description="Find named objects in pictures: prints a table (of many pictures, by class) and draws the boxes.",
        epilog="Exit code: 0 done, even with nothing found; 1 some pictures of a batch failed; 2 bad input.",
    )
    detect.add_arguments(pictures)
    set_command(pictures, detect.run, output=kinds.DRAWN, json=kinds.DETECTIONS, csv=kinds.DETECTION_TABLE)

    moving = commands.add_parser(
        "video",
        help="follow named objects through a video",
        description="Follow named objects through a file, camera or stream; writes a video with boxes, and tables.",
        epilog="Exit code: 0 done; 1 some of the video could not be read; 2 bad input; 130 Ctrl-C, files finished.",
    )
    video.add_arguments(moving)
    set_command(moving, video.run, output=kinds.VIDEO, csv=kinds.TRACK_TABLE, json=kinds.TRACKS)

    convert.add_command(commands)
    models.add_command(commands)

    boxes = commands.add_parser(
        "evaluate",
        help="box AP of a model on an annotated folder",
        description="Box AP of novel, base and all classes on an annotated folder, with intervals.",
    )
    evaluate.add_arguments(boxes)
    set_command(boxes, evaluate.run, json=kinds.EVALUATION, report=kinds.REPORT)

    regions = commands.add_parser(
        "region-accuracy",
        help="how often a model names ground-truth boxes right",
        description="How often a model names ground-truth boxes right among all classes of a folder.",
    )
    evaluate.add_region_arguments(regions)
    set_command(regions, evaluate.run_regions, json=kinds.REGION_ACCURACY)

    stages = commands.add_parser(
        "train",
        help="train the region prompt, the localizer, or all",
        description="Train the region prompt, the localizer, or all, from a recipe or plain options.",
    )
    train.add_commands(stages, Parser)

    labels = commands.add_parser(
        "relabel",
        help="give boxes the class that the model sees in them",
        description="CLIP-aligned labels: a copy of an annotation file, every box with the class that the model sees.",
    )
    train.add_relabel_arguments(labels)
    set_command(labels, train.run_relabel, output=kinds.RELABELLED, plot=kinds.PICTURE, json=kinds.AGREEMENT)

    pseudo = commands.add_parser(
        "pseudo-label",
        help="boxes for photos that have captions or tags only",
        description="Boxes for photos that have captions, tags or a list of classes only, as a new annotation file.",
    )
    pseudo_label.add_arguments(pseudo)
    set_command(pseudo, pseudo_label.run, output=kinds.PSEUDO)

    prompts = commands.add_parser(
        "text-prompts",
        help="learn the text side on base boxes",
        description="Learn the text side on base boxes: a context, offsets of class embeddings, or the text tower.",
    )
    text.add_arguments(prompts)
    set_command(prompts, text.run, output=kinds.TEXT, save_model=kinds.MODEL, cache=kinds.EMBEDDINGS, run_dir=kinds.RUN)

    alike = commands.add_parser(
        "groups",
        help="which classes a model can hardly tell apart",
        description="Groups of classes by spherical k-means of their embeddings: which a model can hardly tell apart.",
    )
    groups.add_arguments(alike)
    set_command(alike, groups.run, json=kinds.GROUPS, picture=kinds.PICTURE)

    own = commands.add_parser(
        "finetune",
        help="adapt a model to your own boxes",
        description="Adapt a model to your own boxes: teaches it the names and the boxes of a small annotated set.",
        epilog="The same command again goes on where the run stopped.",
    )
    finetune.add_arguments(own)
    set_command(own, finetune.run, output=kinds.MODEL, run_dir=kinds.FINETUNE_RUN)

    regions_of = commands.add_parser(
        "index",
        help="make a folder of pictures searchable",
        description="Find the regions of all pictures in a folder and store them for 'cora search'.",
        epilog="The same command again brings the index up to date, or goes on where it was stopped. "
        "Exit code: 0 done; 1 some pictures could not be read; 2 bad input; 130 Ctrl-C.",
    )
    index.add_arguments(regions_of)
    set_command(regions_of, index.run, db=kinds.INDEX)

    alike_regions = commands.add_parser(
        "search",
        help="find regions of an index by words or by a picture",
        description="Find regions of an index by words or by a picture: prints a table, writes JSON and a picture.",
    )
    search.add_arguments(alike_regions)
    set_command(alike_regions, search.run, json=kinds.HITS, sheet=kinds.PICTURE)

    service = commands.add_parser(
        "serve",
        help="detect and search over HTTP, with a web page",
        description="Detect and search over HTTP, with a web page, on this machine unless --host says otherwise.",
        epilog="SIGTERM and Ctrl-C end it in order: what was accepted is answered. Exit code: 0, or 130 after Ctrl-C.",
    )
    serve.add_arguments(service)
    set_command(service, serve.run)

    limits = commands.add_parser(
        "study",
        help="is classification or localization the problem?",
        description="Is classification or localization the problem? Gives the true classes away and measures boxes.",
    )
    study.add_commands(limits, Parser)

    maps = commands.add_parser(
        "cam",
        help="draw where a frozen CLIP sees named classes",
        description="Draw where a frozen CLIP sees named classes in a picture (CLIP Surgery).",
    )
    cam.add_arguments(maps)
    set_command(maps, cam.run, output=kinds.PICTURE)

    calibrate.add_command(commands)
    align.add_command(commands)
    prune.add_command(commands)
    distill.add_command(commands)
    search_arch.add_command(commands)
    export.add_command(commands)
    quantize.add_command(commands)
    batch.add_command(commands)
    shards.add_command(commands)
    split.add_command(commands)
    return parser
