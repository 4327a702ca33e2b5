"""Trains nano's localizer on cached maps.

Command: python recipes/nano/localizer.py --start runs/nano/nano_names.safetensors --maps runs/nano/maps_nano \\
    --kit ../shared/kit --voc VOC --nyu NYU --minutes 9 --run runs/nano/localizer_nano \\
    --output runs/nano/nano.safetensors
The strict model: the same with the files of `ovcoco`, `--strict --minutes 56`.

nano's proposals stay NanoDet's boxes, so its decoder alone learns: to refine them, and to say of an object of another
class than the query's that it is none. The strict model's neck and proposals learn first, for half of the time
(`ProposalTask`), then its decoder, for its scores, on what they propose. A batch comes from one data set, whose names
are the vocabulary; a third of the steps know a few of them only. After a stop it goes on from what was last saved.
Every few minutes the log says how many boxes of the base classes of held-out images the strict model's anchors hold.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from maps import collate, views_of
from sources import Source, base_only, everything
from torch import Tensor

from cora.boxes import cxcywh_to_xyxy, pairwise_iou
from cora.detector import Detector, load
from cora.files import write_whole
from cora.pyramid import PyramidLayout
from cora.towers import TimmTower
from cora.training.ema import Ema
from cora.training.localizer_task import LocalizerBatch, LocalizerTask, LocalizerTaskConfig
from cora.training.proposal_task import ProposalTask

#: Chance of a data set in a step.
MIX = {"coco": 0.66, "nyu": 0.17, "voc": 0.17}
STRICT_MIX = {"coco": 0.85, "voc": 0.15}
#: Share of the strict model's time for its proposals.
PROPOSAL_SHARE, SAVE_EVERY_S = 0.5, 60.0
RECALL_EVERY_S, RECALL_IMAGES = 240.0, 80

Step = Callable[[str, LocalizerBatch], dict[str, Tensor]]


class DecoderTask(LocalizerTask):
    """`LocalizerTask` without losses of the proposals, which stay as they are."""

    def _proposal_losses(self, memory: object, targets: object) -> dict[str, Tensor]:
        return {}


class Training:
    """One phase: a step function, an optimiser, a moving average, and where they are kept."""

    def __init__(
        self,
        detector: Detector,
        step: Step,
        rate: float,
        folder: Path,
        layout: PyramidLayout | None,
        check: Callable[[], float] | None = None,
    ) -> None:
        self.layout, self.check = layout, check
        self.localizer, self.step, self.rate, self.folder = detector.localizer, step, rate, folder
        self.learned = [value for value in self.localizer.parameters() if value.requires_grad]
        self.optimiser = torch.optim.AdamW(self.learned, lr=rate, weight_decay=1e-3)
        self.ema = Ema(self.localizer, decay=0.997)
        self.spent, self.steps = 0.0, 0

    def run(self, minutes: float, data: dict[str, list[Source]], mix: dict[str, float], maps: Path, size: int) -> None:
        """Train until `minutes` are spent in all, sessions before this one included."""
        self._resume()
        saved = checked = begun = time.monotonic()
        before = self.spent
        while (progress := self.spent / (60 * minutes)) < 1:
            warm = min(1.0, (self.steps + 1) / 100)
            cooled = 1.0 if progress < 0.5 else max(0.02, 0.5 * (1 + float(np.cos(np.pi * (2 * progress - 1)))))
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate * warm * cooled
            name = random.choices(list(mix), list(mix.values()))[0]
            c3, targets = collate(maps, drawn_images(data[name], size), self.layout)
            losses = self.step(name, (c3, c3, targets))
            self.optimiser.zero_grad()
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(self.learned, 0.5)
            self.optimiser.step()
            self.ema.update(self.localizer)
            self.steps, self.spent = self.steps + 1, before + time.monotonic() - begun
            if self.steps % 50 == 0:
                print(
                    f"{self.folder.name} {self.steps}, {self.spent / 60:.1f} min: {float(losses['loss'].detach()):.3f}",
                    flush=True,
                )
            if time.monotonic() - saved > SAVE_EVERY_S:
                self._save()
                saved = time.monotonic()
            if self.check is not None and time.monotonic() - checked > RECALL_EVERY_S:
                self._report()
                checked = time.monotonic()
        self._save()
        self._report()

    def _report(self) -> None:
        if self.check is not None:
            with self.ema.swapped(self.localizer):
                print(f"{self.folder.name} {self.spent / 60:.1f} min: recall {100 * self.check():.1f} %", flush=True)

    def _save(self) -> None:
        state = {"optimiser": self.optimiser.state_dict(), "ema": self.ema.state_dict(), "steps": self.steps}
        state |= {"localizer": self.localizer.state_dict(), "spent": self.spent}
        write_whole(self.folder / "last.pt", lambda file: torch.save(state, file), temporary=self.folder / "last.part")

    def _resume(self) -> None:
        if (file := self.folder / "last.pt").exists():
            state = torch.load(file, weights_only=True)
            self.localizer.load_state_dict(state["localizer"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.ema.load_state_dict(state["ema"])
            self.steps, self.spent = state["steps"], state["spent"]


def drawn_images(sources: list[Source], size: int) -> list[Source]:
    """Images of a batch, all of the shape of the first, lying or standing, so that little is padded."""
    first = random.choice(sources)
    alike = [one for one in sources if (one.aspect >= 1) == (first.aspect >= 1)]
    return random.sample(alike, min(size, len(alike)))


@torch.no_grad()
def recall(detector: Detector, sources: list[Source], maps: Path) -> float:
    """Share 0..1 of boxes that an anchor holds at IoU 0.5."""
    detector.localizer.eval()
    found = []
    for source in sources:
        c3, _ = collate(maps, [source])
        anchors = cxcywh_to_xyxy(detector.anchors(detector.encode_map(c3))[0])
        if len(source.labels):
            found.append(pairwise_iou(source.boxes_xyxy, anchors).amax(1) >= 0.5)
    detector.localizer.train()
    return float(torch.cat(found).float().mean())


def decoder_step(detector: Detector, data: dict[str, list[Source]]) -> Step:
    """Steps of a localizer task for each data set, often with a few of its names only."""
    config = LocalizerTaskConfig(class_dropout=0.3, target_repeats=1)
    encode = detector.vocabulary_encoder.encode
    tasks = {
        name: DecoderTask(detector=detector, vocabulary=encode(list(sources[0].names)), config=config)
        for name, sources in data.items()
    }

    def step(name: str, batch: LocalizerBatch) -> dict[str, Tensor]:
        task = tasks[name].train()
        count = len(task.class_embeddings)
        few = random.choice([None, None, random.randint(4, max(5, count // 3))])
        task.config = replace(config, classes_per_step=few)
        losses: dict[str, Tensor] = task(batch)
        return losses

    return step


@torch.no_grad()
def keep_boxes(detector: Detector) -> None:
    """Let the decoder score boxes and not move them: on held-out images what it learned of that did harm."""
    for head in detector.localizer.decoder.box_heads:
        head.layers[-1].weight.zero_()  # type: ignore[index, operator, union-attr]
        head.layers[-1].bias.zero_()  # type: ignore[index, operator, union-attr]


def train(detector: Detector, data: dict[str, list[Source]], choice: list[Source], options: argparse.Namespace) -> None:
    """Both phases of the strict model, or nano's one."""
    mix = STRICT_MIX if options.strict else MIX
    minutes = options.minutes
    detector.localizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast in bfloat16
    # The strict model has few boxes to learn from; nano's maps hold more than what mirrors or windows of them would.
    layout = detector.image_tower.layout if options.strict and isinstance(detector.image_tower, TimmTower) else None
    check = (lambda: recall(detector, choice[:RECALL_IMAGES], options.maps)) if options.strict else None
    if options.strict:
        task = ProposalTask(detector=detector, mixed_precision=True).train()
        proposals = Training(detector, lambda name, batch: task(batch), 1e-3, options.run / "proposals", layout, check)
        proposals.run(minutes * PROPOSAL_SHARE, data, mix, options.maps, 8)
        proposals.ema.apply_to(detector.localizer)
        minutes *= 1 - PROPOSAL_SHARE
    step = decoder_step(detector, data)
    detector.localizer.proposals.requires_grad_(False)  # type: ignore[union-attr]
    if options.strict:
        detector.localizer.encoder.requires_grad_(False)
    decoder = Training(detector, step, 3e-4, options.run / "decoder", layout)
    decoder.run(minutes, data, mix, options.maps, 8)
    decoder.ema.apply_to(detector.localizer)
    if options.strict:
        keep_boxes(detector)
    detector.eval().save(options.output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("start", "maps", "kit", "run", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--voc", type=Path)
    parser.add_argument("--nyu", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--strict", action="store_true")
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
