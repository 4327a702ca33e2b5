"""From captions to training: `cora pseudo-label` with a real if random network, and what its file trains."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import cora
from cora.apps.cli import main
from cora.data.read import read_dataset
from cora.training.localizer_task import LocalizerTask
from cora.training.pseudo_boxes import DetectorTeacher

pytestmark = pytest.mark.integration


@pytest.fixture
def captions(tmp_path: Path, boxed_photos: Path) -> Path:
    """COCO captions of six of the images; one has none that names a thing."""
    texts = ["A red cup beside a green bottle", "Two bottles", "It is grey", "a cup", "A cup and a watch", "bottles"]
    content = {
        "images": [{"id": 100 + n, "file_name": f"{n}.png"} for n in range(6)],
        "annotations": [{"id": n, "image_id": 100 + n, "caption": text} for n, text in enumerate(texts)],
    }
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content))
    return path


def command(model: Path, photos: Path, output: Path, *more: str | Path) -> list[str]:
    options = ["--model", model, "--device", "cpu", "--score", "0", "--output", output, *more]
    return ["pseudo-label", str(photos / "images"), *map(str, options)]


def read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    assert isinstance(content, dict)
    return content


def test_captions_become_boxes_that_train_with_the_real_ones(
    tiny_model: Path, boxed_photos: Path, captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, real = tmp_path / "all.json", boxed_photos / "annotations.json"
    assert main(command(tiny_model, boxed_photos, output, "--captions", captions, "--real", real, "--merge")) == 0
    out = capsys.readouterr().out
    assert "6 texts name 3 things in 5 images" in out
    assert "1 image is left out: nothing that their texts name is known" in out
    pseudo = read(tmp_path / "all-pseudo.json")
    assert pseudo["info"]["teacher"] == tiny_model.name
    assert len(pseudo["info"]["fingerprint"]) == 16
    asked = {0: {"cup", "bottle"}, 1: {"bottle"}, 3: {"cup"}, 4: {"cup", "watch"}, 5: {"bottle"}}
    names = {category["id"]: category["name"] for category in pseudo["categories"]}
    assert pseudo["annotations"]
    for one in pseudo["annotations"]:
        assert names[one["category_id"]] in asked[one["image_id"]]
        assert one["source"]["caption_ids"] == [one["image_id"]]
    dataset = read_dataset(images=boxed_photos / "images", annotations=output)
    assert dataset.class_names[:3] == ("red square", "green square", "blue square")
    assert set(dataset.class_names[3:]) == set(names.values())
    assert int(dataset.class_counts().sum()) == len(read(real)["annotations"]) + len(pseudo["annotations"])
    assert not any(record.only_pseudo for record in dataset.records)

    detector = cora.load(tiny_model)
    vocabulary = detector.vocabulary_encoder.encode(dataset.class_names)
    task = LocalizerTask(detector=detector, vocabulary=vocabulary).train()
    image, targets, _ = dataset[0]
    assert int(targets.classes.max()) >= 3
    loss = task((detector.preprocessor([image]), (targets,)))["loss"]
    loss.backward()
    assert torch.isfinite(loss)


def test_ctrl_c_costs_nothing(
    tiny_model: Path,
    boxed_photos: Path,
    captions: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, parts, label, labelled = tmp_path / "whole.json", tmp_path / "parts.json", DetectorTeacher.label, []
    assert main(command(tiny_model, boxed_photos, whole, "--captions", captions)) == 0

    def interrupting(self: DetectorTeacher, photo: Any, score_threshold: float) -> Any:
        labelled.append(photo.file_name)
        if len(labelled) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return label(self, photo, score_threshold)

    monkeypatch.setattr(DetectorTeacher, "label", interrupting)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    assert main(command(tiny_model, boxed_photos, parts, "--captions", captions)) == 130
    assert "what is done is kept, the same command goes on" in capsys.readouterr().err
    assert not parts.exists()
    assert main(command(tiny_model, boxed_photos, parts, "--captions", captions)) == 0
    assert "2 images were done by an earlier run." in capsys.readouterr().out
    assert len(labelled) == 6
    assert parts.read_bytes() == whole.read_bytes()


def test_self_training_finds_more_in_the_same_photos(tiny_model: Path, boxed_photos: Path, tmp_path: Path) -> None:
    output, real = tmp_path / "all.json", boxed_photos / "annotations.json"
    names = "red square, green square, blue square"
    assert main(command(tiny_model, boxed_photos, output, "--classes", names, "--real", real, "--merge")) == 0
    merged, before = read(output), read(real)
    assert merged["categories"] == before["categories"]
    assert len(merged["images"]) == len(before["images"])
    assert len(merged["annotations"]) > len(before["annotations"])


def test_a_damaged_photo_is_counted_and_the_rest_done(
    tiny_model: Path, boxed_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "good.png").write_bytes((boxed_photos / "images" / "0.png").read_bytes())
    (tmp_path / "images" / "bad.png").write_bytes(b"no picture")
    assert main(command(tiny_model, tmp_path, tmp_path / "new.json", "--classes", "cup")) == 1
    captured = capsys.readouterr()
    assert "warning: 1 image that cannot be read" in captured.err
    assert "2 images, 1 of them with boxes" in captured.out
