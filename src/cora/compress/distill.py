"""A distillation run on a folder of images, which resumes after a stop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from cora.compress.arch_sizes import Architecture
from cora.data.loader import AugmentedDataset, EpochLoader
from cora.data.same_content import files_hash
from cora.data.transforms import AugmentConfig, TrainTransform
from cora.detector import Detector, check_no_variant
from cora.detector.fingerprint import weights_fingerprint
from cora.errors import TrainingError
from cora.images import read_image
from cora.structures import ImageBatch, Targets
from cora.towers import resnet_of
from cora.towers.weights import load_checked
from cora.training.alignment import refit_alignment
from cora.training.distill_task import CoraTeacher, DistillConfig, DistillTask, Lexicon
from cora.training.ema import Ema
from cora.training.identity import seed_stage
from cora.training.loop import TrainResult, train
from cora.training.optim import OptimizerConfig, ScheduleConfig, build_adamw, build_schedule

ToBatch = Callable[[Sequence[Image.Image]], ImageBatch]


@dataclass(frozen=True, kw_only=True)
class DistillRun:
    """Length and optimiser of the run; `DistillConfig` says what is distilled.

    Attributes:
        epochs: passes over the images.
        batch: images a step.
        lr: learning rate of AdamW, which falls along a cosine.
        weight_decay: of AdamW.
        grad_clip: bound on the norm of the gradient.
        ema: decay of the moving average of the weights, which is the result.
        crop: share of the images that is cropped; half of all is mirrored.
        seed: of everything drawn at random.
        workers: processes that read images; 0 reads in the training process.
    """

    epochs: int = 10
    batch: int = 4
    lr: float = 5e-4
    weight_decay: float = 1e-2
    grad_clip: float = 1.0
    ema: float = 0.998
    crop: float = 0.5
    seed: int = 0
    workers: int = 0


class PhotoFolder(Dataset[tuple[Image.Image, Targets]]):
    """A dataset of image files; its items are (image, targets without boxes).

    Args:
        paths: at least one.

    Raises:
        TrainingError: no image.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        if not paths:
            raise TrainingError("expected images to distil on, got none; name a folder with some")
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, Targets]:
        nothing = Targets(boxes_cxcywh=torch.zeros(0, 4), classes=torch.zeros(0, dtype=torch.int64))
        return read_image(self.paths[index]), nothing


class BothCollate:
    """Images -> (batch of the student, batch of the teacher), each resized by its model's preprocessor."""

    def __init__(self, *, student: ToBatch, teacher: ToBatch) -> None:
        self.student, self.teacher = student, teacher

    def __call__(self, items: Sequence[tuple[Image.Image, Targets]]) -> tuple[ImageBatch, ImageBatch]:
        """The same images as a batch of the student's size and one of the teacher's."""
        pictures = [picture for picture, _ in items]
        return self.student(pictures), self.teacher(pictures)


def new_student(teacher: Detector, sizes: Architecture, *, seed: int = 0) -> Detector:
    """A student of these sizes with the teacher's text tower and classes, and random weights elsewhere.

    Its embedding width is the teacher's, so both speak of classes in one space.

    Raises:
        ModelError: the teacher's tower has no such sizes.
    """
    resnet_of(teacher.image_tower, "a student of other sizes")
    check_no_variant(teacher.config, "distillation")
    seed_stage(seed, "student")
    student = Detector.build(sizes.configure(teacher.config), cache_dir=teacher.vocabulary_encoder.cache_dir)
    load_checked(student.text_tower, teacher.text_tower.state_dict(), source="the teacher's text tower")
    student.vocabulary_encoder.templates = teacher.vocabulary_encoder.templates
    student.learn_text(teacher.learned_text)
    student.precision = teacher.precision
    return student.to(teacher.device)


