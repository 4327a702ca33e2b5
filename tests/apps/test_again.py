"""The same command over its own earlier output, with a tiny model: allowed for every kind of result."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cora.apps.cli import main
from tests.detector.conftest import tiny_detector

OUTPUTS = ("--output", "--json", "--picture", "--plot", "--report", "--save-model", "--cache", "--run")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    tiny_detector(tmp_path / "cache").save(tmp_path / "model.safetensors")
    images: list[dict[str, object]] = []
    boxes: list[dict[str, object]] = []
    generator = np.random.default_rng(0)
    for number in range(1, 4):
        Image.fromarray(generator.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(f"photos/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
        for category in (1, 2):
            box = [40 * (category - 1) + 4, 8, 40, 40]
            entry = {"image_id": number, "category_id": category, "bbox": box, "area": 1600, "iscrowd": 0}
            boxes.append({"id": len(boxes) + 1, **entry})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    Path("boxes.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))


MEASURED = "--images photos --annotations boxes.json --model model.safetensors --device cpu"
MODEL = "--model model.safetensors --device cpu"


@pytest.mark.parametrize(
    "command",
    [
        f"detect photos --classes cat --score 0 {MODEL} --json a.json",
        f"evaluate {MEASURED} --resamples 2 --json a.json --report r",
        f"region-accuracy {MEASURED} --resamples 2 --json a.json",
        f"groups {MEASURED} --groups 2 --json a.json --picture a.png",
        f"relabel {MEASURED} --output a.json --json b.json --plot c.png",
        f"pseudo-label photos --classes cat {MODEL} --score 0 --output a.json",
        f"pseudo-label photos --classes cow {MODEL} --score 0 --output a.json --real boxes.json --merge",
        f"text-prompts {MEASURED} --method offsets --epochs 1 --output t.safetensors --save-model m.safetensors "
        "--cache kept --run runs",
        "cam photos/1.png --classes cat --tower model.safetensors --device cpu --layers 1 --output a.png",
        f"align --images photos {MODEL} --exact-boxes 4 --output a.safetensors --json a.json",
        f"prune --images photos {MODEL} --ffn 0.5 --output a.safetensors --json a.json",
    ],
)
def test_again(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = command.split()
    for _ in range(2):
        assert main(words) == 0, capsys.readouterr().err
        assert all(Path(word).exists() for flag, word in pairwise(words) if flag in OUTPUTS)
