"""`cora finetune` on toy images: measured before and after, old names untouched, a stop costs nothing."""

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

import cora
from cora.apps.cli import main
from cora.data.coco import CocoDataset
from cora.data.hold_out import divide_images
from cora.detector import Detector, DetectorConfig
from cora.errors import DataError
from cora.evaluation.before_after import forgotten
from cora.evaluation.best_threshold import BestThreshold
from cora.evaluation.held_out import HeldOut
from cora.predictor.exemplars import embed_exemplars
from cora.training import pipeline
from cora.training.ema import Ema
from tests.tolerances import assert_near
from tests.toy_nano import nano_config, toy_nano, write_boxed_photos

pytestmark = pytest.mark.integration

Capture = pytest.CaptureFixture[str]


def command(model: Path, folder: Path, run: Path, *more: str) -> list[str]:
    photos = ["--images", str(folder / "images"), "--annotations", str(folder / "annotations.json")]
    small = ["--epochs", "2", "--set", "names.epochs=2", "--set", "data.versions=1", "--device", "cpu"]
    return ["finetune", *photos, "--model", str(model), "--run", str(run), *small, *more]


def remember(folder: Path) -> list[str]:
    photos = ["--remember-images", str(folder / "images"), "--remember-annotations", str(folder / "annotations.json")]
    return [*photos, "--remember-split", str(folder / "split.json")]


