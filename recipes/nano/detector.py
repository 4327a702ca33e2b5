"""Train nano on the base boxes of coco_ovd_mini: region prompt, CLIP-aligned labels, localizer.

    torchrun --nproc-per-node 2 recipes/nano/detector.py --kit ../shared/kit --towers runs/nano/towers.safetensors \\
        --out runs/nano/detector

Run it with plain `python` and `--prepare` first: prompt, labels and maps are made by one process.
The towers are frozen, so their maps are computed once (`VERSIONS` augmented versions of every photo) and the
localizer's training never runs them again. Every step resumes: what is finished is read from the run folder.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import cora
from cora.data.class_split import read_class_split
from cora.data.coco import CocoDataset
from cora.data.feature_cache import FeatureCache, build_feature_cache, collate_features
from cora.data.loader import EpochLoader
from cora.data.transforms import AugmentConfig, ResizeTransform, TrainTransform
from cora.detector import Detector
from cora.regions import Vocabulary
from cora.training.ema import Ema
from cora.training.localizer_task import LocalizerTask, LocalizerTaskConfig
from cora.training.loop import train
from cora.training.optim import OptimizerConfig, ScheduleConfig, build_adamw, build_schedule
from cora.training.prompt_task import PromptTask
from cora.training.proposal_task import ProposalTask
from cora.training.relabel import relabel

VERSIONS = 4
AUGMENT = AugmentConfig(
    short_sides=(320, 352, 384, 416, 448),
    long_side=694,
    crop=0.4,
    crop_short_sides=(448, 576),
    crop_sides=(320, 480),
    min_box_side=6.0,
    min_visible=0.3,
)
TASK = LocalizerTaskConfig(class_dropout=0.2, target_repeats=3, mixed_precision=True)
PROMPT = {"epochs": 16, "batch": 16, "lr": 2e-3}
#: Proposals first, without a decoder: they learned beside the tower and settle on its final maps. Then everything.
PROPOSALS = {"epochs": 1, "batch": 4, "lr": 5e-4, "ema": 0.998}
LOCALIZER = {"epochs": 9, "batch": 4, "lr": 4e-4, "ema": 0.998}


class Builder:
    """The steps, each leaving a file in the run folder."""

    def __init__(self, *, kit: Path, towers: Path, run: Path) -> None:
        self.coco, self.run = kit / "coco_ovd_mini", run
        self.rank = 0
        run.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        self.detector: Detector = cora.load(towers)
        self.base = read_class_split(self.coco / "class_split.json").base
        self.vocabulary: Vocabulary = self.detector.vocabulary_encoder.encode(self.base)

    def dataset(self, annotations: Path) -> CocoDataset:
        return CocoDataset(annotations=annotations, images=self.coco / "train", class_names=self.base)

    def cache(self, name: str, annotations: Path, transform: object, versions: int) -> FeatureCache:
        # The maps are kept in 16 bits anyway.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return build_feature_cache(
                dataset=self.dataset(annotations),
                transform=transform,  # type: ignore[arg-type]
                tower=self.detector.image_tower,
                to_batch=self.detector.preprocessor.collate,
                folder=self.run / name,
                versions=versions,
                on_progress=_report(name),
            )

    def prompt(self) -> None:
        """Train the region prompt (METHOD section 3)."""
        done = self.run / "prompt.safetensors"
        if not done.exists():
            config = self.detector.preprocessor.config
            resize = ResizeTransform(short_side=config.short_side, long_side=config.long_side)
            cache = self.cache("maps_plain", self.coco / "train_base.json", resize, 1)
            # Without weights the prompt learns that most boxes are people: the mean over classes did not rise at all.
            counts = self.dataset(self.coco / "train_base.json").class_counts().clamp(min=1)
            weights = counts.float() ** -0.5
            task = PromptTask(detector=self.detector, vocabulary=self.vocabulary, loss_weights=weights / weights.mean())
            self._train(task, cache, "prompt", **PROMPT)
            self.detector.save(done, dtype=torch.float32)
        self.detector.load_state_dict(cora.load(done).state_dict())

    def relabelled(self) -> Path:
        """Relabel the base boxes by the prompted region classifier (METHOD section 6)."""
        output = self.run / "train_base_relabelled.json"
        if not output.exists():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                agreement = relabel(
                    detector=self.detector,
                    vocabulary=self.vocabulary,
                    dataset=self.dataset(self.coco / "train_base.json"),
                    output=output,
                    on_progress=_report("relabel"),
                )
            (self.run / "agreement.json").write_text(json.dumps(asdict(agreement)))
            print(f"relabel: {agreement.share:.1%} of {agreement.boxes} boxes keep their class")
        return output

    def maps(self) -> FeatureCache:
        """Maps of augmented photos with the new labels."""
        return self.cache("maps", self.relabelled(), TrainTransform(config=AUGMENT), VERSIONS)

    def localizer(self) -> None:
        """Train the proposals, then the whole localizer, on cached maps (METHOD sections 5 and 6)."""
        cache = self.maps()
        self._train(ProposalTask(detector=self.detector, mixed_precision=True), cache, "proposals", **PROPOSALS)
        task = LocalizerTask(detector=self.detector, vocabulary=self.vocabulary, config=TASK)
        self._train(task, cache, "localizer", **LOCALIZER)

    def _train(
        self,
        task: torch.nn.Module,
        cache: FeatureCache,
        name: str,
        *,
        epochs: int,
        batch: int,
        lr: float,
        ema: float | None = None,
    ) -> None:
        # Every process goes through the photos in an order of its own and keeps a run folder of its own.
        loader = EpochLoader(
            dataset=cache, batch_size=batch, collate=collate_features, shape_key=cache.aspect, seed=self.rank
        )
        optimiser = build_adamw(task, OptimizerConfig(lr=lr, weight_decay=1e-4))
        schedule = ScheduleConfig(kind="cosine", warmup_steps=100, total_steps=epochs * len(loader), final_factor=0.02)
        whole = DistributedDataParallel(task) if distributed.is_initialized() else task
        average = Ema(whole, decay=ema) if ema else None
        train(
            whole,
            loader,
            optimiser,
            build_schedule(optimiser, schedule),
            epochs=epochs,
            run_dir=self.run / (name if self.rank == 0 else f"{name}_{self.rank}"),
            ema=average,
            grad_clip=0.5,
            checkpoint_minutes=3,
        )
        if average is not None:
            whole.load_state_dict(average.shadow, strict=False)


def _report(name: str) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if done % 200 == 0 or done == total:
            print(f"{name}: {done} of {total}", flush=True)

    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, name in (("--kit", "kit"), ("--towers", "towers"), ("--out", "run")):
        parser.add_argument(option, dest=name, type=Path, required=True)
    parser.add_argument("--prepare", action="store_true", help="stop before the localizer")
    arguments = parser.parse_args()
    builder = Builder(kit=arguments.kit, towers=arguments.towers, run=arguments.run)
    builder.prompt()
    if arguments.prepare:
        builder.maps()
        raise SystemExit
    if "RANK" in os.environ:
        # One process of one thread per core trains 1.5 times as fast as one process of two threads.
        distributed.init_process_group("gloo")
        builder.rank = distributed.get_rank()
        os.sched_setaffinity(0, {builder.rank % (os.cpu_count() or 1)})
        torch.set_num_threads(1)
    builder.localizer()
    if builder.rank == 0:
        builder.detector.save(arguments.run / "nano.safetensors")
