"""Distil nano's image tower: whole scenes, MobileNetV2 in the loop, the names as nano's own text tower says them.

    torchrun --nproc-per-node 2 recipes/nano/image_tower.py --kit ../shared/kit \\
        --text runs/nano/text_tower.safetensors --basic-names runs/nano/basic_names.json --out runs/nano/tower

Two stages (STAGES), both on windows of photos and mosaics of single-object photos, at the scale of detection:
1. maps: regression of the teacher's standardised maps at strides 4, 8, 16 and 32, cell for cell. Every cell of every
   scene is a sample, so the tower learns to see long before it learns to name;
2. regions, the maps going on: layer4 on regions pooled from C3, as the detector will ask it, meets what the teacher
   says of them: its stride-32 map pooled from the whole scene, not a crop of its own. The losses:
     KL to the teacher's ImageNet distribution through cosines with the names' embeddings
     + the same over basic-level names (all breeds are "dog", see basic_names.py)
     + cosine to the mean of the embeddings of the teacher's ten best classes (ConSE, Norouzi et al. 2014)
     + losses of the localizer's anchor proposals on the base boxes of a scene.
The run resumes from its last checkpoint, with one process or several.

On a CPU, one process of one thread per core trains 1.5 times as many scenes a second as one process of two threads,
and glibc must not hand memory back after every step (page faults took 2/3 of the time): set
MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from own_names import own_names
from photos import PhotoPool
from scenes import SceneBatch, scene_batches
from student import GRID, StudentTower
from teacher import MobileNetV2Teacher, pool_stride32
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from cora.structures import Targets as Objects
from cora.training.proposal_loss import proposal_losses


@dataclass(frozen=True)
class Stage:
    """`minutes` of training on `batch` scenes of about `side` pixels, `regions` of each pooled from C3 (0: none)."""

    minutes: float
    side: int
    batch: int
    regions: int = 0


STAGES = (
    Stage(25, side=256, batch=12),
    Stage(100, side=320, batch=8, regions=16),
)
CANDIDATES = 48  # a scene; the teacher chooses among them


class Targets:
    """Text embeddings and the running standardisation of the teacher's maps."""

    def __init__(self, space: dict[str, Tensor], basic_names: Path) -> None:
        basic = json.loads(basic_names.read_text())
        self.basic = torch.stack([space[kind][i] for kind, i in basic["places"]])
        self.group_of = F.one_hot(torch.tensor(basic["group_of"]), len(self.basic)).float()
        self.imagenet = space["imagenet"]
        self.stats: list[tuple[Tensor, Tensor]] = []

    def conse(self, logits: Tensor) -> Tensor:
        """Unit embeddings [n, 512]: the mean of the ten best classes' text embeddings, weighted by probability."""
        best = logits.softmax(-1).topk(10)
        return F.normalize((best.values[..., None] * self.imagenet[best.indices]).sum(1), dim=-1)

    def standardise(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps [n, channels, h, w] with the mean and deviation of the first batch."""
        if not self.stats:
            self.stats = [
                (m.mean((0, 2, 3), keepdim=True), m.std((0, 2, 3), keepdim=True).clamp_min(0.2)) for m in maps
            ]
        return [self.standardised(m, level) for level, m in enumerate(maps)]

    def standardised(self, features: Tensor, level: int) -> Tensor:
        mean, std = self.stats[level]
        return ((features - mean) / std).clamp(-6, 6)


def hint_losses(student: StudentTower, maps: list[Tensor], goals: list[Tensor]) -> dict[str, Tensor]:
    """Share of the variance of the teacher's standardised maps that the student's do not explain, a stride."""
    result = {}
    for name, adapter, hint, goal in zip(("h4", "h8", "h16", "h32"), student.to_teacher, maps, goals, strict=True):
        result[name] = F.mse_loss(adapter(hint).float(), goal)
    return result


def naming_losses(
    student: StudentTower, embedding: Tensor, teacher_logits: Tensor, targets: Targets
) -> dict[str, Tensor]:
    """KL over ImageNet's and over basic names, cosine to the ConSE target."""
    scale = student.logit_scale.exp().clamp(max=50)
    log_q = F.log_softmax(scale * embedding @ targets.imagenet.T, -1)
    log_p = F.log_softmax(teacher_logits, -1)
    result = {"kl": F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")}
    log_basic = F.log_softmax(scale * embedding @ targets.basic.T, -1)
    basic_p = (log_p.exp() @ targets.group_of).clamp_min(1e-8).log()
    result["basic"] = F.kl_div(log_basic, basic_p, log_target=True, reduction="batchmean")
    result["conse"] = 1 - (embedding * targets.conse(teacher_logits)).sum(-1).mean()
    return result


WEIGHTS = {"kl": 0.5, "basic": 1.0, "conse": 5.0, "boxes": 1.0}
WEIGHTS |= {"h4": 1.0, "h8": 2.0, "h16": 4.0, "h32": 2.0, "r32": 2.0}


def newton_schulz(g: Tensor, steps: int = 5) -> Tensor:
    """Orthogonalise a matrix in bfloat16 by the quintic Newton-Schulz iteration of Muon (Jordan et al. 2024)."""
    x = g.bfloat16()
    x = x.T if g.shape[0] > g.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if g.shape[0] > g.shape[1] else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz for matrices and convolution kernels; lr is relative to AdamW's."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:  # type: ignore[no-untyped-def]
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                buffer = self.state[p].get("buffer")
                if buffer is None:
                    buffer = self.state[p]["buffer"] = torch.zeros_like(p)
                buffer.lerp_(p.grad, 1 - group["momentum"])
                g = p.grad.lerp(buffer, group["momentum"]).flatten(1)
                update = newton_schulz(g) * 0.2 * max(g.shape) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.view_as(p), alpha=-group["lr"])


def build_optimisers(student: StudentTower, name: str, lr: float) -> list[torch.optim.Optimizer]:
    params = [p for p in student.parameters() if p.requires_grad]
    if name == "adamw":
        decay, rest = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=lr)]
    # The attention pool is 1024 wide: orthogonalising it would cost more than the step it improves.
    heads = {id(p) for p in (*student.to_teacher.parameters(), *student.visual.attnpool.parameters())}
    heads |= {id(p) for p in student.localizer.parameters()}
    matrices = [p for p in params if p.ndim > 1 and id(p) not in heads]
    rest = [p for p in params if p.ndim <= 1 or id(p) in heads]
    return [Muon(matrices, lr=lr, weight_decay=0.02), torch.optim.AdamW(rest, lr=lr, weight_decay=0.0)]


