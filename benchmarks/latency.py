"""The published way against the default way, in one process, on the same weights, one after the other in turn.

    python benchmarks/latency.py --threads 2 --kit ../shared/kit/coco_ovd_mini --write docs/performance.md
    python benchmarks/latency.py --cases nano-640 --classes 65 --runs 3

Three ways of the same detector:

- published: every final box through layer4 and through the attention pool as the published code computes it (keys and
  values of every cell by full projections), float32, no folding, no reading ahead.
- all boxes: `predict(..., score_all_boxes=True)`; the same boxes with this package's arithmetic of the attention pool.
- default: `predict(...)`.

The score threshold is 0.001, that of an evaluation: nothing can be skipped because a user would not see it. Photos are
noise of the case's size (cost does not depend on what they show); RN50 has random weights. Class embeddings are random
unit vectors in the timings, since names cost nothing once they are embedded; the text side is timed apart. Peak memory
is that of a process that does nothing but load the detector and predict once. AP50 is measured with nano on the kit.
"""

from __future__ import annotations

import argparse
import copy
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

import cora
from cora.detector import Detector
from cora.detector.inference import scoring_all_boxes
from cora.detector.postprocess import combine_scores
from cora.detector.presets import new_detector
from cora.regions import Vocabulary
from cora.regions.pooling import _rois
from cora.structures import FeatureMap

PUBLISHED, ALL_BOXES, DEFAULT = "published", "all boxes", "default"
WAYS = (PUBLISHED, ALL_BOXES, DEFAULT)
#: Name -> model, (height, width) of the photo.
CASES = {
    "nano-640": ("nano", (480, 640)),
    "RN50-608x800": ("RN50-quickgelu", (608, 800)),
    "RN50-800x1333": ("RN50-quickgelu", (800, 1333)),
}
SCORE = 0.001
MARKS = ("<!-- latency: begin -->", "<!-- latency: end -->")


class PublishedDetector(Detector):
    """Exact pooling as the published code computes it: keys and values of all cells of all boxes."""

    def _pool_exactly(self, c3: FeatureMap, boxes_cxcywh: Tensor | Sequence[Tensor]) -> Tensor:
        tower, positions = self.image_tower, self.prompted_positions()
        pool, side = tower.attention_pool, tower.pool_size
        embeddings = []
        for rois in _rois(c3.extents_hw, boxes_cxcywh).split(128):
            cells = tower.layer4(roi_align(c3.features, rois, (2 * side, 2 * side), aligned=True))
            cells = cells.flatten(2).permute(2, 0, 1)
            tokens = torch.cat([cells.mean(dim=0, keepdim=True), cells]) + positions[:, None]
            pooled, _ = F.multi_head_attention_forward(
                tokens[:1],
                tokens,
                tokens,
                tokens.shape[-1],
                pool.num_heads,
                None,
                torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
                None,
                None,
                False,
                0.0,
                pool.c_proj.weight,
                pool.c_proj.bias,
                training=False,
                need_weights=False,
                use_separate_proj_weight=True,
                q_proj_weight=pool.q_proj.weight,
                k_proj_weight=pool.k_proj.weight,
                v_proj_weight=pool.v_proj.weight,
            )
            embeddings.append(F.normalize(pooled[0], dim=-1))
        return torch.cat(embeddings)


def in_way(detector: Detector, way: str) -> Detector:
    """A view of the detector that works in one of the three ways."""
    if way == DEFAULT:
        return detector.at_precision(detector.precision)
    view = scoring_all_boxes(detector)
    if way == PUBLISHED:
        view = copy.copy(view)
        view.__class__ = PublishedDetector
    return view


def build(model: str) -> Detector:
    if model == "nano":
        return cora.load("nano")
    torch.manual_seed(0)
    detector = new_detector(model, pretrained=None).eval()
    detector.precision = "auto"
    return detector


def random_vocabulary(detector: Detector, classes: int) -> Vocabulary:
    embeddings = torch.randn(classes, detector.image_tower.embed_dim, generator=torch.Generator().manual_seed(1))
    names = tuple(f"class {number}" for number in range(classes))
    return Vocabulary(names, F.normalize(embeddings, dim=-1)).to(detector.device)


