"""The benchmark of the localizer's options, on toy images."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.localizer_options import ROWS, STRIDES, StrideDetector, main, told, unrefined
from tests.toy_nano import nano_config, toy_nano, write_boxed_photos

PLAIN = nano_config(detector=False, box_stages=(3, 4), fine_bins=2)
CONFIG = replace(PLAIN, localizer=replace(PLAIN.localizer, refinement=12))


def test_anchors_come_from_the_cells_of_the_strides_that_are_kept(tmp_path: Path) -> None:
    detector = toy_nano(tmp_path, CONFIG)
    batch = detector.preprocessor([Image.new("RGB", (150, 100), "red")])
    with torch.no_grad():
        c3, _ = detector.encode(batch)
        memory = detector.encode_map(c3)
        proposals = detector.localizer.propose(memory).boxes_cxcywh[0]
        every = StrideDetector.of(detector, strides=(8, 16, 32, 64))
        assert torch.equal(every.anchors(every.encode_map(c3)), detector.anchors(memory))
        one = StrideDetector.of(detector, strides=(16,))
        anchors = one.anchors(one.encode_map(c3))[0]
    coarse = c3.mask.numel()  # cells of stride 32; those of stride 8 come first, then those of stride 16
    own = proposals[16 * coarse : (16 + 4) * coarse]
    assert CONFIG.localizer.num_queries == len(anchors) < len(own)
    assert all(any(torch.equal(anchor, box) for box in own) for anchor in anchors)


def test_unrefined_boxes_are_those_of_the_decoder(tmp_path: Path) -> None:
    detector = toy_nano(tmp_path, CONFIG)
    plain = unrefined(detector)
    batch = detector.preprocessor([Image.new("RGB", (150, 100), "red")])
    vocabulary = detector.vocabulary_encoder.encode(["cat", "dog"])
    with torch.no_grad():
        seen = detector.see(batch)
        matched = detector.pre_match(seen.prepared, seen.anchors_cxcywh, vocabulary)
        refined, decoded = detector.decode(seen.memory, matched), plain.decode(seen.memory, matched)
    assert torch.equal(decoded.boxes_cxcywh, refined.boxes_cxcywh[:-1])
    assert not torch.equal(decoded.boxes_cxcywh[-1], refined.boxes_cxcywh[-1])


@pytest.mark.integration
def test_both_tables_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_boxed_photos(tmp_path / "photos")
    data = tmp_path / "kit" / "coco_ovd_mini"
    for part, boxes in (("train", "train_base.json"), ("val", "val.json")):
        shutil.copytree(photos / "images", data / part)
        shutil.copy(photos / "boxes.json", data / boxes)
    shutil.copy(photos / "split.json", data / "class_split.json")
    model, output = tmp_path / "model.safetensors", tmp_path / "options"
    toy_nano(tmp_path / "cache", CONFIG).save(model)
    command = ["--kit", str(tmp_path / "kit"), "--output", str(output), "--model", str(model)]
    main([*command, "--images", "1", "--batch", "1", "--rounds", "2", "--resamples", "10"])
    text = (output / "table.md").read_text()
    assert text in capsys.readouterr().out
    lines = text.splitlines()
    assert [line.split(" | ")[0] for line in lines[2 : 2 + len(ROWS)]] == [f"| {row}" for row in ROWS]
    assert lines[2] == "| full | 1 | 1 |"
    parts = ["all", "no refinement", *(f"strides {told(strides)}" for strides in STRIDES)]
    assert [line.split(" | ")[0] for line in lines[-len(parts) :]] == [f"| {part}" for part in parts]