def test_finetune_measures_and_writes(
    tiny_model: Path, boxed_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "own.safetensors"
    more = ["--novel", "blue square", "--output", str(output), *remember(boxed_photos)]
    assert main(command(tiny_model, boxed_photos, tmp_path / "run", *more)) == 0
    out = capsys.readouterr().out
    assert "2 images are held out" in out
    for row in ("own photos, base", "own photos, novel", "remembered, base", "remembered, novel", "before", "after"):
        assert row in out
    assert "Held-out images, by class" in out
    assert f"--model {output}" in out.splitlines()[-1]
    assert out.splitlines()[-1].startswith("Next: cora detect ")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    kept = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert [Path(path).name for path in report["held_out"]] == [image["file_name"] for image in kept["images"]]
    assert len(kept["images"]) == 2
    assert set(report["classes_after"]) <= {"red square", "green square", "blue square"}
    assert (tmp_path / "run" / "missed.jpg").is_file()
    measured = tmp_path / "measured.json"
    assert main(["evaluate", "--run", str(tmp_path / "run"), "--json", str(measured), "--device", "cpu"]) == 0
    again = json.loads(measured.read_text())
    assert again["model"]["name"] == str(tmp_path / "run" / "model.safetensors")
    assert (again["images"], again["boxes"]) == (2, len(kept["annotations"]))
    assert again["vocabulary"] == [category["name"] for category in kept["categories"]]
    assert report["classes"] == {"base": ["red square", "green square"], "novel": ["blue square"]}
    assert report["photos"]["held_out"] == 2
    assert report["score_threshold"].keys() == {"stored", "images", "held_out", "best"}
    assert (report["score_threshold"]["images"], report["score_threshold"]["held_out"]) == (2, True)
    assert report["before"].keys() == report["after"].keys() == {"own photos", "remembered"}
    before, after = cora.load(tiny_model), cora.load(output)
    old = before.vocabulary_encoder.encode(["dog", "blue square"]).embeddings
    torch.testing.assert_close(after.vocabulary_encoder.encode(["dog", "blue square"]).embeddings, old)
    taught = after.vocabulary_encoder.encode(["Red square"]).embeddings
    assert not torch.allclose(taught, before.vocabulary_encoder.encode(["Red square"]).embeddings, atol=1e-3)
    assert torch.equal(after.prompt.offset, before.prompt.offset)
    assert after.own_names == cora.load(tmp_path / "run" / "model.safetensors").own_names == tuple(again["vocabulary"])
    photo = str(next((boxed_photos / "images").iterdir()))
    drawn = ["--output", str(tmp_path / "drawn"), "--json", str(tmp_path / "found.json"), "--device", "cpu"]
    capsys.readouterr()
    assert main(["detect", photo, "--model", str(output), *drawn]) == 0
    own = "Class names that the model was fine-tuned on: red square, green square, blue square (--classes looks for"
    assert capsys.readouterr().out.startswith(own)
    found = json.loads((tmp_path / "found.json").read_text())
    assert [category["name"] for category in found["categories"]] == ["red square", "green square", "blue square"]


def test_threshold_is_set_on_held_out_images_and_nothing_competes(
    tiny_model: Path, boxed_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    start = cora.load(tiny_model)
    start.config = replace(start.config, postprocess=replace(start.config.postprocess, distractors="everyday"))
    start.save(tmp_path / "start.safetensors")
    asked: list[tuple[int, tuple[str, ...]]] = []

    def found(self: HeldOut, detector: Detector, **options: object) -> BestThreshold:
        asked.append((len(self.dataset), self.dataset.class_names))
        return BestThreshold(threshold=0.37, precision=0.8, recall=0.5, f1=0.615)

    monkeypatch.setattr(HeldOut, "best_threshold", found)
    output = tmp_path / "own.safetensors"
    run = command(tmp_path / "start.safetensors", boxed_photos, tmp_path / "run", "--output", str(output))
    assert main(run) == 0
    out = capsys.readouterr().out
    assert (
        "Score threshold 0.37, for the best F1: 61.5 % (precision 80.0 %, recall 50.0 %), on 2 images held out" in out
    )
    for file in (output, tmp_path / "run" / "model.safetensors"):
        postprocess = cora.load(file).config.postprocess
        assert (postprocess.score_threshold, postprocess.distractors) == (0.37, "none")
    assert main([*run, "--hold-out", "0", "--run", str(tmp_path / "all")]) == 0
    assert "on 10 images of the training, as none is held out" in capsys.readouterr().out
    assert [count for count, _ in asked] == [2, 10]
    monkeypatch.setattr(HeldOut, "best_threshold", lambda self, detector, **options: None)
    assert main(run) == 0
    out = capsys.readouterr().out
    assert "No box is right at any score threshold from 0.05 to 0.9 on 2 images held out" in out
    assert "the score threshold stays 0.3" in out


def test_finetune_goes_on_after_ctrl_c_to_the_same_result(tiny_model: Path, boxed_photos: Path, tmp_path: Path) -> None:
    whole, parts, update, steps = tmp_path / "whole", tmp_path / "parts", Ema.update, []
    assert main(command(tiny_model, boxed_photos, whole)) == 0

    def interrupting(self: Ema, module: torch.nn.Module) -> None:
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        update(self, module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ema, "update", interrupting)
        assert main(command(tiny_model, boxed_photos, parts)) == 130
    assert not (parts / "model.safetensors").exists()
    assert main(command(tiny_model, boxed_photos, parts)) == 0
    expected, found = load_file(whole / "model.safetensors"), load_file(parts / "model.safetensors")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    reports = [json.loads((run / "report.json").read_text()) for run in (whole, parts)]
    assert reports[0]["after"] == reports[1]["after"]


def test_a_finished_run_says_so_and_one_of_other_data_what_differs(
    tiny_model: Path, boxed_photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    run = command(tiny_model, boxed_photos, tmp_path / "run")
    assert main(run) == 0
    assert "this run is finished" not in capsys.readouterr().err
    assert not (tmp_path / "run" / "run.lock").exists()
    before = (tmp_path / "run" / "before.json").read_bytes()
    assert main(run) == 0
    err = capsys.readouterr().err
    for stage in ("names", "localizer"):
        assert f"cora: {stage}: this run is finished, with " in err
    content = json.loads((boxed_photos / "annotations.json").read_text())
    content["annotations"] = content["annotations"][1:]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    run[run.index("--annotations") + 1] = str(other)
    assert main(run) == 2
    err = capsys.readouterr().err
    assert "names is a run of another configuration: boxes was" in err
    assert re.search(r": (before|both have) \d+ boxes in 8 images, classes red square, green square", err)
    assert (tmp_path / "run" / "before.json").read_bytes() == before  # nothing was measured in vain


def test_a_run_of_other_pixels_under_the_same_names_is_refused(
    tiny_model: Path, boxed_photos: Path, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(boxed_photos, tmp_path / "photos")
    run = command(tiny_model, tmp_path / "photos", tmp_path / "run")
    assert main(run) == 0
    for path in (tmp_path / "photos" / "images").iterdir():
        with Image.open(path) as image:
            ImageOps.invert(image.convert("RGB")).save(path)
    capsys.readouterr()
    assert main(run) == 2
    err = capsys.readouterr().err
    assert re.search(r"is a run of another configuration: images was \w+, now \w+: both have 8 files, but not", err)
    stored = tmp_path / "run" / "names" / "run.json"
    content = json.loads(stored.read_text())
    stored.write_text(json.dumps({key: content[key] for key in content if "images" not in key}))  # by an older version
    assert main(run) == 2
    assert "localizer is a run of another configuration: images was" in capsys.readouterr().err


def test_keeping_a_share_of_the_old_localizer_trains_nothing_anew(
    tiny_model: Path, boxed_photos: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert main(command(tiny_model, boxed_photos, run)) == 0
    start, trained = load_file(tiny_model), load_file(run / "model.safetensors")
    metrics = (run / "localizer" / "metrics.jsonl").read_bytes()
    assert main(command(tiny_model, boxed_photos, run, "--keep", "0.25")) == 0
    assert (run / "localizer" / "metrics.jsonl").read_bytes() == metrics
    moved = 0
    for name, tensor in load_file(run / "model.safetensors").items():
        if name.startswith("localizer"):
            mixed = torch.lerp(trained[name].float(), start[name].float(), 0.25)
            assert_near(tensor.float(), mixed, computed_in=torch.float16)
            moved += int(not torch.equal(tensor, trained[name]))
        elif not name.startswith("fast_alignment"):  # which is fitted to the boxes of the mixed localizer
            assert torch.equal(tensor, trained[name]), name
    assert moved


@pytest.mark.parametrize(
    "config",
    [nano_config(), nano_config(detector=False, box_stages=(3, 4), fine_bins=2)],
    ids=["NanoDet", "box stages"],
)
def test_a_model_with_a_box_trunk_learns_boxes_first(tmp_path: Path, capsys: Capture, config: DetectorConfig) -> None:
    model = tmp_path / "model.safetensors"
    toy_nano(tmp_path / "cache", config).save(model)
    photos = write_boxed_photos(tmp_path / "photos")
    (photos / "boxes.json").rename(photos / "annotations.json")
    run = command(model, photos, tmp_path / "run", "--set", "proposals.lr=1e-4")
    assert main(run) == 0
    recipe = json.loads((tmp_path / "run" / "report.json").read_text())["recipe"]
    assert (recipe["proposals"]["epochs"], recipe["localizer"]["epochs"]) == (2, 2)
    assert max(recipe["data"]["augment"]["short_sides"]) == 128  # as the model sees images of this shape
    start, trained = load_file(model), load_file(tmp_path / "run" / "model.safetensors")
    trunk = [name for name in start if name.startswith(("image_tower.detector.", "image_tower.box_stages."))]
    assert any(not torch.equal(start[name], trained[name]) for name in trunk)
    frozen = [name for name in start if name.startswith(("image_tower.net", "image_tower.text_space", "prompt"))]
    assert frozen
    assert all(torch.equal(start[name], trained[name]) for name in frozen)
    capsys.readouterr()
    assert main([*run, "--keep", "0.25"]) == 0
    assert "cora: proposals: this run is finished, with " in capsys.readouterr().err
    mixed = load_file(tmp_path / "run" / "model.safetensors")
    for name in [*trunk, *(name for name in start if name.startswith("localizer."))]:
        wanted = torch.lerp(trained[name].float(), start[name].float(), 0.25)
        assert_near(mixed[name].float(), wanted, computed_in=torch.float16)


def test_the_box_trunk_may_stay_frozen_and_an_older_run_is_refused_at_once(tmp_path: Path, capsys: Capture) -> None:
    model = tmp_path / "model.safetensors"
    toy_nano(tmp_path / "cache").save(model)
    photos = write_boxed_photos(tmp_path / "photos")
    (photos / "boxes.json").rename(photos / "annotations.json")
    assert main(command(model, photos, tmp_path / "frozen", "--set", "proposals.trunk_factor=0")) == 0
    start, trained = load_file(model), load_file(tmp_path / "frozen" / "model.safetensors")
    assert all(torch.equal(start[name], trained[name]) for name in start if name.startswith("image_tower."))
    changed = [name for name in start if name.startswith("localizer.proposals.")]
    assert any(not torch.equal(start[name], trained[name]) for name in changed)
    assert main(command(model, photos, tmp_path / "old", "--set", "proposals=None")) == 0
    capsys.readouterr()
    assert main(command(model, photos, tmp_path / "old")) == 2
    assert "expected a run that began with proposals, got one that began with names" in capsys.readouterr().err


def test_names_alone_start_from_prototypes(tiny_model: Path, boxed_photos: Path, tmp_path: Path) -> None:
    photos = ["--images", str(boxed_photos / "images"), "--annotations", str(boxed_photos / "annotations.json")]
    # A rate that moves nothing: what comes out is where learning starts.
    still = ["--teach", "names", "--epochs", "1", "--lr", "1e-12", "--hold-out", "0", "--set", "data.versions=1"]
    command = ["finetune", *photos, "--model", str(tiny_model), "--device", "cpu", *still]
    output = tmp_path / "own.safetensors"
    assert main([*command, "--run", str(tmp_path / "run"), "--prototypes", "0.25", "--output", str(output)]) == 0
    recipe = json.loads((tmp_path / "run" / "report.json").read_text())["recipe"]
    assert (recipe["proposals"], recipe["localizer"], recipe["names"]["prototypes"]) == (None, None, 0.25)
    start, taught = cora.load(tiny_model), cora.load(output)
    dataset = CocoDataset(images=boxed_photos / "images", annotations=boxed_photos / "annotations.json")
    names = dataset.class_names
    corners = [
        (r.path, box, label)
        for r in dataset.records
        for box, label in zip(r.boxes_xyxy_px.tolist(), r.classes.tolist(), strict=True)
    ]
    exemplars = {name: [(p, tuple(b)) for p, b, label in corners if names[label] == name] for name in names}
    means = torch.stack(list(embed_exemplars(start.detector, exemplars).values()))
    text = start.vocabulary_encoder.encode([*names, "dog"]).embeddings
    mixed = torch.nn.functional.normalize(0.75 * text[:-1] + 0.25 * means, dim=-1)
    found = taught.vocabulary_encoder.encode([*names, "dog"]).embeddings
    torch.testing.assert_close(found, torch.cat([mixed, text[-1:]]), atol=2e-3, rtol=0)
    assert (mixed - text[:-1]).norm(dim=1).min() > 0.05
    before, after = load_file(tiny_model), load_file(output)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert main([*command, "--run", str(tmp_path / "text"), "--output", str(output)]) == 0
    found = cora.load(output).vocabulary_encoder.encode(names).embeddings
    torch.testing.assert_close(found, text[:-1], atol=2e-3, rtol=0)


def test_names_alone_have_no_share_of_a_localizer_to_keep(boxed_photos: Path, capsys: Capture) -> None:
    photos = ["--images", str(boxed_photos / "images"), "--annotations", str(boxed_photos / "annotations.json")]
    assert main(["finetune", *photos, "--teach", "names", "--keep", "0.5"]) == 2
    assert "--keep: expected it without --teach names" in capsys.readouterr().err


def test_what_is_forgotten_is_said() -> None:
    def scores(**values: float | None) -> dict[str, dict[str, object]]:
        return {
            group: {"ap50": {"value": value, "low": value and value - 0.02, "high": value and value + 0.02}}
            for group, value in values.items()
        }

    before = scores(base=0.3, novel=0.2, rare=None)
    assert forgotten(before, scores(base=0.29, novel=0.25, rare=None)) == ""
    told = forgotten(before, scores(base=0.1, novel=0.19, rare=0.1))
    assert told == "AP50 of base fell from 30.0 (28.0-32.0) to 10.0"


def test_photos_are_divided_by_seed_and_class() -> None:
    classes = [[n % 3] * (1 + n % 2) for n in range(30)] + [[3]]
    for seed in range(5):
        held = divide_images(classes, share=0.2, seed=seed)
        assert held == divide_images(classes, share=0.2, seed=seed)
        assert len(held) == 6
        assert 30 not in held  # the only image of its class is learned from
        assert {classes[photo][0] for photo in held} == {0, 1, 2}
    assert divide_images(classes, share=0.2, seed=0) != divide_images(classes, share=0.2, seed=1)
    assert len(divide_images([[0], [0]], share=0.01, seed=0)) == len(divide_images([[0], [0]], share=0.99, seed=0)) == 1


def test_a_tiny_set_is_not_divided(
    tiny_model: Path, boxed_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((boxed_photos / "annotations.json").read_text())
    content["images"] = content["images"][:3]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] < 3]
    few = tmp_path / "few.json"
    few.write_text(json.dumps(content))
    run = command(tiny_model, boxed_photos, tmp_path / "run")
    run[run.index("--annotations") + 1] = str(few)
    assert main(run) == 0
    out = capsys.readouterr().out
    assert "none is held out" in out
    assert "AP50" not in out


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_copies_of_an_image_are_on_one_side(
    tiny_model: Path, boxed_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: str
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(boxed_photos, folder)
    content = json.loads((folder / "annotations.json").read_text())
    for image in list(content["images"]):
        copied = f"copy-{image['file_name']}"
        shutil.copy(folder / "images" / image["file_name"], folder / "images" / copied)
        content["images"].append({**image, "id": 1000 + image["id"], "file_name": copied})
        boxes = [box for box in content["annotations"] if box["image_id"] == image["id"]]
        content["annotations"] += [{**box, "id": 1000 + box["id"], "image_id": 1000 + image["id"]} for box in boxes]
    (folder / "annotations.json").write_text(json.dumps(content))
    learned: list[set[str]] = []

    def stop(*, dataset: CocoDataset, **_: object) -> None:
        learned.append({record.path.name for record in dataset.records})
        raise DataError("enough seen")

    monkeypatch.setattr(pipeline, "TrainingPipeline", stop)
    assert main(command(tiny_model, folder, tmp_path / "run", "--seed", seed)) == 2
    (names,) = learned
    assert 0 < len(names) < len(content["images"])
    for image in content["images"][: len(content["images"]) // 2]:
        assert (image["file_name"] in names) == (f"copy-{image['file_name']}" in names)