def noise(size_hw: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (*size_hw, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class Stages:
    """Seconds of each stage of a pass, by name; a GPU is waited for at every border."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds[name].append(time.perf_counter() - start)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def run_once(detector: Detector, image: Image.Image, batch_size: int, vocabulary: Vocabulary, stages: Stages) -> None:
    """One pass by the public steps, as `forward` sequences them."""
    with stages.stage("all"):
        with stages.stage("resize"):
            batch = detector.preprocessor([image] * batch_size).to(detector.device)
        with stages.stage("tower"):
            c3, c4 = detector.encode(batch)
        with stages.stage("encode"):
            memory = detector.encode_map(c3)
        with stages.stage("pre-match"):
            projected = detector.project(c4)
            matched = detector.pre_match(projected, detector.anchors(memory), vocabulary)
        with stages.stage("decode"):
            decoded = detector.decode(memory, matched)
        with stages.stage("exact pooling"):
            boxes, objectness = detector.worth_scoring(decoded)
            probabilities = detector.classify_best(c3, projected, boxes, objectness, vocabulary, SCORE)
        with stages.stage("NMS"):
            scores = combine_scores(probabilities, objectness, detector.config.postprocess.objectness_power)
            output = type("Output", (), {"boxes_cxcywh": boxes, "scores": scores})
            detector.postprocess(output, batch.original_sizes, score=SCORE)  # type: ignore[arg-type]


def measure(model: str, size: tuple[int, int], classes: int, batch_size: int, runs: int, ways: Sequence[str]) -> Any:
    """Median seconds a stage of each way; the ways take turns, so that a busy minute is everybody's."""
    detector = build(model)
    if torch.cuda.is_available():
        detector.to("cuda")
    image, vocabulary = noise(size), random_vocabulary(detector, classes)
    views = {way: in_way(detector, way) for way in ways}
    stages = {way: Stages(detector.device) for way in ways}
    with torch.inference_mode():
        for run in range(runs + 1):
            for way, view in views.items():
                timed = stages[way] if run else Stages(detector.device)  # the first run warms up
                run_once(view, image, batch_size, vocabulary, timed)
    return {
        way: {name: statistics.median(values) / batch_size for name, values in timed.seconds.items()}
        for way, timed in stages.items()
    }


def peak_memory(model: str, size: tuple[int, int], way: str, threads: int) -> float:
    """GiB of a process of its own that predicts once."""
    command = [sys.executable, __file__, "--only", way, "--model", model, "--size", *map(str, size)]
    answer = subprocess.run(
        [*command, "--threads", str(threads)], check=True, capture_output=True, text=True
    ).stdout.strip()
    return float(answer.splitlines()[-1])


def predict_only(model: str, size: tuple[int, int], way: str) -> None:
    detector = build(model)
    stages = Stages(detector.device)
    with torch.inference_mode():
        run_once(in_way(detector, way), noise(size), 1, random_vocabulary(detector, 65), stages)
    print(peak_gib())


def peak_gib() -> float:
    """Peak of this process. Linux counts a parent's pages into `ru_maxrss` of a child, hence its own file first."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def text_seconds(names: Sequence[str], limit: int) -> dict[str, float]:
    """Seconds to embed names with 80 templates: one text at a time padded to the context, and in sorted batches."""
    from cora.regions.templates import IMAGENET_TEMPLATES

    tower = build("RN50-quickgelu").text_tower
    texts = [sentence.replace("{}", name) for name in names for sentence in IMAGENET_TEMPLATES]
    with torch.inference_mode():
        start = time.perf_counter()
        single = []
        for text in texts[:limit]:
            tokens = torch.zeros(1, tower.context_length, dtype=torch.long)
            ids = tower.tokenize(text)
            tokens[0, : len(ids)] = torch.tensor(ids)
            single.append(tower.encode_tokens(tokens))
        one_by_one = (time.perf_counter() - start) / len(single)
        start = time.perf_counter()
        batched = tower.encode(texts[: 8 * limit])
        together = (time.perf_counter() - start) / len(batched)
    difference = float((torch.cat(single) - batched[: len(single)]).abs().max())
    return {"one by one": one_by_one * len(texts), "sorted batches": together * len(texts), "difference": difference}


def measure_ap(kit: Path, limit: int | None) -> dict[str, dict[str, float]]:
    from cora.data.class_split import read_class_split
    from cora.data.read import read_dataset
    from cora.evaluation.base_novel import class_groups
    from cora.evaluation.coco_ap import evaluate_boxes
    from cora.evaluation.predict import ground_truth, predict_dataset

    dataset = read_dataset(images=kit / "val", annotations=kit / "val.json")
    split = read_class_split(kit / "class_split.json")
    groups = class_groups(split.base, split.novel)
    indices = range(len(dataset))[:limit]
    truth = ground_truth(dataset, indices=indices)
    names = dataset.class_names
    detector, table = build("nano"), {}
    for way in (ALL_BOXES, DEFAULT):
        view = in_way(detector, way)
        view.precision = "float32" if way == ALL_BOXES else detector.precision
        found = predict_dataset(_Fixed(view), dataset, names, indices=indices)  # type: ignore[arg-type]
        scores = evaluate_boxes(truth, found.results, classes={name: i for i, name in enumerate(names, start=1)}).scores
        by_name = {score.name: score.ap50 for score in scores}
        table[way] = {
            group: 100 * statistics.mean(value for name in members if (value := by_name.get(name)) is not None)
            for group, members in groups.items()
        }
    return table


class _Fixed:
    """A view whose `predict` goes on in the view's own way."""

    def __init__(self, view: Detector) -> None:
        self.view, self.preprocessor = view, view.preprocessor

    def predict(self, images: Sequence[Image.Image], classes: Sequence[str], **options: Any) -> Any:
        every = self.view.config.postprocess.exact_boxes == 0
        return self.view.predict(images, classes, score_all_boxes=every, **options)


def machine(threads: int) -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    dtype = "bfloat16" if build("nano").at_precision("auto").image_tower.dtype == torch.bfloat16 else "float32"
    return f"{name}, {threads} threads, torch {torch.__version__}, image tower of the default way in {dtype}"


def rows_of(case: str, classes: int, batch_size: int, found: dict[str, dict[str, float]]) -> str:
    total = {way: stages["all"] for way, stages in found.items()}
    ratios = " | ".join(
        f"**{total[way] / total[DEFAULT]:.1f}x**" if way in total else "" for way in (PUBLISHED, ALL_BOXES)
    )
    seconds = " | ".join(f"{total[way]:.3f}" if way in total else "" for way in WAYS)
    return f"| {case} | {classes} | {batch_size} | {ratios} | {seconds} |"


def stage_rows(case: str, found: dict[str, dict[str, float]]) -> list[str]:
    names = [name for name in found[DEFAULT] if name != "all"]
    return [
        f"| {case}, {way} | " + " | ".join(f"{1000 * stages[name]:.0f}" for name in names) + " |"
        for way, stages in found.items()
    ]


def report(arguments: argparse.Namespace, say: Callable[[str], None]) -> str:
    lines = [f"Machine: {machine(arguments.threads)}. Command: `{' '.join(['python', *sys.argv])}`.", ""]
    lines += [
        "| Case | classes | batch | published : default | all boxes : default | "
        + " | ".join(f"{way}, s" for way in WAYS)
        + " |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    stages: list[str] = []
    header = ""
    for case in arguments.cases:
        model, size = CASES[case]
        for batch_size in arguments.batches:
            for classes in arguments.classes:
                if batch_size > 1 and classes != arguments.classes[0]:
                    continue  # the vocabulary is looked at with single photos
                ways = WAYS if classes == arguments.classes[0] else (ALL_BOXES, DEFAULT)
                found = measure(model, size, classes, batch_size, arguments.runs, ways)
                lines.append(rows_of(case, classes, batch_size, found))
                say(lines[-1])
                if batch_size == 1 and classes == arguments.classes[0]:
                    header = "| Milliseconds | " + " | ".join(n for n in found[DEFAULT] if n != "all") + " |"
                    stages += stage_rows(case, found)
    lines += ["", header, "|" + " --- |" * header.count(" | ") + " --- |", *stages]
    if not arguments.no_memory:
        lines += ["", "| Peak memory, GiB | " + " | ".join(WAYS) + " |", "| --- | --- | --- | --- |"]
        for case in arguments.cases:
            peaks = [peak_memory(*CASES[case], way, arguments.threads) for way in WAYS]
            lines.append(f"| {case} | " + " | ".join(f"{peak:.2f}" for peak in peaks) + " |")
    if not arguments.no_text:
        from cora.regions.everyday import EVERYDAY_NAMES

        text = text_seconds(EVERYDAY_NAMES[:65], arguments.texts)
        ratio = text["one by one"] / text["sorted batches"]
        lines += [
            "",
            f"Text, RN50's tower, 65 names with 80 templates: {text['one by one']:.0f} s one prompt at a time "
            f"padded to 77 tokens, {text['sorted batches']:.0f} s in sorted batches: **{ratio:.1f}x**, largest "
            f"difference {text['difference']:.1e} "
            f"(from {arguments.texts} and {8 * arguments.texts} of the 5,200 prompts).",
        ]
    if arguments.kit is not None:
        lines += ["", "| AP50 of nano, % | novel | base | all |", "| --- | --- | --- | --- |"]
        for way, scores in measure_ap(arguments.kit, arguments.limit).items():
            lines.append(
                f"| {way} | " + " | ".join(f"{scores[group]:.2f}" for group in ("novel", "base", "all")) + " |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--classes", nargs="+", type=int, default=[65, 1, 1203])
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kit", type=Path, help="coco_ovd_mini, for AP50")
    parser.add_argument("--limit", type=int, help="photos of the kit")
    parser.add_argument("--texts", type=int, default=64, help="prompts that go through one by one")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-text", action="store_true")
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--size", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        return predict_only(arguments.model, tuple(arguments.size), arguments.only)
    table = report(arguments, say=lambda line: print(line, flush=True))
    print(table)
    if arguments.write is not None:
        page = arguments.write.read_text(encoding="utf-8")
        before, rest = page.split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        arguments.write.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
