"""Makes the candidates of a search and measures them on images: prunes, briefly distils, times and compares."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from cora.compress.arch import Candidate, choices, pareto_front
from cora.compress.arch_sizes import Architecture
from cora.compress.distill import DistillRun, distill
from cora.compress.prune import prune, unit_sets
from cora.compress.prune_importance import rank_units, recalibrate
from cora.compress.prune_measure import agreement, detect_all, median_ms
from cora.console import number_table, progress_report
from cora.detector import Detector
from cora.detector.checkpoint import write_tensors
from cora.evaluation.held_out import HeldOut
from cora.files import write_json
from cora.training.alignment import refit_alignment


class DetectorBench:
    """Makes candidates from a detector and measures them on the images of a search.

    Args:
        whole: the model to shrink; stays as it is.
        images: for importance, time and agreement, at least one.
        names: classes that the images are searched for.
        paths: of the images that candidates are distilled on.
        run_dir: keeps the importance of all units.
        config: what the search is made of; importance of another configuration is not reused.
        held_out: images with boxes; agreement with the whole model counts if None.
        repeats: timed runs, of which the median counts.
        proxy_epochs: passes over the images that a candidate is distilled for.
        seed: of everything drawn at random.
    """

    def __init__(
        self,
        whole: Detector,
        images: list[Image.Image],
        names: tuple[str, ...],
        *,
        paths: Sequence[Path],
        run_dir: Path,
        config: Mapping[str, Any],
        held_out: HeldOut | None = None,
        repeats: int = 5,
        proxy_epochs: int = 0,
        seed: int = 0,
    ) -> None:
        self.whole, self.images, self.names, self.held_out = whole, images, names, held_out
        self._paths, self._run_dir = paths, run_dir
        self._repeats, self._proxy_epochs, self._seed = repeats, proxy_epochs, seed
        self._vocabulary = whole.vocabulary_encoder.encode(names).to(whole.device)
        self._reference = detect_all(whole, images, self._vocabulary)
        key = hashlib.sha256(json.dumps([config, seed], sort_keys=True).encode()).hexdigest()[:12]
        self._importance_file = run_dir / f"importance-{key}.safetensors"
        self._whole_file = run_dir / f"whole-{key}.json"

    def measure_whole(self) -> Candidate:
        """The model itself, measured once and kept in the run folder."""
        base = Architecture.of(self.whole.config)
        if self._whole_file.exists():
            kept = json.loads(self._whole_file.read_text(encoding="utf-8"))
            return Candidate(base, kept["milliseconds"], kept["quality"])
        once = median_ms({"": self.whole}, self.images[0], {"": self._vocabulary}, repeats=self._repeats)[""]
        measured = Candidate(base, once, self.quality(self.whole))
        write_json(self._whole_file, measured.to_dict())
        return measured

    @property
    def measured(self) -> str:
        """Name of the measure of quality."""
        return "agreement" if self.held_out is None else "AP50, all classes"

    def build(self, sizes: Architecture) -> Detector:
        """The model, pruned to the sizes; the statistics of a tower that was cut are measured anew."""
        small = prune(self.whole, sizes, self._importance)
        base = Architecture.of(self.whole.config)
        if (sizes.width, sizes.layers) != (base.width, base.layers):
            recalibrate(small, self.images)
        if not self._proxy_epochs:  # distilling ends with it
            refit_alignment(small, self.images.__getitem__, len(self.images), self._vocabulary)
        return small

    def milliseconds(self, detector: Detector) -> float:
        """Median time of an image, at the speed that the machine had while the whole model was measured.

        Both models are timed in turns. Their ratio does not depend on what else the machine is doing.
        """
        pair = {"whole": self.whole, "small": detector}
        now = median_ms(pair, self.images[0], dict.fromkeys(pair, self._vocabulary), repeats=self._repeats)
        return self.measure_whole().milliseconds * now["small"] / now["whole"]

    def quality(self, detector: Detector) -> float:
        """AP50 where there are boxes, else agreement with the whole model."""
        if self.held_out is not None:
            return self.held_out.ap50(detector).get("ap50_all", 0.0)
        return agreement(self._reference, detect_all(detector, self.images, self._vocabulary)).value or 0.0

    def improve(self, detector: Detector) -> None:
        """Distil a candidate from the whole model for `proxy_epochs`, in place."""
        if not self._proxy_epochs:
            return
        folder = Path(tempfile.mkdtemp(dir=self._run_dir, prefix="proxy-"))
        try:
            result = distill(
                student=detector,
                teacher=self.whole,
                localizes=True,
                paths=self._paths,
                names=self.names,
                run_dir=folder,
                run=DistillRun(epochs=self._proxy_epochs, seed=self._seed, ema=0.9),
                progress=False,
            )
        finally:
            shutil.rmtree(folder)
        if result.interrupted:
            raise KeyboardInterrupt("between two trials; the same command goes on")

    @cached_property
    def _importance(self) -> dict[str, Tensor]:
        """Importance of all units, measured once and kept in the run folder."""
        if not self._importance_file.exists():
            with progress_report() as report:
                found = rank_units(
                    self.whole,
                    self.images,
                    self._vocabulary,
                    shrinking=list(unit_sets(self.whole.config, Architecture.of(self.whole.config))),
                    seed=self._seed,
                    report=report,
                )
            write_tensors(self._importance_file, found, {})
        return load_file(self._importance_file)


def front_table(candidates: Sequence[Candidate], whole: Candidate) -> Table:
    """The Pareto front of a search, fastest first, then the whole model."""
    names = list(choices(whole.sizes))
    table = number_table("ms", "quality, %", *(name.replace("_", " ") for name in names), words=0)
    for one in (*pareto_front(candidates, whole), whole):
        numbers = one.sizes.numbers()
        values = (str(numbers[name]) for name in names)
        table.add_row(f"{one.milliseconds:.0f}", f"{100 * (one.quality or 0):.1f}", *values)
    return table
