"""Two files in one folder: the second leaves what it shares to the first, and refuses another in its place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cora.detector import Detector, DetectorConfig, load, presets, read_config, write_sharing_checkpoint
from cora.errors import ModelError
from tests.detector.conftest import tiny_detector

Pair = tuple[Path, Path]


def header(file: Path) -> dict[str, str]:
    with safe_open(str(file), framework="pt") as content:
        return dict(content.metadata())


def say(path: Path, **entries: object) -> None:
    """Write a file again with other entries of what it shares."""
    metadata = header(path)
    metadata["shares"] = json.dumps({**json.loads(metadata["shares"]), **entries})
    save_file(load_file(path), path, metadata=metadata)


def one_line(file: Path) -> str:
    with pytest.raises(ModelError) as raised:
        load(file)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def strict(tmp_path: Path) -> Detector:
    """Another localizer on the same towers."""
    detector = tiny_detector(tmp_path / "cache")
    with torch.no_grad():
        for value in detector.localizer.parameters():
            value.add_(0.01)
    return detector


@pytest.fixture
def pair(detector: Detector, strict: Detector, tmp_path: Path) -> Pair:
    whole, sharing = tmp_path / "nano.safetensors", tmp_path / "nano-ovcoco.safetensors"
    detector.save(whole)
    write_sharing_checkpoint(sharing, strict.config, strict.state_dict(), beside=whole)
    return whole, sharing


def test_what_was_shared_comes_back(pair: Pair, strict: Detector, tmp_path: Path) -> None:
    whole, sharing = pair
    strict.save(tmp_path / "alone.safetensors")
    alone, loaded = load(tmp_path / "alone.safetensors"), load(sharing)
    assert loaded.config == alone.config
    assert loaded.state_dict().keys() == alone.state_dict().keys()
    for name, value in alone.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert sharing.stat().st_size < whole.stat().st_size / 2


def test_only_identical_tensors_are_left_out(pair: Pair, strict: Detector) -> None:
    whole, sharing = pair
    shares, own, other = json.loads(header(sharing)["shares"]), load_file(sharing), load_file(whole)
    assert shares["file"] == "nano.safetensors"
    assert own.keys() | set(shares["tensors"]) == strict.state_dict().keys()
    assert not own.keys() & set(shares["tensors"])
    towers = {name for name in strict.state_dict() if name.startswith(("image_tower.", "text_tower."))}
    assert towers <= set(shares["tensors"])
    assert all(not torch.equal(value, other[name]) for name, value in own.items())


def test_the_sign_of_zero_counts(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "nano.safetensors")
    with torch.no_grad():
        detector.prompt.offset.mul_(-1)  # zeros
    shared = write_sharing_checkpoint(
        tmp_path / "other.safetensors", detector.config, detector.state_dict(), beside=tmp_path / "nano.safetensors"
    )
    assert detector.state_dict().keys() - set(shared) == {"prompt.offset"}
    assert torch.signbit(load(tmp_path / "other.safetensors").prompt.offset).all()


def test_a_file_that_shares_nothing_is_whole(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "nano.safetensors", dtype=torch.float32)
    floats = {name: value for name, value in detector.state_dict().items() if value.is_floating_point()}
    other = tmp_path / "other.safetensors"
    assert write_sharing_checkpoint(other, detector.config, floats, beside=tmp_path / "nano.safetensors") == ()
    assert "shares" not in header(other)
    (tmp_path / "nano.safetensors").unlink()
    assert read_config(other) == (detector.config, None)
    assert load(other).config == detector.config


def test_save_writes_whole_files(pair: Pair, tmp_path: Path) -> None:
    saved = tmp_path / "elsewhere" / "model.safetensors"
    load(pair[1]).save(saved)
    assert "shares" not in header(saved)
    assert load(saved).state_dict().keys() == load(pair[1]).state_dict().keys()


def test_read_config_reads_no_weights(pair: Pair, strict: Detector) -> None:
    pair[0].unlink()
    assert read_config(pair[1]) == (strict.config, "nano.safetensors")


def test_alone_it_is_refused(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    shutil.copy(pair[1], tmp_path / "alone")
    message = one_line(tmp_path / "alone" / pair[1].name)
    assert "expected nano.safetensors in its folder, which holds" in message
    assert "got none; keep both files together" in message


def test_another_file_in_its_place_is_refused(pair: Pair, tmp_path: Path) -> None:
    whole, sharing = pair
    tiny_detector(tmp_path / "cache", seed=1).save(whole)
    message = one_line(sharing)
    assert "expected tensors of fingerprint " in message
    assert "take both files from one release" in message


Change = Callable[[dict[str, torch.Tensor], str], dict[str, torch.Tensor]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, name: {key: value for key, value in tensors.items() if key != name}, "got 1 missing"),
        (lambda tensors, name: {**tensors, name: tensors[name][:-1].clone()}, "expected tensors of fingerprint"),
        (lambda tensors, name: {**tensors, name: tensors[name].float()}, "expected tensors of fingerprint"),
        (lambda tensors, name: {**tensors, name: tensors[name].flip(0)}, "expected tensors of fingerprint"),
    ],
)
def test_a_changed_tensor_is_refused(pair: Pair, change: Change, message: str) -> None:
    whole, sharing = pair
    changed = change(load_file(whole), "text_tower.net.token_embedding.weight")
    save_file(changed, whole, metadata=header(whole))
    assert message in one_line(sharing)


@pytest.mark.parametrize(
    "name",
    [
        "../nano.safetensors",
        "/etc/passwd",
        "sub/nano.safetensors",
        "sub\\nano.safetensors",
        "C:nano.safetensors",
        "..",
        ".safetensors",
        "",
        "nano.pt",
        "nano.safetensors\n",
        "nano.safetensors\0",
        7,
        None,
        ["nano.safetensors"],
    ],
)
def test_no_other_folder_is_looked_into(pair: Pair, name: Any) -> None:
    whole, sharing = pair
    (sharing.parent / "sub").mkdir()
    shutil.copy(whole, sharing.parent / "sub")
    say(sharing, file=name)
    assert "expected the name of a .safetensors file without a folder, got " in one_line(sharing)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"tensors": []}, "expected names of tensors, each once"),
        ({"tensors": [1]}, "expected names of tensors, each once"),
        ({"tensors": ["prompt.offset", "prompt.offset"]}, "expected names of tensors, each once"),
        ({"tensors": 3}, "expected file, tensors and fingerprint, got others"),
        ({"tensors": ["localizer.objectness_head.weight"]}, "expected tensors either in it or in nano.safetensors"),
        ({"tensors": ["a\nb"]}, r"got 1 missing, for example 'a\nb'"),
        ({"fingerprint": "00"}, "expected a fingerprint of 64 hexadecimal digits, got '00'"),
        ({"fingerprint": None}, "expected a fingerprint of 64 hexadecimal digits, got None"),
        ({"file": "nano-ovcoco.safetensors"}, "missing, for example"),
    ],
)
def test_what_it_says_of_sharing_is_checked(pair: Pair, entries: dict[str, object], message: str) -> None:
    say(pair[1], **entries)
    assert message in one_line(pair[1])


@pytest.mark.parametrize("said", ["", "[]", "nonsense", "{}", "[" * 100_000])
def test_no_json_of_the_right_kind(pair: Pair, said: str) -> None:
    save_file(load_file(pair[1]), pair[1], metadata={**header(pair[1]), "shares": said})
    assert "shared tensors: expected file, tensors and fingerprint, got others" in one_line(pair[1])


def test_what_can_be_shared_with(pair: Pair, strict: Detector, tmp_path: Path) -> None:
    whole, sharing = pair
    weights = strict.state_dict()

    def write(path: Path, beside: Path) -> None:
        write_sharing_checkpoint(path, strict.config, weights, beside=beside)

    with pytest.raises(ModelError, match="expected another file of its folder to share with"):
        write(tmp_path / "sub" / "new.safetensors", whole)
    with pytest.raises(ModelError, match="expected another file of its folder to share with"):
        write(whole, whole)
    with pytest.raises(ModelError, match=r"expected a whole file to share with, got .* which shares, too"):
        write(tmp_path / "new.safetensors", sharing)
    with pytest.raises(ModelError, match="expected an existing file, got none"):
        write(tmp_path / "new.safetensors", tmp_path / "none.safetensors")
    shutil.copy(whole, tmp_path / "my nano.safetensors")
    with pytest.raises(ModelError, match="its name of letters, digits"):
        write(tmp_path / "new.safetensors", tmp_path / "my nano.safetensors")
    assert not (tmp_path / "new.safetensors").exists()


def test_a_chain_is_not_followed(pair: Pair, tmp_path: Path) -> None:
    sharing = pair[1]
    third = tmp_path / "third.safetensors"
    shutil.copy(sharing, third)
    say(third, file=sharing.name)
    assert "missing, for example" in one_line(third)


def test_embedded_pair(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "_assets", lambda: tmp_path)
    config: DetectorConfig = load("nano").config
    assert load("nano-ovcoco").config == config
    pair[0].unlink()
    with pytest.raises(ModelError, match=r"expected nano\.safetensors in its folder"):
        load("nano-ovcoco")
