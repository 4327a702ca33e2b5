"""The text side of the paper's Figure 1: class names and their text embeddings, cached in memory and on disk."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, cast

import numpy as np
import platformdirs
import torch
from torch import Tensor
from torch.nn import functional as F

from cora.errors import CoraError, VocabularyError
from cora.files import write_whole
from cora.names import name_key, names_without, spoken_name
from cora.regions.class_names import ClassPrompts, by_themselves, class_prompts, clean_names, other_prompts
from cora.regions.descriptions import Descriptions, check_described, clean_descriptions
from cora.regions.learned_text import LearnedContext, LearnedOffsets, LearnedText
from cora.regions.templates import PLACEHOLDER, clean_templates, shorten
from cora.towers.config import TemplateSet
from cora.towers.text_tower import TextTower

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """Class names with their text embeddings, as `Predictor.vocabulary` makes them; encode once, predict often.

    Attributes:
        names: the C class names, distinct and not blank.
        embeddings: [C, D] float, unit norm (zero for a class that class dropout switched off in training).
        weights: [C] float above 0, factor on each class's probability in anchor pre-matching; None for ones.
        distractors: [M, D] unit embeddings of M further class names, which compete in the class probabilities and are
            never reported; None for none.
        prompts: texts that were embedded for the classes and are not class names. They never become distractors.
        built_in: whether the names are the built-in vocabulary. Several of its names fit one object, so scores are
            lower, and another score threshold applies.

    Raises:
        VocabularyError: unusable names, or tensors of another shape.

    Examples:
        >>> vocabulary = cora.load("nano").vocabulary(["cup", "spoon"], distractors=["plate"])
        >>> vocabulary.names, len(vocabulary), len(vocabulary.all_embeddings)
        (('cup', 'spoon'), 2, 3)
    """

    names: tuple[str, ...]
    embeddings: Tensor
    weights: Tensor | None = None
    distractors: Tensor | None = None
    prompts: tuple[str, ...] = ()
    built_in: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", clean_names(self.names))
        count = len(self.names)
        if self.embeddings.ndim != 2 or len(self.embeddings) != count:
            raise VocabularyError(
                f"embeddings: expected shape [{count}, D] for {count} names, got {list(self.embeddings.shape)}"
            )
        if self.weights is not None and self.weights.shape != (count,):
            raise VocabularyError(f"weights: expected shape [{count}], got {list(self.weights.shape)}")

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Vocabulary:
        """A copy with all tensors on another device.

        Args:
            device: where the tensors go, such as "cuda".
            dtype: their floating type; None keeps it.
        """
        weights, distractors = (
            None if tensor is None else tensor.to(device=device, dtype=dtype)
            for tensor in (self.weights, self.distractors)
        )
        embeddings = self.embeddings.to(device=device, dtype=dtype)
        return replace(self, embeddings=embeddings, weights=weights, distractors=distractors)

    @property
    def all_embeddings(self) -> Tensor:
        """[C + M, D] embeddings of the classes, then of the distractors."""
        return self.embeddings if self.distractors is None else torch.cat([self.embeddings, self.distractors])

    def beside(self, encoder: VocabularyEncoder, distractors: Sequence[str]) -> Vocabulary:
        """A copy with these distractors beside its classes; this vocabulary itself if no distractor is left.

        Args:
            encoder: encoder with the text tower that embedded the classes.
            distractors: class names; those that are names or prompts of this vocabulary are skipped.
        """
        others = names_without(distractors, (*self.names, *self.prompts))
        if not others:
            return self
        embeddings = encoder.encode(others).embeddings.to(self.embeddings)
        return replace(self, distractors=embeddings)

    def weighted(self, class_weights: Mapping[str, float] | None) -> Vocabulary:
        """A copy with weights for some names, 1 for the others.

        Args:
            class_weights: name -> factor above 0 on the class's probability in anchor pre-matching.

        Raises:
            VocabularyError: a name is not in the vocabulary, or a weight is not positive.
        """
        if not class_weights:
            return self
        by_name = {name_key(name): weight for name, weight in class_weights.items()}
        unknown = names_without(class_weights, self.names)
        if unknown:
            raise VocabularyError(f"class weights: expected names of the vocabulary, got {', '.join(unknown)}")
        wrong = [name for name, weight in by_name.items() if not 0 < weight <= torch.finfo(torch.float32).max]
        if wrong:
            raise VocabularyError(f"class weights: expected positive numbers, got {by_name[wrong[0]]} for {wrong[0]!r}")
        weights = [by_name.get(name_key(name), 1.0) for name in self.names]
        return replace(self, weights=self.embeddings.new_tensor(weights))


def default_cache_dir() -> Path:
    """Folder of cached class embeddings: below `$CORA_CACHE` if set, else below the user's cache folder."""
    return Path(os.environ.get("CORA_CACHE") or platformdirs.user_cache_dir("cora")) / "vocabulary"


