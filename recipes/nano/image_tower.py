"""Distil nano's image tower: crops of the kit's photos, MobileNetV2 in the loop, CLIP RN50's text space.

    torchrun --nproc-per-node 2 recipes/nano/image_tower.py --kit ../shared/kit --text-space runs/nano/text_space.npz \\
        --basic-names runs/nano/basic_names.json --bank runs/nano/bank --out runs/nano/tower

Loss = KL to the teacher's ImageNet distribution through cosines with the centred text embeddings
     + the same over basic-level names (all breeds are "dog", see basic_names.py)
     + cosine to the mean of the text embeddings of the teacher's ten best classes (ConSE, Norouzi et al. 2014)
     + regression of the teacher's standardised maps at strides 4, 8, 16 and 32
     + cross-entropy over base classes where the crop is a base box
     + losses of the localizer's anchor proposals on the base boxes of a scene, so that C3 shows where things end.
Stages (STAGES): small crops with the teacher in the loop, then regions of whole pictures through exact region pooling,
which is what the detector will ask of the tower, with the teacher's answers from a bank (bank.py). With `--start nano`
the crops are left out. The run resumes from its last checkpoint.

On a CPU, one process of one thread per core trains 1.5 times as many crops a second as one process of two threads,
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

import numpy as np
import torch
from bank import Bank
from crops import CropBatch, PhotoPool, crop_batches
from regions import RegionBatch, region_batches
from student import StudentTower
from teacher import MobileNetV2Teacher
from torch import Tensor, distributed, nn
from torch.nn import functional as F

import cora
from cora.structures import Targets as Objects
from cora.training.proposal_loss import proposal_losses


@dataclass(frozen=True)
class Stage:
    """`minutes` of training; `student` and `teacher` are the sides of the same crop in pixels, or of scenes."""

    kind: str
    minutes: float
    student: int
    batch: int
    teacher: int = 0
    mixup: float = 0.0


STAGES = (
    Stage("crops", 28, student=64, batch=128, teacher=128, mixup=0.3),
    Stage("regions", 80, student=320, batch=128),
)


class Targets:
    """Text embeddings and the running standardisation of the teacher's maps."""

    def __init__(self, text_space: Path, basic_names: Path, class_names: list[str], coco_names: list[str]) -> None:
        space = np.load(text_space)
        basic = json.loads(basic_names.read_text())
        self.basic = torch.from_numpy(np.stack([space[kind][i] for kind, i in basic["places"]])).float()
        self.group_of = F.one_hot(torch.tensor(basic["group_of"]), len(self.basic)).float()
        self.imagenet = torch.from_numpy(space["imagenet"]).float()
        coco = torch.from_numpy(space["coco"]).float()
        self.base = coco[[coco_names.index(n) for n in class_names]]
        self.stats: dict[int, list[tuple[Tensor, Tensor]]] = {}  # by the number of maps: crops have 4, regions 1

    def conse(self, logits: Tensor) -> Tensor:
        """Unit embeddings [n, 512]: the mean of the ten best classes' text embeddings, weighted by probability."""
        best = logits.softmax(-1).topk(10)
        return F.normalize((best.values[..., None] * self.imagenet[best.indices]).sum(1), dim=-1)

    def standardise(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps [n, channels, h, w] with the mean and deviation of the first batch that came from this source."""
        if len(maps) not in self.stats:
            self.stats[len(maps)] = [
                (m.mean((0, 2, 3), keepdim=True), m.std((0, 2, 3), keepdim=True).clamp_min(1e-2)) for m in maps
            ]
        return [(m - mean) / std for m, (mean, std) in zip(maps, self.stats[len(maps)], strict=True)]


def losses(
    student: StudentTower,
    embedding: Tensor,
    hints: list[Tensor],
    teacher_maps: list[Tensor],
    teacher_logits: Tensor,
    labels: Tensor,
    targets: Targets,
) -> dict[str, Tensor]:
    """KL, map regression and base cross-entropy of one batch."""
    scale = student.logit_scale.exp().clamp(max=50)
    log_q = F.log_softmax(scale * embedding @ targets.imagenet.T, -1)
    log_p = F.log_softmax(teacher_logits, -1)
    result = {"kl": F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")}
    log_basic = F.log_softmax(scale * embedding @ targets.basic.T, -1)
    basic_p = (log_p.exp() @ targets.group_of).clamp_min(1e-8).log()
    result["basic"] = F.kl_div(log_basic, basic_p, log_target=True, reduction="batchmean")
    result["conse"] = 1 - (embedding * targets.conse(teacher_logits)).sum(-1).mean()
    for name, adapter, hint, goal in zip(
        ("h4", "h8", "h16", "h32")[-len(hints) :],
        student.to_teacher[-len(hints) :],
        hints,
        teacher_maps,
        strict=True,
    ):
        goal = F.adaptive_avg_pool2d(goal, hint.shape[-2:])
        result[name] = F.smooth_l1_loss(adapter(hint).float(), goal)
    named = labels >= 0
    if named.any():
        result["base"] = F.cross_entropy(scale * embedding[named] @ targets.base.T, labels[named])
    return result


WEIGHTS = {"kl": 0.5, "basic": 1.0, "conse": 5.0, "base": 0.3, "boxes": 2.0}
WEIGHTS |= {"h4": 0.5, "h8": 1.0, "h16": 2.0, "h32": 2.0}


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


class Trainer:
    """Student, its running average, the optimisers and the clock; saved and restored as one."""

    def __init__(self, args: argparse.Namespace) -> None:
        kit = args.kit
        self.args = args
        self.run: Path = args.run
        self.run.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        self.pool, self.bank = PhotoPool(kit), Bank.open(args.bank)
        coco_names = json.loads((kit / "clip_rn50_text" / "names.json").read_text())["coco"]
        self.targets = Targets(args.text_space, args.basic_names, self.pool.class_names, coco_names)
        self.teacher = MobileNetV2Teacher(kit / "imagenet_teacher" / "mobilenet_v2_1.0_224_quant.tflite")
        self.teacher.to(memory_format=torch.channels_last)
        self.student = StudentTower().to(memory_format=torch.channels_last)
        self.average = deepcopy(self.student).requires_grad_(False).eval()
        self.optimisers = build_optimisers(self.student, args.optimiser, args.lr)
        self.clock, self.step, self.crops = 0.0, 0, 0
        self.distributed = distributed.is_initialized()
        self.rank = distributed.get_rank() if self.distributed else 0
        self.world = distributed.get_world_size() if self.distributed else 1
        if (self.run / "last.pt").exists():
            self.load()
        elif args.start:
            detector = cora.load(args.start)
            for net in (self.student, self.average):
                net.visual.load_state_dict(detector.image_tower.net.state_dict())
                if detector.localizer.proposals is not None:
                    net.localizer.load_state_dict(detector.localizer.state_dict())

    def load(self) -> None:
        state = torch.load(self.run / "last.pt", weights_only=True)
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.clock, self.step, self.crops = state["clock"], state["step"], state["crops"]
        self.targets.stats = state["stats"]

    def save(self) -> None:
        if self.rank > 0:
            return
        state = {
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "clock": self.clock,
            "step": self.step,
            "crops": self.crops,
            "stats": self.targets.stats,
        }
        torch.save(state, self.run / "last.tmp")
        (self.run / "last.tmp").rename(self.run / "last.pt")

    @torch.no_grad()
    def teach(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = self.teacher.maps((pixels * 2 - 1).contiguous(memory_format=torch.channels_last))
        logits = self.teacher.logits(maps.stride32.float().mean((2, 3)))
        ordered = [m.float() for m in (maps.stride4, maps.stride8, maps.stride16, maps.stride32)]
        return self.targets.standardise(ordered), logits

    def crop_losses(self, batch: CropBatch, stage: Stage) -> dict[str, Tensor]:
        goal, logits = self.teach(batch.pixels)
        small = F.interpolate(batch.pixels, (stage.student, stage.student), mode="area")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = self.student.maps(small.contiguous(memory_format=torch.channels_last))
            embedding = self.student.embed(maps.c4)
            return losses(self.student, embedding, list(maps), goal, logits, batch.labels, self.targets)

    def region_losses(self, batch: RegionBatch) -> dict[str, Tensor]:
        goal = self.targets.standardise([batch.maps])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, _, c3 = self.student.c3(batch.scenes.contiguous(memory_format=torch.channels_last))
            c4 = self.student.regions(c3, batch.boxes)
            named = losses(self.student, self.student.embed(c4), [c4], goal, batch.logits, batch.labels, self.targets)
            proposals = self.student.propose(c3[: len(batch.objects)])
        objects = [Objects(boxes, torch.zeros(len(boxes), dtype=torch.int64)) for boxes in batch.objects]
        found = proposal_losses(proposals, objects)
        return named | {"boxes": found["proposals"], "iou": found["proposal_iou"]}

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
        stages = STAGES[1:] if self.args.start else STAGES
        total, start = 60 * sum(s.minutes for s in stages) * self.args.scale, 0.0
        for number, stage in enumerate(stages):
            end = start + 60 * stage.minutes * self.args.scale
            if self.clock < end:
                self.run_stage(stage, self.stream(stage, seed=1000 * number + 2 * self.step + self.rank), end, total)
            start = end
        self.save()

    def stream(self, stage: Stage, *, seed: int) -> Iterator[CropBatch] | Iterator[RegionBatch]:
        if stage.kind == "regions":
            return region_batches(self.pool, self.bank, side=stage.student, batch=stage.batch, seed=seed)
        return crop_batches(self.pool, size=stage.teacher, batch=stage.batch, mixup=stage.mixup, seed=seed)

    def run_stage(self, stage: Stage, stream, end: float, total: float) -> None:  # type: ignore[no-untyped-def]
        self.student.train()
        sums: dict[str, float] = {}
        saved = logged = self.clock
        steps = 0
        while self.clock < end:
            began = time.monotonic()
            batch = next(stream)
            progress = self.clock / total
            rate = self.args.lr * min(1.0, (self.step + 1) / 100) * (0.495 * (1 + math.cos(math.pi * progress)) + 0.01)
            parts = self.crop_losses(batch, stage) if stage.kind == "crops" else self.region_losses(batch)
            self.update(parts, rate)
            self.step, self.crops, steps = self.step + 1, self.crops + stage.batch * self.world, steps + 1
            self.clock += time.monotonic() - began
            for k, v in parts.items():
                sums[k] = sums.get(k, 0.0) + v.item()
            if self.clock - logged > 30:
                row = {"minutes": self.clock / 60, "step": self.step, "crops": self.crops, "rate": rate}
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
    parser.add_argument("--text-space", type=Path, required=True)
    parser.add_argument("--basic-names", type=Path, required=True)
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--out", dest="run", type=Path, default=Path("runs/nano/tower"))
    parser.add_argument("--start", help="model whose image tower the student starts from, for instance nano")
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
