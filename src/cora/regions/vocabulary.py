"""Class names and their embeddings, cached in memory and on disk (METHOD section 3)."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import platformdirs
import torch
from torch import Tensor
from torch.nn import functional as F

from cora.errors import VocabularyError
from cora.regions.templates import TEMPLATE_SETS
from cora.towers.config import TemplateSet
from cora.towers.text_tower import TextTower

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """Class names with their embeddings.

    Attributes:
        names: the classes, distinct and not blank.
        embeddings: [C, D] float, unit norm (zero for a class that is switched off).
        weights: [C] float, factor on a class's score in anchor pre-matching; ones by default.
        distractors: [M, D] embeddings of things not asked for, which share in the class probabilities.
    """

    names: tuple[str, ...]
    embeddings: Tensor
    weights: Tensor | None = None
    distractors: Tensor | None = None

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
        """The same vocabulary on another device, in another floating type if given."""
        weights, distractors = (
            None if tensor is None else tensor.to(device=device, dtype=dtype)
            for tensor in (self.weights, self.distractors)
        )
        return Vocabulary(self.names, self.embeddings.to(device=device, dtype=dtype), weights, distractors)

    @property
    def all_embeddings(self) -> Tensor:
        """[C + M, D] embeddings of the classes, then of the distractors."""
        return self.embeddings if self.distractors is None else torch.cat([self.embeddings, self.distractors])

    def beside(self, encoder: VocabularyEncoder, distractors: Sequence[str]) -> Vocabulary:
        """The same vocabulary with distractors; of those, names that are classes here are left out."""
        known = {name.casefold() for name in self.names}
        others = [name for name in distractors if name.strip().casefold() not in known]
        if not others:
            return self
        embeddings = encoder.encode(others).embeddings.to(self.embeddings)
        return replace(self, distractors=embeddings)

    def weighted(self, class_weights: Mapping[str, float] | None) -> Vocabulary:
        """The same vocabulary with a weight for some names (1 for the others); METHOD section 7.

        Raises:
            VocabularyError: a name is not in the vocabulary, or a weight is not positive.
        """
        if not class_weights:
            return self
        by_name = {name.strip().casefold(): weight for name, weight in class_weights.items()}
        unknown = sorted(by_name.keys() - {name.casefold() for name in self.names})
        if unknown:
            raise VocabularyError(f"class weights: expected names of the vocabulary, got {', '.join(unknown)}")
        wrong = [name for name, weight in by_name.items() if not 0 < weight < float("inf")]
        if wrong:
            raise VocabularyError(f"class weights: expected positive numbers, got {by_name[wrong[0]]} for {wrong[0]!r}")
        weights = [by_name.get(name.casefold(), 1.0) for name in self.names]
        return replace(self, weights=self.embeddings.new_tensor(weights))


def clean_names(names: Sequence[str]) -> tuple[str, ...]:
    """Strip names and check them.

    Raises:
        VocabularyError: no name, a blank one, or one given twice (ignoring case).
    """
    if isinstance(names, str):
        raise VocabularyError(f"class names: expected a list of names, got the text {names!r}; put it in a list")
    stripped = tuple(name.strip() for name in names)
    if not stripped:
        raise VocabularyError("class names: expected at least one, got an empty list")
    if not all(stripped):
        position = stripped.index("") + 1
        raise VocabularyError(f"class names: expected text in each, got a blank one at position {position}")
    counts = Counter(name.casefold() for name in stripped)
    twice = [name for name in dict.fromkeys(stripped) if counts[name.casefold()] > 1]
    if twice:
        raise VocabularyError(f"class names: expected every name once, got {twice[0]!r} twice; remove one")
    return stripped


def default_cache_dir() -> Path:
    """Folder of cached class embeddings: below `$CORA_CACHE` if set, else below the user's cache folder."""
    return Path(os.environ.get("CORA_CACHE") or platformdirs.user_cache_dir("cora")) / "vocabulary"


class VocabularyEncoder:
    """Turns class names into embeddings: for every template the unit embedding, averaged, unit norm again.

    A cache that cannot be read or written costs time, never a result: it is logged and done without.

    Args:
        text_tower: the tower; its weights' hash is part of every cache key.
        templates: name of a template set.
        cache_dir: folder of the cache; None keeps embeddings in memory only.
    """

    def __init__(
        self,
        *,
        text_tower: TextTower,
        templates: TemplateSet = "imagenet",
        cache_dir: str | Path | None = None,
    ) -> None:
        if templates not in TEMPLATE_SETS:
            raise ValueError(f"templates: expected one of {', '.join(TEMPLATE_SETS)}, got {templates!r}")
        self.text_tower = text_tower
        self.templates = templates
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self._memory: dict[str, Tensor] = {}

    def encode(self, names: Sequence[str]) -> Vocabulary:
        """Embed class names.

        Raises:
            VocabularyError: no names, blank ones, duplicates, or a name too long for the tower's context.
        """
        cleaned = clean_names(names)
        for name in cleaned:
            if name not in self._memory and (cached := self._read(name)) is not None:
                self._memory[name] = cached
        missing = [name for name in cleaned if name not in self._memory]
        if missing:
            for name, embedding in zip(missing, self._embed(missing), strict=True):
                self._memory[name] = embedding
                self._write(name, embedding)
        device = self.text_tower.net.positional_embedding.device
        return Vocabulary(cleaned, torch.stack([self._memory[name] for name in cleaned]).to(device))

    def forget(self) -> None:
        """Drop the embeddings in memory; needed only after the tower's weights were replaced."""
        self._memory.clear()
        self.text_tower.__dict__.pop("fingerprint", None)

    # Kept embeddings may be used in training later, so they must not be born as inference tensors.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _embed(self, names: Sequence[str]) -> Tensor:
        sentences = TEMPLATE_SETS[self.templates]
        for name in names:
            self._check_length(name, sentences)
        texts = [sentence.format(name) for name in names for sentence in sentences]
        embeddings = self.text_tower.encode(texts).unflatten(0, (len(names), len(sentences)))
        return F.normalize(embeddings.mean(dim=1), dim=-1).float().cpu()

    def _check_length(self, name: str, sentences: Sequence[str]) -> None:
        try:
            for sentence in sentences:
                self.text_tower.tokenize(sentence.format(name))
        except VocabularyError as error:
            raise VocabularyError(
                f"class name {name!r}: expected to fit the text tower's context of "
                f"{self.text_tower.context_length} tokens, got more; use a shorter name"
            ) from error

    def _file(self, name: str) -> Path | None:
        if self.cache_dir is None:
            return None
        key = f"{self.text_tower.fingerprint}\n{self.templates}\n{name}"
        return self.cache_dir / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.npy"

    def _read(self, name: str) -> Tensor | None:
        file = self._file(name)
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

    def _write(self, name: str, embedding: Tensor) -> None:
        file = self._file(name)
        if file is None:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # A reader must never meet half a file: write beside it, then rename.
            with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
                np.save(part, embedding.numpy())
            os.replace(part.name, file)
        except OSError as error:
            _LOG.warning("class embeddings cannot be cached in %s: %s", file.parent, error)
            self.cache_dir = None