class Lesson(NamedTuple):
    """Boxes [k, 4] a scene, the teacher's standardised maps [n, 1280, 4, 4], logits [n, 1000]."""

    boxes: list[Tensor]
    maps: Tensor
    logits: Tensor


class Trainer:
    """Student, its running average, the optimisers and the clock; saved and restored as one."""

    def __init__(self, args: argparse.Namespace) -> None:
        kit = args.kit
        self.args = args
        self.run: Path = args.run
        self.run.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        self.pool = PhotoPool(kit)
        names = json.loads((kit / "clip_rn50_text" / "names.json").read_text())
        space = own_names(args.text, {group: names[group] for group in ("coco", "lvis", "imagenet")})
        self.targets = Targets(space, args.basic_names)
        self.teacher = MobileNetV2Teacher(kit / "imagenet_teacher" / "mobilenet_v2_1.0_224_quant.tflite")
        self.teacher.to(memory_format=torch.channels_last)
        self.student = StudentTower().to(memory_format=torch.channels_last)
        self.average = deepcopy(self.student).requires_grad_(False).eval()
        self.optimisers = build_optimisers(self.student, args.optimiser, args.lr)
        self.clock, self.step, self.scenes = 0.0, 0, 0
        self.distributed = distributed.is_initialized()
        self.rank = distributed.get_rank() if self.distributed else 0
        self.world = distributed.get_world_size() if self.distributed else 1
        if (self.run / "last.pt").exists():
            self.load()

    def load(self) -> None:
        state = torch.load(self.run / "last.pt", weights_only=True)
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.clock, self.step, self.scenes = state["clock"], state["step"], state["scenes"]
        self.targets.stats = [(mean, std) for mean, std in state["stats"]]

    def save(self) -> None:
        if self.rank > 0:
            return
        state = {
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "clock": self.clock,
            "step": self.step,
            "scenes": self.scenes,
            "stats": self.targets.stats,
        }
        torch.save(state, self.run / "last.tmp")
        (self.run / "last.tmp").rename(self.run / "last.pt")

    @torch.no_grad()
    def teach(self, batch: SceneBatch, count: int) -> tuple[list[Tensor], Lesson | None]:
        """The teacher's maps of the scenes, centred as the student's, and what it says of `count` regions a scene."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = self.teacher.maps((batch.scenes * 2 - 1).contiguous(memory_format=torch.channels_last))
        stride32 = maps.stride32.float()
        goals = self.targets.standardise([maps.stride4.float(), maps.stride8.float(), maps.stride16.float(), stride32])
        lesson = self.lesson(batch, stride32, count) if count else None
        # Cell i of stride 32 is centred at pixel 32 i + 23, the student's at 32 i + 15: a quarter of a cell.
        last = F.pad(goals[3], (1, 0, 1, 0), mode="replicate")
        for axis in (2, 3):
            n = last.shape[axis] - 1
            last = 0.75 * last.narrow(axis, 1, n) + 0.25 * last.narrow(axis, 0, n)
        return [*goals[:3], last], lesson

    def lesson(self, batch: SceneBatch, stride32: Tensor, count: int) -> Lesson:
        """Base boxes first, then the windows of which the teacher is surest."""
        maps = pool_stride32(stride32, batch.boxes, GRID)
        logits, shaken = self.teacher.logits(maps.mean((2, 3))), torch.cat(batch.shaken)
        sure = logits.softmax(-1).amax(-1) + 0.3 * torch.rand(len(logits)) + 2.0 * shaken
        boxes, chosen, start = [], [], 0
        for candidates in batch.boxes:
            best = sure[start : start + len(candidates)].topk(count).indices
            boxes.append(candidates[best])
            chosen.append(best + start)
            start += len(candidates)
        places = torch.cat(chosen)
        return Lesson(boxes, self.targets.standardised(maps[places], level=3), logits[places])

    def losses(self, batch: SceneBatch, stage: Stage) -> dict[str, Tensor]:
        goals, lesson = self.teach(batch, stage.regions)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = self.student.maps(batch.scenes.contiguous(memory_format=torch.channels_last))
            result = hint_losses(self.student, list(maps), goals)
            if lesson is None:
                return result
            c4 = self.student.regions(maps.c3, lesson.boxes)
            result["r32"] = F.mse_loss(self.student.to_teacher[3](c4).float(), lesson.maps)
            embedding = self.student.embed(c4)
            result |= naming_losses(self.student, embedding, lesson.logits, self.targets)
            shown = [i for i, objects in enumerate(batch.objects) if objects is not None]
            proposals = self.student.propose(maps.c3[shown])
        objects = [Objects(o, torch.zeros(len(o), dtype=torch.int64)) for o in batch.objects if o is not None]
        found = proposal_losses(proposals, objects)
        return result | {"boxes": found["proposals"], "iou": found["proposal_iou"]}

    def update(self, parts: dict[str, Tensor], rate: float) -> None:
        loss = sum((weight * parts[k] for k, weight in WEIGHTS.items() if k in parts), torch.zeros(()))
        if not torch.isfinite(loss):
            raise RuntimeError(f"loss is not finite at step {self.step}: {parts}")
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad()
        loss.backward()
        self.share_gradients()
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        for optimiser in self.optimisers:
            optimiser.step()
        decay = min(0.998, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.state_dict().values(), self.student.state_dict().values(), strict=True):
                mean.lerp_(value, 1 - decay) if mean.is_floating_point() else mean.copy_(value)

    def share_gradients(self) -> None:
        """Average gradients over the processes; all follow the clock of the first."""
        if not self.distributed:
            return
        grads = [p.grad for p in self.student.parameters() if p.grad is not None]
        clock = torch.tensor([self.clock if self.rank == 0 else 0.0])
        flat = torch.cat([clock, *(g.flatten() for g in grads)])
        distributed.all_reduce(flat)
        self.clock = flat[0].item()
        flat = flat[1:] / distributed.get_world_size()
        for g, mean in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            g.copy_(mean.view_as(g))

    def fit(self) -> None:
        """Run all stages; the clock counts training seconds only, so a stopped run goes on where it was."""
        total, start = 60 * sum(s.minutes for s in STAGES) * self.args.scale, 0.0
        for number, stage in enumerate(STAGES):
            end = start + 60 * stage.minutes * self.args.scale
            if self.clock < end:
                self.run_stage(stage, self.stream(stage, seed=1000 * number + 2 * self.step + self.rank), end, total)
            start = end
        self.save()

    def stream(self, stage: Stage, *, seed: int) -> Iterator[SceneBatch]:
        candidates = CANDIDATES if stage.regions else 4
        return scene_batches(self.pool, side=stage.side, batch=stage.batch, candidates=candidates, seed=seed)

    def run_stage(self, stage: Stage, stream: Iterator[SceneBatch], end: float, total: float) -> None:
        self.student.train()
        sums: dict[str, float] = {}
        saved = logged = self.clock
        steps = 0
        while self.clock < end:
            began = time.monotonic()
            batch = next(stream)
            progress = self.clock / total
            rate = self.args.lr * min(1.0, (self.step + 1) / 100) * (0.495 * (1 + math.cos(math.pi * progress)) + 0.01)
            parts = self.losses(batch, stage)
            self.update(parts, rate)
            self.step, self.scenes, steps = self.step + 1, self.scenes + stage.batch * self.world, steps + 1
            self.clock += time.monotonic() - began
            for k, v in parts.items():
                sums[k] = sums.get(k, 0.0) + v.item()
            if self.clock - logged > 30:
                row = {"minutes": self.clock / 60, "step": self.step, "scenes": self.scenes, "rate": rate}
                row |= {k: round(v / steps, 4) for k, v in sums.items()}
                if self.rank == 0:
                    with (self.run / "metrics.jsonl").open("a") as f:
                        f.write(json.dumps(row) + "\n")
                sums, steps, logged = {}, 0, self.clock
            if self.clock - saved > 180:
                self.save()
                saved = self.clock


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="weights of the text tower")
    parser.add_argument("--basic-names", type=Path, required=True)
    parser.add_argument("--out", dest="run", type=Path, default=Path("runs/nano/tower"))
    parser.add_argument("--optimiser", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the minutes of every stage")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
        os.sched_setaffinity(0, {int(os.environ["RANK"]) % (os.cpu_count() or 1)})
        arguments.threads = 1
    torch.set_num_threads(arguments.threads)
    Trainer(arguments).fit()
