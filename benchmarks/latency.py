"""The published way against the default way, in one process, on the same weights, one after the other in turn.

    python benchmarks/latency.py --threads 1 --batches 1 8 --kit KIT --keep docs/performance.json \
        --write docs/performance.md
    python benchmarks/latency.py --cases nano-640 --classes 65 --measure time

The first measures what the file `--keep` does not hold yet, one thing after the other, and writes the page's tables
from all that it holds: it may be stopped and run again, and `--cases` and `--measure` do a part of it. KIT is
coco_ovd_mini.

Three ways of the same detector on a CLIP ResNet (nano has no layer4 and pools all boxes in one way: the default alone):

- published: every final box through layer4 and through the attention pool as the published code computes it (keys and
  values of every cell by full projections), float32, no folding, no reading ahead.
- all boxes: `predict(..., score_all_boxes=True)`; the same boxes with this package's arithmetic of the attention pool.
- default: `predict(...)`.

The score threshold is 0.001, that of an evaluation: nothing can be skipped because a user would not see it. Images are
JPEG files of noise of the case's size (cost does not depend on what they show), and reading them counts; RN50 has
random weights. Class embeddings are random unit vectors in the timings, since names cost nothing once they are
embedded; the text side is timed apart. A GPU's stages are timed by its own events. The floor is what the default way
multiplies over the rate of large matrix products on this machine, in the same type. Peak memory is that of a process
that does nothing but load the detector and predict once. AP50 is measured with nano on the kit. Backbone is nano's
`predict` over a plain forward pass of its backbone (480 x 640, channels last, float32), one after the other in turn.
All ways are timed with the first number of classes; with the others, and for a RN50 in batches, where the published way
takes minutes, the default way alone.
"""

from __future__ import annotations

import argparse
import copy
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latency_accuracy import SCORE, measure_ap, rounding
from latency_table import DEFAULT, PUBLISHED, WAYS, Kept, tables
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

import cora
from cora.compress.prune_measure import count_gmac
from cora.detector import Detector
from cora.detector.fingerprint import weights_fingerprint
from cora.detector.postprocess import combine_scores, suppress
from cora.detector.presets import new_detector
from cora.images import read_image
from cora.predictor import at_precision, scoring_all_boxes
from cora.regions import Vocabulary
from cora.roi_align import _rois
from cora.structures import FeatureMap

#: Name -> model, (height, width) of the image.
CASES = {
    "nano-640": ("nano", (480, 640)),
    "RN50-608x800": ("RN50-quickgelu", (608, 800)),
    "RN50-800x1333": ("RN50-quickgelu", (800, 1333)),
}
KINDS = ("time", "floor", "memory", "text", "rounding", "AP50", "backbone")
#: Side of the square matrices whose product is the measure of the machine.
MATRIX = 2048
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
        return at_precision(detector, detector.precision)
    view = scoring_all_boxes(detector)
    if way == PUBLISHED:
        view = copy.copy(view)
        view.__class__ = PublishedDetector
    return view


def ways_of(model: str) -> tuple[str, ...]:
    """The ways that differ for a model: nano pools all boxes in one way."""
    return (DEFAULT,) if model == "nano" else WAYS


def build(model: str) -> Detector:
    if model == "nano":
        return cora.load("nano").detector
    torch.manual_seed(0)
    detector = new_detector(model, pretrained=None).eval()
    detector.precision = "auto"
    return detector


def random_vocabulary(detector: Detector, classes: int) -> Vocabulary:
    embeddings = torch.randn(classes, detector.image_tower.embed_dim, generator=torch.Generator().manual_seed(1))
    names = tuple(f"class {number}" for number in range(classes))
    return Vocabulary(names, F.normalize(embeddings, dim=-1)).to(detector.device)


def noise(size_hw: tuple[int, int]) -> Image.Image:
    """As smooth as images are, so that its JPEG file takes as long to decode."""
    height, width = size_hw
    pixels = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@contextmanager
def photo(size_hw: tuple[int, int]) -> Iterator[Path]:
    """A JPEG file of noise."""
    with tempfile.TemporaryDirectory() as folder:
        noise(size_hw).save(Path(folder) / "photo.jpg", quality=90)
        yield Path(folder) / "photo.jpg"


