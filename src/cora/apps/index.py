"""`cora index`: a folder of images in, an index of its regions out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import positive
from cora.apps.argument_types import score as score_type
from cora.apps.command import Command
from cora.apps.model_options import device_option
from cora.apps.options import argument, option, switch

_SHOWN_PROBLEMS = 20


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """Options of `cora index`."""

    folder: Path = argument(metavar="DIR", help="folder of images, all levels of it")
    db: Path = option(required=True, writes=kinds.INDEX, metavar="PATH", help="folder of the index, made or updated")
    classes: str | None = option(
        metavar="NAMES",
        help='keep regions that look like these names: "cat, cup", @FILE with one name a line, or lvis for the 1,203 '
        "names of LVIS (default: whatever looks like an object)",
    )
    score: float | None = option(type=score_type, help="least score of a region that is kept, 0 to 1 (default: 0.05)")
    regions: int | None = option(type=positive, help="regions kept per image (default: 50)")
    rehash: bool = switch(help="look into every file, also those whose size and time did not change")
    model: str | None = option(help="name (see 'cora models') or file (default: the index's, nano for a new one)")
    device: str = device_option()


def run(options: IndexOptions) -> int:
    """Make an index or bring it up to date, and say what was done.

    Returns:
        Exit code: 0, or 1 if some images could not be read.

    Raises:
        CoraError: bad input.
    """
    from dataclasses import replace

    from cora.apps.looked_for import tell_distractors
    from cora.apps.open_model import open_torch_detector
    from cora.console import error_console, output_console, report, say, tracked
    from cora.regions import class_prompts, other_prompts
    from cora.retrieval import RegionIndex, RegionSettings
    from cora.retrieval.manifest import MANIFEST, given_settings
    from cora.retrieval.update import list_pictures, no_pictures

    given = given_settings(options.classes, options.score, options.regions)
    if not list_pictures(options.folder):
        raise no_pictures(options.folder)
    before = RegionIndex.open(options.db) if (options.db / MANIFEST).exists() else None
    # An index without a region yet is empty, hence false, but there.
    settings = replace(RegionSettings() if before is None else before.settings, **given)
    name = options.model or ("nano" if before is None else before.model_name)
    detector = open_torch_detector(name, options.device, needs="cora index")
    if settings.classes is not None:
        asked = class_prompts(settings.classes)
        tell_distractors(detector, (*asked, *other_prompts(asked)), None, switch="the model's own choice")
    try:
        made, done = RegionIndex.build(
            options.db,
            options.folder,
            detector,
            settings=settings,
            model_name=str(Path(name).resolve()) if Path(name).is_file() else name,
            rehash=options.rehash,
            progress=lambda files: tracked(files, "indexing"),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("; what is done is kept, the same command goes on") from None
    errors = error_console()
    for problem in done.problems[:_SHOWN_PROBLEMS]:
        report(errors, problem)
    if done.problems:
        report(errors, f"{len(done.problems)} of the images could not be read", "warning")
    say(output_console(), f"{done} {len(made)} regions are in {options.db}.")
    return 1 if done.problems else 0


COMMAND = Command(
    name="index",
    options=IndexOptions,
    run=run,
    help="make a folder of images searchable",
    description="Find the regions of all images in a folder and store them for 'cora search'.",
    epilog="The same command again brings the index up to date, or goes on where it was stopped. "
    "Exit code: 0 done; 1 some images could not be read; 2 bad input; 130 Ctrl-C.",
)
