"""What nano's text tower trains on, computed once: phrases as tokens, targets, the first token table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from language import SentenceEncoder
from open_clip.tokenizer import SimpleTokenizer
from scipy.sparse import csr_matrix
from text_phrases import HeldOut, bare, clean, collect, held_out, plural
from text_space import kit_text_space
from text_targets import LanguageMap, Views, look_at, token_table
from torch import Tensor
from torch.nn import functional as F
from wordfreq import zipf_frequency
from wordnet import Synset, WordNet

CONTEXT = 32
KNOWN_SHARE, SYNONYM_WEIGHT, NOUN_WEIGHT = 0.3, 2.0, 1.0


@dataclass(frozen=True)
class Prepared:
    """Everything the training and its report need.

    texts: n phrases; tokens: their ids without start and end; plurals: the same of their plurals;
    targets: [n, 512]; weights: [n] for sampling; names: per group the rows' names as words; true: their
    targets; unseen: names of the kit that training does not see, with their true targets; table: [49408,
    width]; projection: [width, 512] fitted from table rows to targets; references: figures of the language
    model itself.
    """

    texts: list[str]
    tokens: list[list[int]]
    plurals: list[list[int]]
    targets: Tensor
    weights: Tensor
    names: dict[str, list[str]]
    true: dict[str, Tensor]
    unseen: list[tuple[str, Tensor]]
    held: HeldOut
    table: Tensor
    projection: Tensor
    references: dict[str, float]


def known_names(kit: Path) -> dict[str, list[list[str]]]:
    """For each group the forms of every row: the name as the kit spells it first, then its synonyms."""
    listed = json.loads((kit / "clip_rn50_text" / "names.json").read_text(encoding="utf-8"))
    lvis = zip(listed["lvis"], listed["lvis_synonyms"], strict=True)
    return {
        "coco": [[name] for name in listed["coco"]],
        "lvis": [[name, *(form for form in forms if form != name)] for name, forms in lvis],
        "imagenet": [[name, *name.split(", ")] for name in listed["imagenet"]],
    }


def prepare(*, kit: Path, wordnet_folder: Path, synonyms: Path, width: int, nouns: int, combined: int) -> Prepared:
    """Collect phrases, predict their targets, initialise the token table (about five minutes on one core)."""
    space, wordnet, encoder = kit_text_space(kit), WordNet(folder=wordnet_folder), SentenceEncoder()
    names = known_names(kit)
    held = held_out(names, synonyms)
    forbidden = held.pattern()
    rows = [forms for group in ("coco", "lvis", "imagenet") for forms in names[group]]
    true = torch.cat([space.targets[group] for group in ("coco", "lvis", "imagenet")])

    row_senses = [wordnet.sense(tuple(bare(f) for f in forms if not forbidden.search(clean(f)))) for forms in rows]
    row_views = look_at([clean(forms[0]) for forms in rows], row_senses, encoder=encoder, wordnet=wordnet)
    seen = torch.tensor([i for i, forms in enumerate(rows) if not forbidden.search(clean(forms[0]))])
    full = LanguageMap(views=row_views.rows(seen), targets=true[seen])
    plain = LanguageMap(views=row_views.rows(seen), targets=true[seen], ridge=0.05, with_wordnet=False)

    phrases = collect(names, wordnet, held, nouns=nouns, combined=combined)
    senses: list[Synset | None] = [
        row_senses[phrase.known] if phrase.known >= 0 else wordnet.sense((phrase.text,)) for phrase in phrases
    ]
    texts = [phrase.text for phrase in phrases]
    targets = full(look_at(texts, senses, encoder=encoder, wordnet=wordnet))
    known = torch.tensor([phrase.known for phrase in phrases])
    exact = torch.tensor([phrase.exact for phrase in phrases])
    targets = torch.where((known >= 0)[:, None], F.normalize(targets + true[known], dim=-1), targets)
    targets = torch.where(exact[:, None], true[known], targets)
    weights = torch.where(known >= 0, SYNONYM_WEIGHT, NOUN_WEIGHT)
    weights[exact] = float(weights[~exact].sum()) / float(exact.sum()) * KNOWN_SHARE / (1 - KNOWN_SHARE)

    tokenizer = SimpleTokenizer()
    pieces = [tokenizer.decoder[index].replace("</w>", "") for index in range(tokenizer.vocab_size)]
    ends = [tokenizer.decoder[index].endswith("</w>") for index in range(tokenizer.vocab_size)]
    spoken = encoder.encode(pieces)
    no_tree = _tree_of(row_views, len(pieces))
    mapped = plain(Views(spoken, spoken, no_tree))
    used = torch.tensor([10 ** zipf_frequency(p, "en") if e else 0.0 for p, e in zip(pieces, ends, strict=True)])
    table = token_table(spoken, mapped, weights=used.clamp(min=1.0).pow(0.25), width=width)

    single = [(i, ids[0]) for i, ids in enumerate(map(tokenizer.encode, texts)) if len(ids) == 1]
    index = torch.tensor(single)
    projection = torch.linalg.lstsq(table[index[:, 1]], targets[index[:, 0]]).solution

    return Prepared(
        texts=texts,
        tokens=[_short(tokenizer.encode(text)) for text in texts],
        plurals=[
            # A rule-made plural can be a held-out word ("shear": "shears"): the singular stands in.
            _short(tokenizer.encode(text if forbidden.search(plural(text)) else plural(text)))
            for text in texts
        ],
        targets=targets,
        weights=weights,
        names={group: [clean(forms[0]) for forms in names[group]] for group in names},
        true={group: space.targets[group] for group in names},
        unseen=[
            (clean(f[0]), true[i]) for i, f in enumerate(rows) if forbidden.search(clean(f[0])) and "," not in f[0]
        ],
        held=held,
        table=table,
        projection=projection,
        references=_references(names, held, encoder, plain),
    )


def _short(tokens: list[int]) -> list[int]:
    """Room is kept for the start and end tokens and six of a template."""
    return tokens[: CONTEXT - 8]


def _tree_of(views: Views, count: int) -> csr_matrix:
    return csr_matrix((count, views.tree.shape[1]), dtype="float32")


def _references(
    names: dict[str, list[list[str]]], held: HeldOut, encoder: SentenceEncoder, plain: LanguageMap
) -> dict[str, float]:
    """Top-1 of the held-out LVIS synonyms with the language model itself, and after the text-only map."""
    classes = encoder.encode([clean(forms[0]) for forms in names["lvis"]])
    queries = encoder.encode([text for _, text in held.lvis])
    right = torch.tensor([row for row, _ in held.lvis])
    no_tree = _tree_of(plain.known, max(len(classes), len(queries)))

    def mapped(value: Tensor) -> Tensor:
        return plain(Views(value, value, no_tree[: len(value)]))

    return {
        "language model, LVIS synonyms top-1": float(((queries @ classes.T).argmax(1) == right).float().mean()),
        "mapped, LVIS synonyms top-1": float(((mapped(queries) @ mapped(classes).T).argmax(1) == right).float().mean()),
    }
