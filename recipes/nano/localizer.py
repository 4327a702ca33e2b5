"""Trains nano's localizer on cached maps.

Command: python recipes/nano/localizer.py --start runs/nano/nano_names.safetensors --maps runs/nano/maps_nano \\
    --kit ../shared/kit --voc VOC --nyu NYU --minutes 9 --run runs/nano/localizer_nano \\
    --output runs/nano/nano.safetensors
The strict model: the same with the files of `ovcoco` and `--strict`, first with `--part proposals`, then, when its box
stages have learned (`boxes.py`) and its maps are made anew, with `--part decoder`.

nano's proposals stay NanoDet's boxes, so its decoder alone learns: to refine them, and to say of an object of another
class than the query's that it is none. The strict model's neck and proposals learn first (`ProposalTask`); its decoder
learns on what they propose. A batch comes from one data set, whose names are the vocabulary; a third
of the steps know a few of them only. After a stop it goes on from what was last saved. Every few minutes the log says
how many boxes of the base classes of held-out images the strict model's anchors hold.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from loop import Drawn, Training
from maps import collate, views_of
from sources import Source, base_only, everything
from torch import Tensor

from cora.boxes import cxcywh_to_xyxy, pairwise_iou
from cora.detector import Detector, load
from cora.structures import FeatureMap
from cora.towers import TimmTower
from cora.training.frozen_maps import TaskBatch
from cora.training.localizer_task import LocalizerTask, LocalizerTaskConfig
from cora.training.proposal_task import ProposalTask

#: Chance of a data set in a step.
MIX = {"coco": 0.66, "nyu": 0.17, "voc": 0.17}
STRICT_MIX = {"coco": 0.85, "voc": 0.15}
#: Images of a step; held-out images that the recall is measured on.
BATCH, RECALL_IMAGES = 8, 80

Step = Callable[[str, TaskBatch], dict[str, Tensor]]


def drawn_images(sources: list[Source], size: int) -> list[Source]:
    """Images of a batch, all of the shape of the first, lying or standing, so that little is padded."""
    first = random.choice(sources)
    alike = [one for one in sources if (one.aspect >= 1) == (first.aspect >= 1)]
    return random.sample(alike, min(size, len(alike)))


@torch.no_grad()
def recall(detector: Detector, sources: list[Source], map_of: Callable[[Source], FeatureMap]) -> str:
    """Share of the boxes of images that an anchor holds at IoU 0.5; `map_of` gives an image's packed map."""
    detector.localizer.eval()
    found = []
    for source in sources:
        anchors = cxcywh_to_xyxy(detector.anchors(detector.encode_map(map_of(source)))[0])
        if len(source.labels):
            found.append(pairwise_iou(source.boxes_xyxy, anchors).amax(1) >= 0.5)
    detector.localizer.train()
    return f"recall {100 * float(torch.cat(found).float().mean()):.1f} %"


def decoder_step(detector: Detector, data: dict[str, list[Source]]) -> Step:
    """Steps of a localizer task for each data set, often with a few of its names only."""
    config = LocalizerTaskConfig(class_dropout=0.3, proposals=False)
    encode = detector.vocabulary_encoder.encode
    tasks = {
        name: LocalizerTask(detector=detector, vocabulary=encode(list(sources[0].names)), config=config)
        for name, sources in data.items()
    }

    def step(name: str, batch: TaskBatch) -> dict[str, Tensor]:
        task = tasks[name].train()
        count = len(task.class_embeddings)
        few = random.choice([None, None, random.randint(4, max(5, count // 3))])
        task.config = replace(config, classes_per_step=few)
        losses: dict[str, Tensor] = task(batch)
        return losses

    return step


def train(detector: Detector, data: dict[str, list[Source]], choice: list[Source], options: argparse.Namespace) -> None:
    """Proposals or decoder of the strict model, or nano's decoder."""
    mix = STRICT_MIX if options.strict else MIX
    localizer = detector.localizer
    localizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast in bfloat16
    # The strict model has few boxes to learn from; nano's maps hold more than what mirrors or windows of them would.
    layout = detector.image_tower.layout if options.strict and isinstance(detector.image_tower, TimmTower) else None

    def draw() -> Drawn:
        name = random.choices(list(mix), list(mix.values()))[0]
        c3, targets = collate(options.maps, drawn_images(data[name], BATCH), layout)
        return name, (c3, c3, targets)

    if options.part == "proposals":
        task = ProposalTask(detector=detector, mixed_precision=True).train()
        check = partial(recall, detector, choice[:RECALL_IMAGES], lambda one: collate(options.maps, [one])[0])
        Training({localizer: 1e-3}, draw=draw, step=lambda _, batch: task(batch), folder=options.run, check=check).run(
            options.minutes
        )
    else:
        step = decoder_step(detector, data)
        Training({localizer: 3e-4}, draw=draw, step=step, folder=options.run).run(options.minutes)
    detector.eval().save(options.output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("start", "maps", "kit", "run", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--voc", type=Path)
    parser.add_argument("--nyu", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--part", choices=("proposals", "decoder"), default="decoder")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    random.seed(0)
    groups = base_only(chosen.kit) if chosen.strict else everything(chosen.kit, chosen.voc, chosen.nyu)
    data_sets = {name: groups[name] for name in (STRICT_MIX if chosen.strict else MIX)}
    if chosen.strict:
        data_sets = {name: [view for one in images for view in views_of(one)] for name, images in data_sets.items()}
    train(load(chosen.start), data_sets, groups["choice"], chosen)
