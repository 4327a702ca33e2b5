"""Peak memory of localizer training: the tower's activations kept, against frozen towers.

    python benchmarks/training_memory.py --model RN50-quickgelu --batch 4 --side 800

Three trainings of two steps each, in processes of their own, on random images and weights:

- kept: the tower runs with gradients, as if it were trained, too;
- frozen: the tower runs without, as `LocalizerTask` does;
- frozen, recomputed: the layers of the localizer besides are recomputed in the backward pass
  (`LocalizerTaskConfig.activation_checkpointing`).

On a GPU it is PyTorch's peak of allocated memory, on the CPU the peak resident size of the process. Issue 3 asks for
at most half of "kept" in the last one. Numbers that it gave: docs/training_cost.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

MODES = ("kept", "frozen", "frozen, recomputed")
CLASSES, BOXES = 48, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="RN50-quickgelu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=800, help="short side in pixels; the long one is 4/3 of it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.mode:
        print(json.dumps(measure(arguments)))
        return
    sizes = f"{arguments.side}x{round(arguments.side * 4 / 3)} px"
    print(f"{arguments.model}, batch {arguments.batch}, {sizes}, {arguments.device}, float32")
    peaks = {}
    for mode in MODES:
        command = [sys.executable, __file__, "--mode", mode, *sys.argv[1:]]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        peaks[mode] = found["peak"]
        ratio = found["peak"] / peaks["kept"]
        print(f"{mode:20} peak {found['peak'] / 1e9:6.2f} GB, {ratio:4.0%} of kept (before the first step "
              f"{found['start'] / 1e9:.2f} GB; loss {found['loss']:.3f})")  # fmt: skip
    reached = "reached" if peaks[MODES[-1]] <= 0.5 * peaks["kept"] else "MISSED"
    print(f"target: {MODES[-1]} at most 50% of kept: {reached}")


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Two steps, so that the optimiser's state is there, too."""
    import torch

    from cora.detector import new_detector
    from cora.regions import Vocabulary
    from cora.structures import FeatureMap, ImageBatch, Targets
    from cora.training.localizer_task import LocalizerTask, LocalizerTaskConfig
    from cora.training.optim import OptimizerConfig, build_adamw

    class TrainedTower(LocalizerTask):
        """Also keeps what the gradient of the tower's weights needs."""

        def _features(self, batch: Any) -> tuple[FeatureMap, FeatureMap, tuple[Targets, ...]]:
            return *self.detector.encode(batch[0]), batch[-1]

    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    detector = new_detector(arguments.model, pretrained=None)
    embeddings = torch.nn.functional.normalize(torch.randn(CLASSES, detector.image_tower.embed_dim), dim=-1)
    vocabulary = Vocabulary(tuple(map(str, range(CLASSES))), embeddings)
    kept = arguments.mode == "kept"
    config = LocalizerTaskConfig(class_dropout=0.0, activation_checkpointing=arguments.mode == MODES[-1])
    task = (TrainedTower if kept else LocalizerTask)(detector=detector, vocabulary=vocabulary, config=config)
    if kept:
        for stage in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "layer1", "layer2", "layer3", "layer4"):
            getattr(detector.image_tower.net, stage).requires_grad_(True)
    task = task.to(device).train()
    optimiser = build_adamw(task, OptimizerConfig())
    sizes = ((arguments.side, round(arguments.side * 4 / 3)),) * arguments.batch
    pixels = torch.randn(arguments.batch, 3, *sizes[0])
    images = ImageBatch(pixels, torch.zeros(arguments.batch, *sizes[0], dtype=torch.bool), sizes, sizes).to(device)
    targets = tuple(
        Targets(
            boxes_cxcywh=torch.cat([0.3 + 0.4 * torch.rand(BOXES, 2), 0.1 + 0.4 * torch.rand(BOXES, 2)], dim=1),
            classes=torch.randint(CLASSES, (BOXES,)),
        ).to(device)
        for _ in range(arguments.batch)
    )
    start = peak(device)
    for _ in range(2):
        optimiser.zero_grad(set_to_none=True)
        loss = task((images, targets))["loss"]
        loss.backward()
        optimiser.step()
    return {"start": start, "peak": peak(device), "loss": float(loss.detach())}


def peak(device: Any) -> float:
    """Peak memory so far in bytes."""
    if device.type == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated(device))
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(size if sys.platform == "darwin" else 1024 * size)


if __name__ == "__main__":
    main()