class Stages:
    """Seconds of each stage of a pass, by name: a GPU's by its own events, which are read when the pass is over."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self.device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
        else:
            start = time.perf_counter()
            yield
            self.seconds[name].append(time.perf_counter() - start)

    def finish(self) -> None:
        """Wait for the GPU and read its events."""
        if self._events:
            torch.cuda.synchronize(self.device)
        for name, begin, end in self._events:
            self.seconds[name].append(begin.elapsed_time(end) / 1000)
        self._events.clear()


def run_once(detector: Detector, file: Path, batch_size: int, vocabulary: Vocabulary, stages: Stages) -> None:
    """One pass by the public steps, as `forward` sequences them."""
    with stages.stage("all"):
        with stages.stage("read"):
            images = [read_image(file) for _ in range(batch_size)]
        with stages.stage("resize"):
            batch = detector.preprocessor(images).to(detector.device)
        with stages.stage("tower"):
            c3, c4 = detector.encode(batch)
        with stages.stage("encode"):
            memory = detector.encode_map(c3)
        with stages.stage("pre-match"):
            prepared = detector.prepare_fast_pooling(c4)
            matched = detector.pre_match(prepared, detector.anchors(memory), vocabulary)
        with stages.stage("decode"):
            decoded = detector.decode(memory, matched)
        with stages.stage("exact pooling"):
            boxes, objectness = detector.select_top_boxes(decoded)
            probabilities = detector.classify_best(c3, prepared, boxes, objectness, vocabulary, SCORE)
        with stages.stage("NMS"):
            scores = combine_scores(probabilities, objectness, detector.config.postprocess.objectness_power)
            suppress(boxes, scores, batch.original_sizes, detector.config.postprocess, score=SCORE)
    stages.finish()


def measure(model: str, size: tuple[int, int], classes: int, batch_size: int, runs: int, ways: Sequence[str]) -> Any:
    """Median seconds a stage of each way; the ways take turns, so that a busy minute is everybody's."""
    detector = build(model)
    if torch.cuda.is_available():
        detector.to("cuda")
    vocabulary = random_vocabulary(detector, classes)
    views = {way: in_way(detector, way) for way in ways}
    stages = {way: Stages(detector.device) for way in ways}
    with photo(size) as file, torch.inference_mode():
        for run in range(runs + 1):
            for way, view in views.items():
                timed = stages[way] if run else Stages(detector.device)  # the first run warms up
                run_once(view, file, batch_size, vocabulary, timed)
    return {
        way: {name: statistics.median(values) / batch_size for name, values in timed.seconds.items()}
        for way, timed in stages.items()
    }


def peak_memories(model: str, size: tuple[int, int], threads: int) -> dict[str, float]:
    """GiB of each way, in a process of its own that predicts once."""
    command = [sys.executable, __file__, "--model", model, "--size", *map(str, size), "--threads", str(threads)]
    found = {}
    for way in ways_of(model):
        answer = subprocess.run([*command, "--only", way], check=True, capture_output=True, text=True)
        found[way] = float(answer.stdout.split()[-1])
    return found


def predict_only(model: str, size: tuple[int, int], way: str) -> None:
    detector = build(model)
    stages = Stages(detector.device)
    with photo(size) as file, torch.inference_mode():
        run_once(in_way(detector, way), file, 1, random_vocabulary(detector, 65), stages)
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
    return {
        "one by one": one_by_one * len(texts),
        "sorted batches": together * len(texts),
        "difference": difference,
        "texts": limit,
    }


def floor(model: str, size: tuple[int, int], classes: int) -> dict[str, float]:
    """What the default way multiplies for an image, and how fast this machine multiplies large matrices in its type."""
    detector = build(model)
    if torch.cuda.is_available():
        detector.to("cuda")
    view = in_way(detector, DEFAULT)
    work = count_gmac(view, noise(size), random_vocabulary(detector, classes))
    one = torch.randn(MATRIX, MATRIX, device=detector.device).to(view.image_tower.dtype)
    stages = Stages(detector.device)
    with torch.inference_mode():
        for _ in range(12):
            with stages.stage("product"):
                one @ one
        stages.finish()
    seconds = statistics.median(stages.seconds["product"][2:])
    return {"GMAC": work, "GMAC a second": MATRIX**3 / 1e9 / seconds}