def distill(
    *,
    student: Detector,
    teacher: Detector,
    localizes: bool,
    paths: Sequence[Path],
    names: Sequence[str],
    run_dir: Path,
    config: DistillConfig | None = None,
    run: DistillRun | None = None,
    measure: Callable[[Detector], dict[str, float]] | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train the student in place on images without labels. Resumes if `run_dir` has a checkpoint.

    Args:
        student: any detector; its vocabulary may be of another width than the teacher's.
        teacher: stays bit-identical.
        localizes: whether the teacher's boxes are worth learning.
        paths: of the images.
        names: classes whose probabilities are distilled; more of them say more.
        run_dir: folder of the run.
        config: what is distilled.
        run: how long.
        measure: numbers of the student after every epoch, for the metrics.
        progress: show a bar on a terminal.

    Raises:
        TrainingError: no image, a run folder of another configuration, a teacher without boxes for a localizer that
            is to learn, a loss that is not finite.
    """
    config, run = config or DistillConfig(), run or DistillRun()
    if config.localizer and not localizes:
        raise TrainingError("expected a teacher whose localizer is trained, got one without; distil the tower alone")
    settings = {
        "student": weights_fingerprint(student),
        "teacher": weights_fingerprint(teacher),
        "names": _hash("\n".join(names)),
        **asdict(config),
    }
    result = fit(
        build_task(student, teacher, names, localizes=localizes, config=config),
        photos=PhotoFolder(paths),
        collate=BothCollate(student=student.preprocessor, teacher=teacher.preprocessor),
        side=max(student.preprocessor.config.short_side, teacher.preprocessor.config.short_side),
        run_dir=run_dir,
        run=run,
        config=settings,
        measure=measure,
        progress=progress,
    )
    if not result.interrupted and config.tower:
        known = student.vocabulary_encoder.encode(names).to(student.device)
        refit_alignment(student, lambda place: read_image(paths[place]), len(paths), known)
    return result


def fit(
    task: DistillTask,
    *,
    photos: PhotoFolder,
    collate: Callable[[Any], Any],
    side: int,
    run_dir: Path,
    run: DistillRun,
    config: Mapping[str, Any],
    measure: Callable[[Detector], dict[str, float]] | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train the student of a task with any teacher; at the end it holds the moving average of its weights.

    Args:
        task: on the student's device.
        photos: images to distil on.
        collate: images -> batch of the task.
        side: short side of the images that `collate` is given, in pixels.
        run_dir: folder of the run.
        run: how long.
        config: what the task is made of; a run folder of another is refused.
        measure: numbers of the student after every epoch, for the metrics.
        progress: show a bar on a terminal.
    """
    student = task.student
    loader: EpochLoader[Any] = EpochLoader(
        dataset=AugmentedDataset(dataset=photos, transform=_transform(side, run.crop), seed=run.seed),
        batch_size=run.batch,
        collate=collate,
        seed=run.seed,
        workers=run.workers,
    )
    seed_stage(run.seed, "distill")
    task.to(student.device)
    optimiser = build_adamw(task, OptimizerConfig(lr=run.lr, weight_decay=run.weight_decay, decay_vectors=False))
    steps = run.epochs * len(loader)
    schedule = ScheduleConfig(kind="cosine", warmup_steps=min(50, steps // 10), total_steps=steps, final_factor=0.02)
    average = Ema(task, decay=run.ema)
    settings = {name: value for name, value in asdict(run).items() if name != "workers"}
    result = train(
        task,
        loader,
        optimiser,
        build_schedule(optimiser, schedule),
        epochs=run.epochs,
        run_dir=run_dir,
        ema=average,
        grad_clip=run.grad_clip,
        on_epoch_end=None if measure is None else lambda _epoch, _task: measure(student),
        config={
            **config,
            **settings,
            "photos": _hash("\n".join(path.name for path in photos.paths)),
            "images": files_hash(photos.paths),
            "about images": f"{len(photos.paths)} files",
        },
        progress=progress,
        log_steps=10,
    )
    if not result.interrupted:
        average.apply_to(task)
    student.requires_grad_(False)
    student.eval()
    return result


def build_task(
    student: Detector, teacher: Detector, names: Sequence[str], *, localizes: bool, config: DistillConfig
) -> DistillTask:
    """The task in which one detector teaches another with class names."""
    known = teacher.vocabulary_encoder.encode(names).to(teacher.device)
    own = student.vocabulary_encoder.encode(names).to(student.device).embeddings
    guide = CoraTeacher(
        detector=teacher,
        vocabulary=known,
        student_embeddings=own,
        localizes=localizes and config.localizer,
        least_objectness=config.least_objectness,
    )
    return DistillTask(student=student, teacher=guide, lexicons={"names": Lexicon(own)}, config=config)


def _transform(side: int, crop: float) -> TrainTransform:
    """Mirrors and crops images, at this short side in pixels; each model resizes them to its own."""
    return TrainTransform(
        config=AugmentConfig(
            short_sides=(side,),
            long_side=side * 5 // 3,
            crop=crop,
            crop_short_sides=(side, side * 5 // 4),
            crop_sides=(side * 3 // 4, side * 6 // 5),
        )
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