class _ClassText(NamedTuple):
    """Everything that one embedding depends on: a prompt of a class, and the descriptions of the class."""

    name: str
    descriptions: tuple[str, ...]


class VocabularyEncoder:
    """Embeds class names with the text tower; results are cached in memory and, if there is a folder, on disk.

    Every mean below is normalised to unit length:

    1. A prompt's embedding is the mean over all templates that it is put into.
    2. If the class has descriptions, it is (1 - share) * that + share * the mean over the descriptions.
    3. The class embedding is the mean over the prompts. An ordinary class has one prompt, its name.

    If the cache cannot be read or written, a warning is logged and the embedding is computed.

    Args:
        text_tower: the text tower; the hash of its weights is part of every cache key.
        templates: name of a template set, or sentences in which {} stands for the class name.
        descriptions: class name -> sentences, for the classes that have any.
        description_share: 0..1, weight of the descriptions in step 2.
        learned: learned text. A `LearnedContext` replaces the templates; `LearnedOffsets` are added after step 2.
        cache_dir: folder of the cache; None keeps embeddings in memory only.

    Raises:
        VocabularyError: unusable templates or descriptions; the message quotes the text.
    """

    def __init__(
        self,
        *,
        text_tower: TextTower,
        templates: TemplateSet | Sequence[str] = "imagenet",
        descriptions: Descriptions | None = None,
        description_share: float = 0.25,
        learned: LearnedText | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        if not 0 <= description_share <= 1:
            raise VocabularyError(f"description_share: expected a number in 0..1, got {description_share}")
        self.text_tower = text_tower
        self.templates = templates
        self.descriptions = descriptions or {}
        self.description_share = description_share
        self.learned = learned
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self._memory: dict[str, Tensor] = {}

    @property
    def templates(self) -> TemplateSet | tuple[str, ...]:
        """The templates in use: the name of a set, or sentences."""
        return self._templates

    @templates.setter
    def templates(self, templates: TemplateSet | Sequence[str]) -> None:
        self._sentences = clean_templates(templates)
        self._templates: TemplateSet | tuple[str, ...] = (
            cast(TemplateSet, templates) if isinstance(templates, str) else self._sentences
        )
        if not isinstance(templates, str):
            for template in self._sentences:
                self._check_length(template.replace(PLACEHOLDER, "x"), f"template {shorten(repr(template))}")

    @property
    def descriptions(self) -> Mapping[str, tuple[str, ...]]:
        """Descriptions that every call of `encode` uses: `name_key` of a class name -> sentences."""
        return MappingProxyType(self._descriptions)

    @descriptions.setter
    def descriptions(self, descriptions: Descriptions) -> None:
        self._descriptions = clean_descriptions(descriptions)

    def encode(self, names: Sequence[str] | ClassPrompts, *, descriptions: Descriptions | None = None) -> Vocabulary:
        """Embed class names.

        Args:
            names: class names, taken literally; or class name -> the prompts that are embedded for it.
            descriptions: class name -> sentences. For these names they replace the encoder's own descriptions.

        Raises:
            VocabularyError: no names, blank ones, duplicates, unusable prompts, a name or description too long for
                the tower's context, or `descriptions` of none of these names.
        """
        classes = class_prompts(names) if isinstance(names, Mapping) else by_themselves(clean_names(names))
        cleaned = tuple(classes) or clean_names(())  # raises
        described = dict(self._descriptions)
        if descriptions is not None:
            given = clean_descriptions(descriptions)
            check_described(given, cleaned)
            described |= given
        texts = [
            _ClassText(spoken_name(prompt), described.get(name_key(name), ()))
            for name, prompts in classes.items()
            for prompt in prompts
        ]
        shared = self._shared_hash()
        keys = [self._key(text, shared) for text in texts]
        for key in keys:
            if key not in self._memory and (cached := self._read(key)) is not None:
                self._memory[key] = cached
        missing = [index for index, key in enumerate(keys) if key not in self._memory]
        if missing:
            embeddings = self._embed([texts[index] for index in missing])
            for index, embedding in zip(missing, embeddings, strict=True):
                self._memory[keys[index]] = embedding
                self._write(keys[index], embedding)
        device = self.text_tower.net.positional_embedding.device
        found = torch.stack([self._memory[key] for key in keys]).to(device)
        return Vocabulary(cleaned, self._class_embeddings(found, classes), prompts=other_prompts(classes))

    def forget(self) -> None:
        """Drop the embeddings in memory; needed only after the weights of the text tower were replaced."""
        self._memory.clear()
        self.text_tower.__dict__.pop("fingerprint", None)

    def _shared_hash(self) -> str:
        """Hash of the inputs that all embeddings share: the tower, and the learned context or the templates."""
        context = self.learned.fingerprint if isinstance(self.learned, LearnedContext) else None
        content = [self.text_tower.fingerprint, context or list(self._sentences)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _key(self, text: _ClassText, shared: str) -> str:
        """Cache key of an embedding: a hash of all its inputs. Learned offsets are not cached, but added afterwards."""
        # JSON, since plainly joined texts are ambiguous. Lower case, since the tokenizer lowers all text.
        content = [
            shared,
            text.name.lower(),
            list(text.descriptions),
            self.description_share if text.descriptions else None,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:40]

    # Cached embeddings may be used in training later, where PyTorch refuses inference tensors.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _embed(self, texts: Sequence[_ClassText]) -> Tensor:
        """Steps 1 and 2 of the class docstring: [len(texts), D] float32 on the CPU."""
        names = [text.name for text in texts]
        if isinstance(self.learned, LearnedContext):
            embeddings = self.learned.encode(self.text_tower, names)
        else:
            for name in names:
                for sentence in self._sentences:
                    self._check_length(sentence.replace(PLACEHOLDER, name), f"class name {shorten(repr(name))}")
            filled = [sentence.replace(PLACEHOLDER, name) for name in names for sentence in self._sentences]
            encoded = self.text_tower.encode(filled).unflatten(0, (len(names), len(self._sentences)))
            embeddings = F.normalize(encoded.mean(dim=1), dim=-1)
        for index, text in enumerate(texts):
            if text.descriptions:
                filled = [sentence.replace(PLACEHOLDER, text.name) for sentence in text.descriptions]
                for sentence in filled:
                    where = f"descriptions of {text.name!r}: {shorten(repr(sentence))}"
                    self._check_length(sentence, where, "use a shorter sentence")
                described = F.normalize(self.text_tower.encode(filled).mean(dim=0), dim=-1)
                mixed = (1 - self.description_share) * embeddings[index] + self.description_share * described
                embeddings[index] = F.normalize(mixed, dim=-1)
        return embeddings.float().cpu()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _class_embeddings(self, embeddings: Tensor, classes: ClassPrompts) -> Tensor:
        """Add learned offsets to the embeddings of all prompts [P, D], then average those of each class: [C, D]."""
        counts = [len(prompts) for prompts in classes.values()]
        if isinstance(self.learned, LearnedOffsets):
            prompts = list(itertools.chain(*classes.values()))
            embeddings = self.learned(embeddings, prompts).detach().to(embeddings)
        if max(counts) == 1:
            return embeddings
        parts = embeddings.split(counts)
        return torch.stack([part[0] if len(part) == 1 else F.normalize(part.mean(dim=0), dim=0) for part in parts])

    def _check_length(self, sentence: str, where: str, advice: str = "use a shorter name") -> None:
        """Raise VocabularyError if the tokens of a sentence do not fit the text tower's context."""
        try:
            self.text_tower.tokenize(sentence)
        except VocabularyError as error:
            raise VocabularyError(
                f"{where}: expected to fit the text tower's context of "
                f"{self.text_tower.context_length} tokens, got more; {advice}"
            ) from error

    def _file(self, key: str) -> Path | None:
        return None if self.cache_dir is None else self.cache_dir / f"{key}.npy"

    def _read(self, key: str) -> Tensor | None:
        """The embedding [D] cached on disk; None if there is none or it is broken."""
        file = self._file(key)
        try:
            if file is None or not file.is_file():
                return None
            embedding = torch.from_numpy(np.load(file, allow_pickle=False)).float()
        except (OSError, ValueError, EOFError, TypeError) as error:
            _LOG.warning("cached embedding %s cannot be read and is made again: %s", file, error)
            return None
        norm = float(embedding.norm())
        if embedding.shape != (self.text_tower.embed_dim,) or not abs(norm - 1) < 1e-3:
            _LOG.warning("cached embedding %s is broken and is made again: %s", file, tuple(embedding.shape))
            return None
        return embedding

    def _write(self, key: str, embedding: Tensor) -> None:
        """Cache an embedding [D] on disk; if that fails, stop using the disk."""
        file = self._file(key)
        if file is None:
            return
        try:
            write_whole(file, lambda part: np.save(part, embedding.numpy()))
        except CoraError as error:
            _LOG.warning("class embeddings cannot be cached in %s: %s", file.parent, error)
            self.cache_dir = None
