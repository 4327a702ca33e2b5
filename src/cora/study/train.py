"""Training of a study: only the head and the image encoder learn, the rest is frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from cora.data.coco import CocoDataset
from cora.data.feature_cache import FeatureBatch, build_feature_cache, collate_features
from cora.data.fingerprint import about_data
from cora.data.loader import EpochLoader
from cora.data.transforms import AugmentConfig, TrainTransform
from cora.errors import DataError, TrainingError
from cora.regions import Vocabulary
from cora.structures import ImageBatch, Targets
from cora.study.artefact import TrainedStudy
from cora.study.build import FrozenPart, build_model
from cora.study.cam import CamTower, FrozenMaps
from cora.study.config import LossPart, StudyConfig
from cora.study.loss import study_loss
from cora.study.model import StudyModel
from cora.training.identity import seed_stage
from cora.training.loop import TrainResult, train
from cora.training.optim import OptimizerConfig, ScheduleConfig, build_adamw, build_schedule

#: The parts that learn.
LEARNS = ("model.image_encoder.", "model.head.")
CACHE = "maps"
#: Share of images that are cropped, and the least visible share of a box that is kept.
_CROPPED, _VISIBLE = 0.5, 0.3

#: Images, or cached maps of the frozen part, each with the targets.
StudyBatch = tuple[ImageBatch, tuple[Targets, ...]] | FeatureBatch


class Stretch:
    """Resizes images to one size, whatever their aspect ratio, after an augmentation.

    Boxes do not change, since they are fractions of the image.

    Args:
        size_hw: (height, width) in pixels.
        augment: changes an image and its boxes first; None for no augmentation.
    """

    def __init__(self, *, size_hw: tuple[int, int], augment: TrainTransform | None = None) -> None:
        self.size_hw, self.augment = size_hw, augment

    def __repr__(self) -> str:
        return f"Stretch({self.size_hw}, {self.augment!r})"

    def __call__(self, image: Image.Image, targets: Targets) -> tuple[Image.Image, Targets]:
        """The image at `size_hw`, with the targets of the augmentation."""
        if self.augment is not None:
            image, targets = self.augment(image, targets)
        height, width = self.size_hw
        return image.resize((width, height), Image.Resampling.BILINEAR), targets


class StudyTask(nn.Module):
    """Maps a batch to the losses of a study, for `cora.training.loop`.

    Args:
        cam_tower: frozen.
        model: what learns.
        loss: weights, radius, threshold.

    Raises:
        TrainingError: something other than head and image encoder would learn.
    """

    def __init__(self, *, cam_tower: CamTower, model: StudyModel, loss: LossPart) -> None:
        super().__init__()
        self.cam_tower, self.model, self.loss = cam_tower, model, loss
        assert_only_study_learns(self)

    def forward(self, batch: StudyBatch) -> dict[str, Tensor]:
        """Losses of the batch's ground-truth boxes, each in its own class's channel."""
        pixels, maps, targets = self._inputs(batch)
        device = pixels.device
        images = torch.cat([torch.full_like(one.classes, row) for row, one in enumerate(targets)]).to(device)
        labels = torch.cat([one.classes for one in targets]).to(device)
        if not len(labels):
            zero = pixels.new_zeros(())
            return dict.fromkeys(("loss", "l1", "giou", "best_iou", "cells"), zero)
        # The boxes of a class in an image are computed once, for all objects of the class.
        channels, of_box = torch.stack([images, labels], dim=1).unique(dim=0, return_inverse=True)
        boxes = self.model.of_classes(pixels, maps, channels[:, 0], channels[:, 1])
        return study_loss(boxes[of_box], torch.cat([one.boxes_cxcywh for one in targets]).to(device), self.loss)

    def _inputs(self, batch: StudyBatch) -> tuple[Tensor, FrozenMaps, tuple[Targets, ...]]:
        if isinstance(batch[0], ImageBatch):
            return batch[0].pixels, self.cam_tower(batch[0].pixels), batch[-1]
        assert len(batch) == 3
        joined, pixels, targets = batch
        return pixels.features, self.cam_tower.split(joined.features), targets


def assert_only_study_learns(task: nn.Module) -> None:
    """Raise TrainingError unless every parameter of head and image encoder learns, and no other."""
    wrong = [name for name, value in task.named_parameters() if value.requires_grad != name.startswith(LEARNS)]
    if wrong:
        raise TrainingError(
            f"study: expected head and image encoder to learn and nothing else, got {len(wrong)} parameters otherwise, "
            f"such as {wrong[0]}"
        )


def train_study(
    *,
    config: StudyConfig,
    frozen: FrozenPart,
    dataset: CocoDataset,
    run_dir: Path,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
    progress: bool = True,
    tensorboard: bool = True,
) -> tuple[TrainedStudy, TrainResult]:
    """Train on the boxes of a dataset. Resumes if `run_dir` has a checkpoint.

    The frozen part's maps are computed once into `run_dir/maps`.

    Args:
        config: of the study.
        frozen: its tower, as `build_frozen` gives it.
        dataset: images and boxes; its classes are the vocabulary.
        run_dir: checkpoint, metrics, maps.
        device: where to compute.
        on_progress: called with (images done, in all) while the maps are made.
        progress: as for `cora.training.loop.train`.
        tensorboard: as for `cora.training.loop.train`.

    Raises:
        DataError: no box, or maps that take more room than allowed.
        TrainingError: a run folder of another study, or a loss that is not finite.
    """
    settings = config.train
    frozen.check(config.tower.image_size)
    seed_stage(settings.seed, "study")
    cam_tower = cam_tower_of(frozen, dataset.class_names).to(device)
    model = build_model(
        config.model, feature_width=frozen.tower.feature_width, seed=settings.seed, prior_wh=mean_size(dataset)
    )
    task = StudyTask(cam_tower=cam_tower, model=model.to(device), loss=config.loss)
    cache = build_feature_cache(
        dataset=dataset,
        transform=Stretch(size_hw=config.tower.image_size, augment=_augment(config)),
        tower=cam_tower,
        to_batch=frozen.preprocessor.collate,
        folder=run_dir / CACHE,
        versions=settings.versions,
        seed=settings.seed,
        max_gigabytes=settings.max_gigabytes,
        device=device,
        workers=settings.workers,
        on_progress=on_progress,
    )
    loader = EpochLoader(
        dataset=cache,
        batch_size=settings.batch,
        collate=collate_features,
        seed=settings.seed,
        workers=settings.workers,
    )
    optimiser = build_adamw(task, OptimizerConfig(lr=settings.lr, weight_decay=settings.weight_decay))
    steps = settings.epochs * len(loader)
    warmup = min(settings.warmup_steps, steps // 10)
    schedule = build_schedule(optimiser, ScheduleConfig(kind="cosine", warmup_steps=warmup, total_steps=steps))
    result = train(
        task,
        loader,
        optimiser,
        schedule,
        epochs=settings.epochs,
        run_dir=run_dir,
        grad_clip=settings.grad_clip,
        config=_identity(config, dataset),
        progress=progress,
        tensorboard=tensorboard,
    )
    return TrainedStudy(config=config, model=model.eval(), class_names=dataset.class_names), result


def _identity(config: StudyConfig, dataset: CocoDataset) -> dict[str, Any]:
    """Settings that identify a run, without those that do not change its result."""
    content = config.to_dict()
    for name in ("workers", "max_gigabytes"):
        del content["train"][name]
    return {**content, **about_data(dataset)}


def cam_tower_of(frozen: FrozenPart, class_names: tuple[str, ...]) -> CamTower:
    """The frozen part with the embeddings of these classes."""
    vocabulary: Vocabulary = frozen.vocabulary_encoder.encode(class_names)
    return CamTower.of_vocabulary(frozen.tower, frozen.vocabulary_encoder, vocabulary)


def mean_size(dataset: CocoDataset) -> tuple[float, float]:
    """Geometric mean of the boxes' widths and heights, 0..1 of their images.

    Raises:
        DataError: no box.
    """
    sizes = [
        (record.boxes_xyxy_px[:, 2:] - record.boxes_xyxy_px[:, :2]) / torch.tensor(record.size[::-1])
        for record in dataset.records
    ]
    joined = torch.cat([torch.zeros(0, 2), *sizes])
    if not len(joined):
        raise DataError(f"{dataset.annotations}: expected boxes to learn from, got none in {len(dataset)} images")
    width, height = joined.double().log().mean(dim=0).exp().tolist()
    return width, height


def _augment(config: StudyConfig) -> TrainTransform:
    """Flips, and crops at about the study's resolution; `Stretch` then resizes to its size."""
    side = min(config.tower.image_size)
    return TrainTransform(
        config=AugmentConfig(
            short_sides=(side,),
            long_side=4 * side,
            crop=_CROPPED,
            crop_short_sides=(round(1.3 * side),),
            crop_sides=(round(0.8 * side), round(1.6 * side)),
            min_box_side=2.0,
            min_visible=_VISIBLE,
        )
    )
