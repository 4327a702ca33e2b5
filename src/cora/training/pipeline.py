"""Runs the stages of a recipe: region prompt -> proposals -> class names -> relabelling -> localizer.

Every stage writes a file to the run folder and resumes after a stop, with the same result as an uninterrupted run. A
stage that trains has a folder of its own in the run folder. It holds the settings that the stage started with, and a
run that starts the stage differently is refused.

Towers are frozen; with `data.versions` above 0, their feature maps are computed once and cached on disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cora.data.coco import CocoDataset
from cora.data.feature_cache import FeatureCache, build_feature_cache, collate_features
from cora.data.fingerprint import about_data, boxes_hash, images_hash
from cora.data.loader import AugmentedDataset, EpochLoader, ImageCollate, Transform
from cora.data.shards import ShardDataset
from cora.data.transforms import ResizeTransform, TrainTransform
from cora.detector import Detector, check_pool_size
from cora.detector.fingerprint import weights_fingerprint
from cora.detector.variants import without_prompt
from cora.errors import TrainingError
from cora.files import write_json
from cora.regions import Vocabulary
from cora.training.alignment import alignment_refitter
from cora.training.ema import Ema, interpolate_weights, trainable_state
from cora.training.engine import Engine
from cora.training.group_file import stage_groups
from cora.training.identity import seed_stage, stage_settings
from cora.training.image_weights import image_weights
from cora.training.loop import check_config, train
from cora.training.losses import class_loss_weights
from cora.training.names_task import build_names_task
from cora.training.optim import OptimizerConfig, build_adamw, build_schedule
from cora.training.prompt_task import PromptTask
from cora.training.proposal_task import ProposalTask
from cora.training.recipe import PromptStage, ProposalStage, Stage, TrainRecipe
from cora.training.region_embeddings import embed_regions
from cora.training.relabel import Agreement, plot_confusion, relabel, relabelled
from cora.training.starts import change_pool_size, start_fresh, start_localizer
from cora.training.variants import VARIANTS

PROMPTED, PROPOSED, NAMED = "prompts.safetensors", "proposals.safetensors", "names.safetensors"
MODEL = "model.safetensors"
RELABELLED, AGREEMENT, CONFUSION = "relabelled.json", "agreement.json", "confusion.png"

#: Stages that train, in order: the fields of the recipe, and the names of their folders in the run folder.
_TRAINED = ("prompts", "proposals", "names", "localizer")

#: Computes metrics of a detector on held-out images. The caller provides it: training must not import evaluation.
Measure = Callable[[Detector], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Callbacks of a training run, for evaluation and progress.

    Attributes:
        measure_prompts: detector -> metrics; called every `evaluate_every` epochs of the prompt and after the last.
        measure_localizer: the same for the localizer.
        best: stage -> name of the metric whose highest value decides which epoch is kept as `best.pt`.
        report: called with (name of the step, images done, number of images) by the steps that do not train: computing
            feature maps, relabelling boxes, fitting the fast alignment.
        progress: show progress on stderr while training.
        say: called with a message for the user, one line.
    """

    measure_prompts: Measure | None = None
    measure_localizer: Measure | None = None
    best: Mapping[str, str] = field(default_factory=dict)
    report: Callable[[str, int, int], None] | None = None
    progress: bool = True
    say: Callable[[str], None] | None = None


