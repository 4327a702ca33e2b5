"""Loading draws no numbers, and gives what building and loading over it gives, buffers that no file holds included."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cora.detector import Detector, DetectorConfig, load, load_checkpoint, read_checkpoint
from cora.detector.skip_init import SkipInit
from cora.localizer import LocalizerConfig
from cora.regions import LearnedTextConfig
from cora.towers.weights import load_checked
from tests import toys
from tests.detector.conftest import tiny_config
from tests.detector.test_sharing import header
from tests.toy_nano import nano_config


def learned_config() -> DetectorConfig:
    return replace(tiny_config(), text=LearnedTextConfig(kind="offsets", rank=4, width=32), fast_alignment=True)


def proposed_config() -> DetectorConfig:
    tiny = tiny_config()
    localizer: LocalizerConfig = replace(tiny.localizer, anchors="proposed")
    return replace(tiny, localizer=localizer)


def convnext_config() -> DetectorConfig:
    return toys.toy_config(tower=toys.CONVNEXT)


CONFIGS = {
    "resnet": tiny_config,
    "convnext": convnext_config,
    "timm": nano_config,
    "learned": learned_config,
    "proposed": proposed_config,
}


def everything(detector: Detector) -> dict[str, Tensor]:
    return {**dict(detector.named_parameters()), **dict(detector.named_buffers())}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("kind", CONFIGS)
def test_the_same_as_built_and_loaded_over(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    Detector.build(CONFIGS[kind](), cache_dir=tmp_path).save(file, dtype=dtype)
    config, weights = read_checkpoint(file)
    expected = Detector.build(config, cache_dir=tmp_path)
    load_checked(expected, weights, source="test")
    expected.eval()
    loaded = load_checkpoint(file)
    own, other = everything(loaded), everything(expected)
    assert own.keys() == other.keys()
    for name, value in other.items():
        assert torch.equal(own[name], value), name
        assert own[name].dtype == value.dtype, name
        assert own[name].requires_grad == value.requires_grad, name
    assert all(not module.training for module in loaded.modules())


def test_no_number_is_drawn(tmp_path: Path) -> None:
    Detector.build(nano_config(), cache_dir=tmp_path).save(tmp_path / "model.safetensors")
    before = torch.get_rng_state()
    load_checkpoint(tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_training_leaves_the_file_alone(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "model.safetensors", dtype=torch.float32)
    before = (tmp_path / "model.safetensors").read_bytes()
    loaded = load(tmp_path / "model.safetensors")
    values = [value for value in loaded.parameters() if value.requires_grad]
    assert all(value.is_leaf for value in values)
    with torch.no_grad():
        for value in values:
            value.add_(1.0)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert torch.equal(load(tmp_path / "model.safetensors").prompt.offset, detector.prompt.offset)


def test_weights_of_another_type_are_converted(detector: Detector, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    detector.save(file)
    save_file({**load_file(file), "prompt.offset": torch.ones(5, 256, dtype=torch.int32)}, file, metadata=header(file))
    assert load(file).prompt.offset.dtype == torch.float32


def test_outside_of_it_numbers_are_drawn() -> None:
    with SkipInit():
        pass
    torch.manual_seed(0)
    first = torch.nn.Linear(4, 4).weight
    torch.manual_seed(0)
    assert torch.equal(first, torch.nn.Linear(4, 4).weight)
    assert first.std() > 0
