"""Keeps the encoded vocabularies of recent requests."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from cora.names import name_key
from cora.predictor import Predictor
from cora.regions import ClassPrompts, Vocabulary, VocabularyEncoder, by_themselves, class_prompts

#: Classes and distractors of a request; None where it has none.
_Key = tuple[tuple[str, ...] | None, tuple[str, ...] | None]


class VocabularyCache:
    """A cache of the most recently used vocabularies; only the thread that owns the detector may use it.

    A service may run for weeks, with ever new names. So this cache and the memory of the detector's own encoder are
    bounded, and nothing is written to the disk.

    Args:
        detector: encodes the names.
        max_names: largest number of names and prompts to keep; the embedding of each takes a few kilobytes.
        class_weights: class name -> factor on its score in pre-matching, for the classes that a request names.
    """

    def __init__(
        self, *, detector: Predictor, max_names: int = 20_000, class_weights: Mapping[str, float] | None = None
    ) -> None:
        self.max_names = max_names
        self._detector = detector
        encoder = detector.vocabulary_encoder
        # An exported model with fixed names has no encoder whose memory could grow.
        self._encoder = encoder if isinstance(encoder, VocabularyEncoder) else None
        if self._encoder is not None:
            self._encoder.cache_dir = None
        self._kept: OrderedDict[_Key, Vocabulary] = OrderedDict()
        self._weights = {name_key(name): weight for name, weight in (class_weights or {}).items()}
        self._names = 0
        self._encoded = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, classes: Sequence[str] | None, distractors: Sequence[str] | None) -> Vocabulary:
        """The vocabulary of these names on the detector's device, from the cache if it is there.

        Args:
            classes: names to look for, with prompts or without; None for the model's own, or the built-in vocabulary.
            distractors: names that compete with the classes; None for the model's own choice.

        Raises:
            VocabularyError: the names are unusable.
        """
        key: _Key = (_frozen(classes), _frozen(distractors))
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        asked = self._classes_of(key)
        self._make_room(self._size(key))
        weights = {name: self._weights[name_key(name)] for name in asked if name_key(name) in self._weights}
        vocabulary = self._detector.vocabulary(
            None if classes is None else asked, distractors=distractors, class_weights=weights or None
        )
        self._kept[key] = vocabulary
        self._names += self._size(key)
        return vocabulary

    def count(self, names: int) -> None:
        """Count names that are about to be encoded, and empty the encoder's memory when it would hold too many."""
        self._encoded += names
        if self._encoded > self.max_names and self._encoder is not None:
            self._encoder.forget()
            self._encoded = names

    def _make_room(self, size: int) -> None:
        while self._kept and self._names + size > self.max_names:
            key, _ = self._kept.popitem(last=False)
            self._names -= self._size(key)
        self.count(size)

    def _classes_of(self, key: _Key) -> ClassPrompts:
        classes, _ = key
        return by_themselves(self._detector.usual_names) if classes is None else class_prompts(classes)

    def _size(self, key: _Key) -> int:
        _, distractors = key
        return sum(map(len, self._classes_of(key).values())) + len(distractors or ())


def _frozen(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)
