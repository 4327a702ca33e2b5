"""What `cora search-arch` does: rank the units once, try sizes, draw what was found, write the best model."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text
from safetensors.torch import load_file
from torch import Tensor

from cora.apps.files import find_images
from cora.apps.held_out import HeldOut
from cora.apps.open_model import open_torch_detector
from cora.apps.prune_report import draw_pictures, names_for, read_measured
from cora.compress.arch import BEST_MODEL, Bench, Candidate, best, choices, pareto_front, search
from cora.compress.arch_plot import draw_search
from cora.compress.arch_sizes import Architecture
from cora.compress.distill import DistillRun, distill
from cora.compress.prune import prune, unit_sets
from cora.compress.prune_importance import rank_units, recalibrate
from cora.compress.prune_measure import agreement, detect_all, median_ms
from cora.console import output_console, progress_report, say
from cora.detector import Detector
from cora.detector.checkpoint import write_tensors
from cora.detector.fingerprint import weights_fingerprint
from cora.errors import DataError
from cora.files import write_json, write_picture
from cora.regions import Vocabulary
from cora.towers import resnet_of
from cora.training.alignment import refit_alignment

PICTURE = "pareto.png"


def search_architecture(args: argparse.Namespace) -> int:
    """Search sizes within a budget; prints the front of the best, writes model and image; returns 0.

    Raises:
        CoraError: bad input, before anything is written; a budget that no size holds.
    """
    held_out = read_measured(args)
    pictures = draw_pictures(args.images, args.photos, args.seed)
    whole = open_torch_detector(args.model, args.device, needs="cora search-arch", trained=False)
    resnet_of(whole.image_tower, "cora search-arch")
    names = names_for(args, held_out.dataset.class_names if held_out is not None else None)
    vocabulary = whole.vocabulary_encoder.encode(names).to(whole.device)
    base = Architecture.of(whole.config)
    config = {
        "model": weights_fingerprint(whole),
        "photos": [path.name for path in find_images([str(args.images)]).paths],
        "used": len(pictures),
        "names": list(names),
        "measured": [str(args.val_images), str(args.val_annotations), args.limit, args.split],
        "proxy_epochs": args.proxy_epochs,
        "threads": torch.get_num_threads(),
    }
    console = output_console()
    maker = _Maker(args, whole, pictures, names, vocabulary, held_out, _key(config, args.seed))

    def tell(number: int, candidate: Candidate) -> None:
        found = "over the budget" if candidate.quality is None else f"{maker.measured} {100 * candidate.quality:.1f} %"
        say(console, f"{number}: {candidate.milliseconds:.0f} ms, {found}")

    candidates = search(
        base,
        Bench(
            build=maker.build,
            milliseconds=maker.milliseconds,
            quality=maker.quality,
            improve=maker.improve if args.proxy_epochs else None,
        ),
        budget_ms=args.budget,
        trials=args.trials,
        run_dir=args.run_dir,
        config=config,
        seed=args.seed,
        on_trial=tell,
    )
    first = Candidate(base, maker.milliseconds(whole), maker.quality(whole))
    _show(console, candidates, first)
    if args.json is not None:
        write_json(args.json, {"whole": first.to_dict(), "trials": [one.to_dict() for one in candidates]})
    if best(candidates) is None:
        raise DataError(f"none of {len(candidates)} trials holds the budget of {args.budget:g} ms; try more --trials")
    picture = draw_search(
        candidates,
        whole=first,
        budget_ms=args.budget,
        title=f"Smaller models from {Path(args.model).name}",
        quality=f"{maker.measured}, %",
    )
    write_picture(args.run_dir / PICTURE, picture)
    say(console, f"Wrote {args.run_dir / BEST_MODEL} and {args.run_dir / PICTURE}")
    return 0


class _Maker:
    """Makes and measures candidates on the images of a search."""

    def __init__(
        self,
        args: argparse.Namespace,
        whole: Detector,
        pictures: list[Image.Image],
        names: tuple[str, ...],
        vocabulary: Vocabulary,
        held_out: HeldOut | None,
        key: str,
    ) -> None:
        self.args, self.whole, self.pictures, self.key = args, whole, pictures, key
        self.names, self.vocabulary, self.held_out = names, vocabulary, held_out
        self.measured = "agreement" if held_out is None else "AP50, all classes"
        self._importance: dict[str, Tensor] | None = None
        self._reference = detect_all(whole, pictures, vocabulary)

    def build(self, sizes: Architecture) -> Detector:
        """The model, pruned to the sizes; the statistics of a tower that was cut are measured anew."""
        small = prune(self.whole, sizes, self._ranked())
        base = Architecture.of(self.whole.config)
        if (sizes.width, sizes.layers) != (base.width, base.layers):
            recalibrate(small, self.pictures)
        if not self.args.proxy_epochs:  # distilling ends with it
            refit_alignment(small, self.pictures.__getitem__, len(self.pictures), self.vocabulary)
        return small

    def milliseconds(self, detector: Detector) -> float:
        """Median time of an image."""
        return median_ms({"": detector}, self.pictures[0], {"": self.vocabulary}, repeats=self.args.repeats)[""]

    def quality(self, detector: Detector) -> float:
        """AP50 where there are boxes, else agreement with the whole model."""
        if self.held_out is not None:
            return self.held_out.ap50(detector).get("ap50_all", 0.0)
        return agreement(self._reference, detect_all(detector, self.pictures, self.vocabulary)).value

    def improve(self, detector: Detector) -> None:
        """Distil a candidate from the whole model for a short while."""
        folder = Path(tempfile.mkdtemp(dir=self.args.run_dir, prefix="proxy-"))
        try:
            result = distill(
                student=detector,
                teacher=self.whole,
                localizes=True,
                paths=sorted(find_images([str(self.args.images)]).paths),
                names=self.names,
                run_dir=folder,
                run=DistillRun(epochs=self.args.proxy_epochs, seed=self.args.seed, ema=0.9),
                progress=False,
            )
        finally:
            shutil.rmtree(folder)
        if result.interrupted:
            raise KeyboardInterrupt("between two trials; the same command goes on")

    def _ranked(self) -> dict[str, Tensor]:
        """Importance of all units, measured once and kept in the run folder."""
        if self._importance is None:
            file = self.args.run_dir / f"importance-{self.key}.safetensors"
            if not file.exists():
                with progress_report() as report:
                    found = rank_units(
                        self.whole,
                        self.pictures,
                        self.vocabulary,
                        shrinking=list(unit_sets(self.whole.config, Architecture.of(self.whole.config))),
                        seed=self.args.seed,
                        report=report,
                    )
                write_tensors(file, found, {})
            self._importance = load_file(file)
        return self._importance


def _show(console: Console, candidates: Sequence[Candidate], whole: Candidate) -> None:
    names = list(choices(whole.sizes))
    table = Table("ms", "quality, %", *(name.replace("_", " ") for name in names))
    for column in table.columns:
        column.justify = "right"
    for one in (*pareto_front(candidates), whole):
        numbers = one.sizes.numbers()
        values = (str(numbers[name]) for name in names)
        table.add_row(f"{one.milliseconds:.0f}", f"{100 * (one.quality or 0):.1f}", *values)
    console.print(table)
    console.print(Text("The last row is the whole model, the others are those that no other beats in both."))


def _key(config: Mapping[str, object], seed: int) -> str:
    """Names the importance that was measured with the same model, images and names."""
    return hashlib.sha256(json.dumps([config, seed], sort_keys=True).encode()).hexdigest()[:12]