def beside_backbone(size: tuple[int, int], rounds: int = 9) -> dict[str, float]:
    """Seconds of nano's `predict` with three names and of a plain forward pass of its backbone, one after the other."""
    import timm

    detector, image = cora.load("nano"), noise(size)
    plain = timm.create_model(detector.config.tower.backbone).eval().to(memory_format=torch.channels_last)
    pixels = torch.randn(1, 3, *size).contiguous(memory_format=torch.channels_last)
    vocabulary = random_vocabulary(detector, 3)
    stages = Stages(torch.device("cpu"))
    with torch.inference_mode():
        for _ in range(rounds + 2):
            with stages.stage("backbone"):
                plain(pixels)
            with stages.stage("nano"):
                detector.predict(image, vocabulary)
    pairs = list(zip(stages.seconds["nano"], stages.seconds["backbone"], strict=True))[2:]
    ratios = [nano / backbone for nano, backbone in pairs]
    return {
        "backbone": statistics.median(backbone for _, backbone in pairs),
        "nano": statistics.median(nano for nano, _ in pairs),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }


def machine(threads: int) -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    dtype = "bfloat16" if at_precision(build("nano"), "auto").image_tower.dtype == torch.bfloat16 else "float32"
    return f"{name}, threads: {threads}, torch {torch.__version__}, default way in {dtype}"


def measure_all(arguments: argparse.Namespace, kept: Kept) -> None:
    first = arguments.classes[0]
    if "backbone" in arguments.measure:  # first: memory that larger batches leave behind would slow nano down
        kept.once("backbone", "nano-640", partial(beside_backbone, CASES["nano-640"][1]))
    for case in arguments.cases:
        model, size = CASES[case]
        if "time" in arguments.measure:
            for batch, classes in product(arguments.batches, arguments.classes):
                if batch > 1 and classes != first:
                    continue  # the vocabulary is looked at with single images
                ways = ways_of(model) if classes == first and batch == 1 else (DEFAULT,)
                work = partial(measure, model, size, classes, batch, arguments.runs, ways)
                kept.once("time", f"{case}, {classes}, {batch}", work)
        if "floor" in arguments.measure:
            kept.once("floor", case, partial(floor, model, size, first))
        if "memory" in arguments.measure:
            kept.once("memory", case, partial(peak_memories, model, size, arguments.threads))
    if "text" in arguments.measure:
        from cora.regions.everyday import EVERYDAY_NAMES

        kept.once("text", "RN50's tower, 65 names", partial(text_seconds, EVERYDAY_NAMES[:65], arguments.texts))
    if "rounding" in arguments.measure and arguments.kit is not None:
        kept.once("rounding", "20 images", partial(rounding, arguments.kit))
    if "AP50" in arguments.measure and arguments.kit is not None:
        kept.once("AP50", "nano", partial(measure_ap, arguments.kit, arguments.limit))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--classes", nargs="+", type=int, default=[65, 1, 1203])
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kit", type=Path, help="coco_ovd_mini, for AP50 and rounding")
    parser.add_argument("--limit", type=int, help="images of the kit")
    parser.add_argument("--texts", type=int, default=64, help="prompts that go through one by one")
    parser.add_argument("--measure", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--keep", type=Path, help="JSON file of what is measured already")
    parser.add_argument("--write", type=Path, help="page whose tables are replaced")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--size", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        return predict_only(arguments.model, tuple(arguments.size), arguments.only)
    made_of = {"machine": machine(arguments.threads), "nano": weights_fingerprint(build("nano")), "format": "2"}
    kept = Kept(arguments.keep, made_of)
    measure_all(arguments, kept)
    table = tables(kept.values, " ".join(["python", *sys.argv]))
    print(table)
    if arguments.write is not None:
        page = arguments.write.read_text(encoding="utf-8")
        before, rest = page.split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        arguments.write.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
