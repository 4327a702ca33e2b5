"""A trained study as one safetensors file: configuration in the metadata, weights of the trainable part."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from cora.detector.checkpoint import write_tensors
from cora.errors import ModelError
from cora.files import read_safetensors
from cora.study.build import build_model
from cora.study.config import StudyConfig
from cora.study.model import StudyModel
from cora.towers.weights import load_checked

FORMAT = "cora-study"


@dataclass(frozen=True, kw_only=True)
class TrainedStudy:
    """The result of `cora study train`.

    Attributes:
        config: of the study; the frozen part is rebuilt from it.
        model: the trainable part, in evaluation mode.
        class_names: the classes that it learned.
    """

    config: StudyConfig
    model: StudyModel
    class_names: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Write the file whole or not at all.

        Raises:
            ModelError: it cannot be written.
        """
        metadata = {
            "format": FORMAT,
            "config": json.dumps(self.config.to_dict()),
            "class_names": json.dumps(self.class_names),
        }
        write_tensors(path, self.model.state_dict(), metadata)


def read_study(path: Path) -> TrainedStudy:
    """The reverse of `TrainedStudy.write`.

    Raises:
        ModelError: no such file, or none that `cora study train` wrote.
        DataError: settings that this version does not know.
    """
    if not path.is_file():
        raise ModelError(f"study {path}: expected a file that 'cora study train' wrote, got none")
    try:
        metadata, weights = read_safetensors(path)
        if metadata.get("format") != FORMAT:
            raise ModelError(f"study {path}: expected a file that 'cora study train' wrote, got another kind of file")
        config = StudyConfig.from_dict(json.loads(metadata["config"]))
        class_names = tuple(str(name) for name in json.loads(metadata["class_names"]))
        width = len(weights["head.patch_norm.weight"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(
            f"study {path}: expected a file that 'cora study train' wrote, could not read it ({error})"
        ) from error
    model = build_model(config.model, feature_width=width, seed=0)
    load_checked(model, weights, source=f"study {path}")
    return TrainedStudy(config=config, model=model.eval(), class_names=class_names)
