"""Text artefacts: a small file with learned text only, instead of a copy of the whole detector."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from cora.detector.checkpoint import write_tensors
from cora.detector.cora import Detector
from cora.errors import ModelError
from cora.files import read_safetensors
from cora.regions import LearnedText, LearnedTextConfig, build_learned_text, clean_templates
from cora.towers import TextTower
from cora.towers.weights import load_checked, why_unreadable

FORMAT = "cora-text"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TextArtefact:
    """What training of the text side learned. It applies only to the text tower and templates it was trained with.

    Attributes:
        kind: "context" or "offsets" (`LearnedText`), or "tower" (fine-tuned weights of the text tower).
        tensors: state dict of the learned text, or the weights of the text tower that changed.
        tower: `tower_digest` of the text tower before training.
        templates: the templates used in training.
        config: sizes of the learned text; None for "tower".
        notes: free text for users, such as the training data and measured numbers.
    """

    kind: Literal["context", "offsets", "tower"]
    tensors: Mapping[str, Tensor]
    tower: str
    templates: tuple[str, ...]
    config: LearnedTextConfig | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.config.kind if self.config is not None else "tower") != self.kind:
            raise ValueError(f"text artefact: expected the sizes of {self.kind!r}, got {self.config}")

    @classmethod
    def of_learned(
        cls, learned: LearnedText, detector: Detector, notes: Mapping[str, str] | None = None
    ) -> TextArtefact:
        """Make an artefact from a context or offsets that were trained for `detector`."""
        return cls(
            kind=learned.config.kind,
            tensors={name: value.detach().clone() for name, value in learned.state_dict().items()},
            tower=tower_digest(detector.text_tower),
            templates=clean_templates(detector.vocabulary_encoder.templates),
            config=learned.config,
            notes=notes or {},
        )

    @classmethod
    def of_tower(cls, tuned: TextTower, detector: Detector, notes: Mapping[str, str] | None = None) -> TextArtefact:
        """Make an artefact from a fine-tuned copy of `detector`'s text tower: the weights that differ.

        They are rounded to half precision, as in model files, so that saving a detector with this artefact does not
        change its class embeddings.

        Raises:
            ModelError: a weight does not fit into half precision.
        """
        before = detector.text_tower.net.state_dict()
        changed = {
            name: value.detach().half()
            for name, value in tuned.net.state_dict().items()
            if not value.equal(before[name])
        }
        overflow = [name for name, value in changed.items() if not bool(value.isfinite().all())]
        if overflow:
            raise ModelError(f"tuned text tower: expected finite weights, got {len(overflow)} not, as {overflow[0]}")
        return cls(
            kind="tower",
            tensors=changed,
            tower=tower_digest(detector.text_tower),
            templates=clean_templates(detector.vocabulary_encoder.templates),
            notes=notes or {},
        )

    def apply(self, detector: Detector) -> None:
        """Add the learned text to `detector`, whose templates become those of the artefact.

        Raises:
            ModelError: the artefact was trained for another text tower, or `detector` already has learned text.
        """
        if self.tower != tower_digest(detector.text_tower):
            raise ModelError(
                f"text artefact ({self.kind}): expected the text tower it was trained on ({self.tower}), "
                f"got {tower_digest(detector.text_tower)}; train it again for this model"
            )
        if detector.learned_text is not None:
            raise ModelError(
                f"text artefact ({self.kind}): expected a detector without learned text, got one with "
                f"{detector.learned_text.config.kind}; start from the model it was made of"
            )
        if self.config is None:
            net = detector.text_tower.net
            load_checked(
                net, net.state_dict() | {k: v.float() for k, v in self.tensors.items()}, source="text artefact"
            )
        else:
            learned = build_learned_text(self.config)
            load_checked(learned, self.tensors, source="text artefact")
            detector.learn_text(learned)
        # If the sentences are the same, the encoder keeps the name of their template set.
        if clean_templates(detector.vocabulary_encoder.templates) != self.templates:
            detector.vocabulary_encoder.templates = self.templates
        detector.vocabulary_encoder.forget()

    def write(self, path: str | Path) -> None:
        """Write the artefact as one safetensors file.

        Raises:
            ModelError: the file cannot be written.
        """
        content = {
            "kind": self.kind,
            "tower": self.tower,
            "templates": list(self.templates),
            "config": None if self.config is None else asdict(self.config),
            "notes": dict(self.notes),
        }
        metadata = {"format": FORMAT, "version": str(FORMAT_VERSION), "content": json.dumps(content)}
        write_tensors(Path(path), self.tensors, metadata)

    @classmethod
    def read(cls, path: str | Path) -> TextArtefact:
        """Read an artefact, the reverse of `write`.

        Raises:
            ModelError: no such file, not a text artefact, or another format version.
        """
        file = Path(path)
        if not file.is_file():
            raise ModelError(f"text artefact {file}: expected an existing file, got none")
        try:
            metadata, tensors = read_safetensors(file)
            if (metadata.get("format"), metadata.get("version")) != (FORMAT, str(FORMAT_VERSION)):
                raise ModelError(
                    f"text artefact {file}: expected {FORMAT} of version {FORMAT_VERSION}, "
                    f"got {metadata.get('format')} of version {metadata.get('version')}"
                )
            content = json.loads(metadata["content"])
            config = content["config"]
            return cls(
                kind=content["kind"],
                tensors=tensors,
                tower=content["tower"],
                templates=clean_templates(content["templates"]),
                config=None if config is None else LearnedTextConfig(**config),
                notes=content["notes"],
            )
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"text artefact {file}: expected a file of `cora text-prompts`, could not read it "
                f"({why_unreadable(error)})"
            ) from error


def tower_digest(text_tower: TextTower) -> str:
    """Hash of a text tower's weights in half precision, so that saving a model in half precision does not change it."""
    digest = hashlib.sha256()
    for name, value in sorted(text_tower.net.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()[:20]
