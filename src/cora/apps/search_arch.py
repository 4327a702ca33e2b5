"""`cora search-arch`: searches for the best smaller model within a time per image, measured on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cora.apps import kinds
from cora.apps.argument_types import above_zero, positive, whole
from cora.apps.command import Command
from cora.apps.data_options import MeasuringOptions, images_in, numbers_option
from cora.apps.model_options import resnet_option
from cora.apps.options import group, option
from cora.errors import DataError
from cora.files import write_json, write_picture


@dataclass(frozen=True, kw_only=True)
class SearchArchOptions:
    """Options of `cora search-arch`."""

    model: str = resnet_option()
    images: Path = option(required=True, metavar="DIR", help="images to measure on")
    budget: float = option(required=True, type=above_zero, metavar="MS", help="most milliseconds per image")
    trials: int = option(
        type=positive, default=50, help="architectures to try, those of earlier calls included (default: %(default)s)"
    )
    run_dir: Path = option("--run", required=True, writes=kinds.SEARCH_RUN, metavar="DIR", help="folder of the search")
    proxy_epochs: int = option(
        type=whole,
        default=0,
        help="distil every candidate for so many passes over the images before its quality is measured (default: 0)",
    )
    repeats: int = option(type=positive, default=5, help="timed runs, whose median counts (default: %(default)s)")
    measuring: MeasuringOptions = group(MeasuringOptions)
    json: Path | None = numbers_option(kinds.SEARCHED)


def run(options: SearchArchOptions) -> int:
    """Search sizes within a budget; prints the front of the best, writes model and image; returns 0.

    Raises:
        CoraError: bad input, before anything is written; or no architecture within the budget is worthwhile.
    """
    import torch
    from rich.text import Text

    from cora.apps.open_model import open_torch_detector
    from cora.compress.arch import BEST_MODEL, Candidate, best, check_optuna, search
    from cora.compress.arch_bench import DetectorBench, front_table
    from cora.compress.arch_plot import draw_search
    from cora.console import output_console, say
    from cora.detector.fingerprint import weights_fingerprint
    from cora.evaluation.held_out import check_extras
    from cora.towers import resnet_of

    check_optuna()
    if options.proxy_epochs:
        check_extras("cora search-arch --proxy-epochs", measures=False)
    measuring = options.measuring
    held_out = measuring.read_held_out()
    paths = images_in(options.images)
    images = measuring.draw(paths)
    whole = open_torch_detector(options.model, measuring.device, needs="cora search-arch", trained=False)
    resnet_of(whole.image_tower, "cora search-arch")
    names = measuring.names(held_out.dataset if held_out is not None else None)
    config = {
        "model": weights_fingerprint(whole),
        "photos": [path.name for path in paths],
        "used": len(images),
        "names": list(names),
        "measured": [str(measuring.val_images), str(measuring.val_annotations), measuring.limit, measuring.split],
        "proxy_epochs": options.proxy_epochs,
        "threads": torch.get_num_threads(),
    }
    console = output_console()
    bench = DetectorBench(
        whole,
        images,
        names,
        paths=paths,
        run_dir=options.run_dir,
        config=config,
        held_out=held_out,
        repeats=options.repeats,
        proxy_epochs=options.proxy_epochs,
        seed=measuring.seed,
    )

    def tell(number: int, candidate: Candidate) -> None:
        found = "over the budget" if candidate.quality is None else f"{bench.measured} {100 * candidate.quality:.1f} %"
        say(console, f"{number}: {candidate.milliseconds:.0f} ms, {found}")

    first = bench.measure_whole()
    candidates = search(
        first,
        bench,
        budget_ms=options.budget,
        trials=options.trials,
        run_dir=options.run_dir,
        config=config,
        seed=measuring.seed,
        on_trial=tell,
    )
    console.print(front_table(candidates, first))
    console.print(Text("The last row is the whole model, the others are those that no model beats in both."))
    if options.json is not None:
        write_json(options.json, {"whole": first.to_dict(), "trials": [one.to_dict() for one in candidates]})
    if all(one.quality is None for one in candidates):
        raise DataError(
            f"none of {len(candidates)} trials holds the budget of {options.budget:g} ms; try more --trials"
        )
    if best(candidates, first) is None:
        raise DataError(
            f"expected a model that is faster or better than the whole one ({first.milliseconds:.0f} ms), got none in "
            f"{len(candidates)} trials; keep the whole model, or try more --trials"
        )
    picture = draw_search(
        candidates,
        whole=first,
        budget_ms=options.budget,
        title=f"Smaller models from {Path(options.model).name}",
        quality=f"{bench.measured}, %",
    )
    plot = options.run_dir / "pareto.png"
    write_picture(plot, picture)
    say(console, f"Wrote {options.run_dir / BEST_MODEL} and {plot}")
    return 0


COMMAND = Command(
    name="search-arch",
    options=SearchArchOptions,
    run=run,
    help="the best smaller model within a time an image on this machine",
    description="Searches sizes of a model (width, depth, layers, anchors, resolution) within a time an image.",
    epilog="The same command again goes on where it stopped; --trials counts those of earlier calls.",
)