class TrainingPipeline:
    """Runs the stages of a recipe, which change the detector in place.

    Args:
        recipe: stages and their settings.
        detector: detector to start from, on the device to train on.
        dataset: annotated images, restricted to the classes to train on (`read_dataset`).
        run: run folder; made if missing.
        hooks: evaluation and progress; None for neither.
        engine: of this process, in distributed training (`launch`); the first computes maps and writes files.
    """

    def __init__(
        self,
        *,
        recipe: TrainRecipe,
        detector: Detector,
        dataset: CocoDataset,
        run: Path,
        hooks: Hooks | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.engine = engine or Engine(device=detector.device)
        self.recipe, self.detector, self.dataset, self.run_dir = recipe, detector, dataset, run
        self.hooks = hooks or Hooks()
        self._before_proposals: dict[str, Tensor] = {}  # weights that the proposal stage changes
        if recipe.prompts is not None and recipe.prompts.pool_size is not None:
            check_pool_size(detector.config, recipe.prompts.pool_size)
        start_fresh(detector, recipe)
        run.mkdir(parents=True, exist_ok=True)

    def check(self) -> None:
        """Refuse a run folder that another run began, before any work; each later stage is compared when it starts.

        Raises:
            TrainingError: the run began with another stage, model, boxes or settings; the message has the difference.
        """
        stages = [name for name in _TRAINED if getattr(self.recipe, name)]
        if not stages:
            return
        first = stages[0]
        begun = next((name for name in stages if (self.run_dir / name).exists()), first)
        if begun != first:
            expected = f"expected a run that began with {first}, got one that began with {begun} in {self.run_dir}"
            raise TrainingError(f"{expected}; use another run folder")
        if first == "localizer" and self._resets_localizer():
            return  # its settings name the weights after the reset, which are not known yet
        check_config(self.run_dir / first, self._config(first))

    def _resets_localizer(self) -> bool:
        """Whether the localizer's stage starts from other anchors, or another objectness head, than the model's."""
        stage = self.recipe.localizer
        return stage is not None and (stage.anchors != "keep" or stage.objectness != "keep")

    def all(self) -> Path:
        """Run all stages of the recipe; returns the path of the last model file."""
        result = self.run_dir / MODEL
        if self.recipe.prompts is not None:
            result = self.prompts(self.recipe.prompts)
        if self.recipe.proposals is not None:
            result = self.proposals(self.recipe.proposals)
        if self.recipe.names is not None:
            result = self.names()
        if self.recipe.relabel is not None and self.recipe.localizer is not None:
            self.relabel()
        if self.recipe.localizer is not None:
            result = self.localizer()
        return result

    def prompts(self, stage: PromptStage) -> Path:
        """Train the region prompt on ground-truth boxes; returns the path of the model file."""
        config = self._config("prompts")  # of the model as it was given, before its pool size changes
        resize = ResizeTransform(preprocessor=self.detector.preprocessor)
        loader = self._loader("plain", resize, versions=min(1, self.recipe.data.versions), stage=stage)
        if changed := change_pool_size(self.detector, self.recipe):
            self._say(changed)
        counts = self.dataset.class_counts()
        task = PromptTask(
            detector=self.detector,
            vocabulary=self._vocabulary(),
            loss_weights=class_loss_weights(counts) if stage.balance == "sqrt" else None,
            class_counts=counts if stage.balance == "equal" else None,
            max_boxes=stage.max_boxes,
            classes_per_step=stage.classes_per_step,
        )
        self._train("prompts", task, loader, stage, measure=self.hooks.measure_prompts, config=config)
        return self._save(PROMPTED)

    def proposals(self, stage: ProposalStage) -> Path:
        """Train the anchor proposals, and the box trunk if `trunk_factor` is above 0; returns the model file."""
        task = ProposalTask(detector=self.detector, trunk=stage.trunk_factor > 0)
        self._before_proposals = {key: value.clone() for key, value in trainable_state(task).items()}
        name, transform, versions = self._augmented()
        loader = self._loader(name, transform, versions=0 if task.trunk else versions, stage=stage)
        self._train("proposals", task, loader, stage, measure=None)
        return self._save(PROPOSED)

    def names(self) -> Path:
        """Learn offsets of the class embeddings (fine-tuning); returns the path of the model file."""
        stage = self.recipe.names
        assert stage is not None
        task = build_names_task(self.detector, self.dataset.class_names, self.dataset.class_counts(), stage)
        if stage.prototypes:
            regions = embed_regions(
                detector=self.detector, dataset=self.dataset, on_progress=self._report("boxes for the prototypes")
            )
            task.start_from(regions, share=stage.prototypes)
        loader = self._loader(*self._augmented(), stage=stage)
        self._train("names", task, loader, stage, measure=None)
        self.detector.learn_text(task.offsets)
        return self._save(NAMED)

    def relabel(self) -> Agreement | None:
        """Relabel the boxes by the prompted region classifier; None if an earlier call has done it."""
        if self.recipe.localizer is not None and self.recipe.localizer.variant == "no-prompt":
            self.detector = without_prompt(self.detector)
        output, notes = self.run_dir / RELABELLED, self.run_dir / AGREEMENT
        made_for = {"model": weights_fingerprint(self.detector), "boxes": boxes_hash(self.dataset)}
        agreement = None
        if not self.engine.broadcast(self.engine.is_main and self._relabelled_before(made_for)):
            agreement = relabel(
                detector=self.detector,
                vocabulary=self._vocabulary(),
                dataset=self.dataset,
                output=output,
                on_progress=self._report("relabel"),
                engine=self.engine,
            )
            if self.engine.is_main:
                write_json(notes, asdict(agreement) | {"made_for": made_for})
                if self.recipe.relabel is not None and self.recipe.relabel.plot:
                    plot_confusion(agreement, self.run_dir / CONFUSION)
            self._say(f"{agreement.agreed} of {agreement.boxes} boxes keep their class ({agreement.share:.1%})")
        self.dataset = relabelled(self.dataset, output)
        return agreement

    def _relabelled_before(self, made_for: Mapping[str, Any]) -> bool:
        """Whether the run folder has relabelled boxes; raises `TrainingError` if other inputs gave them."""
        output, notes = self.run_dir / RELABELLED, self.run_dir / AGREEMENT
        if not notes.exists():
            return False
        if json.loads(notes.read_text(encoding="utf-8")).get("made_for") != made_for:
            raise TrainingError(f"{output} was made by another model or of other boxes; use another run folder")
        return True

    def localizer(self) -> Path:
        """Train the localizer; returns the path of the model file."""
        stage = self.recipe.localizer
        assert stage is not None
        self.detector.config = replace(self.detector.config, untrained=False)
        start_localizer(self.detector, self.dataset, stage, seed=self.recipe.seed)
        vocabulary = self._vocabulary()
        variant, groups = VARIANTS[stage.variant], stage_groups(stage, self.dataset, vocabulary)
        self.detector = variant.detector(self.detector)
        grouped = {} if groups is None else {"class_groups": groups}
        task = variant.task(detector=self.detector, vocabulary=vocabulary, config=stage.task, **grouped)
        loader = self._loader(*self._augmented(), stage=stage, weights=image_weights(self.recipe.data, self.dataset))
        refit = alignment_refitter(self.detector, self.dataset, vocabulary, report=self.hooks.report)
        self._train("localizer", task, loader, stage, measure=self.hooks.measure_localizer, before_last=refit)
        if self.engine.is_main:
            refit()
        return self._save(MODEL)

    def _vocabulary(self) -> Vocabulary:
        return self.detector.vocabulary_encoder.encode(self.dataset.class_names).to(self.detector.device)

    def _augmented(self) -> tuple[str, Transform, int]:
        """The first arguments of `_loader` for augmented images."""
        return "augmented", TrainTransform(config=self.recipe.data.augment), self.recipe.data.versions

    def _loader(
        self, name: str, transform: Transform, versions: int, *, stage: Stage, weights: Tensor | None = None
    ) -> EpochLoader[Any]:
        """Batches of images, or of the cached feature maps of `versions` augmentations of each, if that is above 0."""
        recipe = self.recipe
        if versions:
            maps = self._maps(name, transform, versions)
            source: dict[str, Any] = {"dataset": maps, "collate": collate_features, "shape_key": maps.aspect}
        else:
            images = AugmentedDataset(dataset=self.dataset, transform=transform, seed=recipe.seed)
            source = {"dataset": images, "collate": ImageCollate(to_batch=self.detector.preprocessor.collate)}
            if isinstance(self.dataset, ShardDataset) and weights is None:
                source["blocks"] = self.dataset.blocks
        return EpochLoader(
            **source,
            batch_size=stage.batch,
            seed=recipe.seed,
            workers=recipe.data.workers,
            pin_memory=self.detector.device.type == "cuda",
            weights=weights,
            rank=self.engine.rank,
            world=self.engine.world,
        )

    def _maps(self, name: str, transform: Transform, versions: int) -> FeatureCache:
        """Cached maps of the frozen tower; the first process computes them, the others wait and read them."""
        if not self.engine.is_main:
            self.engine.barrier()
        cache = build_feature_cache(
            dataset=self.dataset,
            transform=transform,
            tower=self.detector.image_tower,
            to_batch=self.detector.preprocessor.collate,
            folder=self.run_dir / "maps" / name,
            versions=versions,
            seed=self.recipe.seed,
            max_gigabytes=self.recipe.data.cache_gigabytes,
            device=self.detector.device,
            workers=self.recipe.data.workers,
            on_progress=self._report(f"maps, {name}"),
        )
        if self.engine.is_main:
            self.engine.barrier()
        return cache

    def _train(
        self,
        name: str,
        task: nn.Module,
        loader: EpochLoader[Any],
        stage: Stage,
        *,
        measure: Measure | None,
        before_last: Callable[[], None] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Train a task in the folder `name` of the run, from where an earlier call was stopped.

        `measure` runs every `evaluate_every` epochs and after the last, `before_last` before the last measurement.
        """
        recipe = self.recipe
        seed_stage(recipe.seed, name)
        task.to(self.detector.device)
        factors = getattr(stage, "lr_factors", {})
        optimiser = build_adamw(task, OptimizerConfig(lr=stage.lr, weight_decay=stage.weight_decay, lr_factors=factors))
        steps = max(1, len(loader) // stage.accumulate)
        schedule = stage.schedule.config(steps_an_epoch=steps, epochs=stage.epochs)
        start = {key: value.clone() for key, value in trainable_state(task).items()} if stage.keep else {}
        average = Ema(task, decay=stage.ema) if stage.ema is not None else None

        def at_end(epoch: int, _task: nn.Module) -> Mapping[str, float] | None:
            last = epoch + 1 == stage.epochs
            if before_last is not None and last:
                before_last()
            due = last or (epoch + 1) % recipe.evaluate_every == 0
            return measure(self.detector) if measure is not None and due else None

        result = train(
            task,
            loader,
            optimiser,
            build_schedule(optimiser, schedule),
            epochs=stage.epochs,
            run_dir=self.run_dir / name,
            ema=average,
            grad_clip=stage.grad_clip,
            accumulate=stage.accumulate,
            precision=stage.precision,
            checkpoint_minutes=recipe.checkpoint_minutes,
            on_epoch_end=at_end if measure is not None else None,
            config=config or self._config(name),
            engine=self.engine,
            best=self.hooks.best.get(name) if measure is not None else None,
            progress=self.hooks.progress,
        )
        if result.interrupted:
            raise KeyboardInterrupt(f"at step {result.steps} of {name}, which is saved; the same command goes on")
        if average is not None:
            average.apply_to(task)
        if name == "localizer":  # it holds the proposals, too, which started before the proposal stage
            start |= self._before_proposals
        interpolate_weights(task, start, share=stage.keep)

    @cached_property
    def _images(self) -> str:
        return images_hash(self.dataset)  # once for all stages, since it reads from every file

    def _config(self, name: str) -> dict[str, Any]:
        """Settings that must be the same when a stage resumes, see `stage_settings`."""
        without = ("learned_text.",) if name == "names" else ()  # the task of "names" takes it from the detector
        return {
            "model": weights_fingerprint(self.detector, without=without),  # as the earlier stages left it
            **about_data(self.dataset, self._images),
            "seed": self.recipe.seed,
            "fresh": self.recipe.fresh,
            **stage_settings(self.recipe.to_dict(), name),
        }

    def _save(self, name: str) -> Path:
        path = self.run_dir / name
        if not self.engine.is_main:
            return path
        # Float32 for files that a later stage may start from, so that it gets the same numbers as within one run.
        self.detector.save(path, dtype=torch.float16 if name == MODEL else torch.float32)
        self._say(f"Wrote {path}")
        return path

    def _say(self, line: str) -> None:
        if self.hooks.say is not None:
            self.hooks.say(line)

    def _report(self, name: str) -> Callable[[int, int], None] | None:
        report = self.hooks.report
        return None if report is None else lambda done, total: report(name, done, total)
