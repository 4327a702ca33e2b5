"""Distillation: only the student learns, the loss falls, a stop costs nothing, teachers of other widths teach too."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import cora
from cora.apps.cli import main
from cora.compress.arch_sizes import Architecture
from cora.compress.distill import DistillRun, PhotoFolder, build_task, distill, new_student
from cora.detector import Detector
from cora.errors import TrainingError
from cora.regions import FastAlignment
from cora.training.distill_task import (
    DistillConfig,
    DistillTask,
    Followed,
    Lexicon,
    Teacher,
    TeacherOutput,
    direct_losses,
    mean_embedding,
    random_regions,
)
from cora.training.ema import Ema
from tests.compress.toy_smaller import NAMES, toy_detector, toy_pictures

SMALL = {"width": 4, "ff": 8, "dec_layers": 2, "anchors": 9, "short_side": 80}


@pytest.fixture
def teacher(tmp_path: Path) -> Detector:
    return toy_detector(tmp_path / "cache")


@pytest.fixture
def student(teacher: Detector) -> Detector:
    return new_student(teacher, replace(Architecture.of(teacher.config), **SMALL), seed=1)  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, picture in enumerate(toy_pictures()):
        picture.save(folder / f"{number}.png")
    return folder


def batch(student: Detector, teacher: Detector) -> tuple[Any, Any]:
    return student.preprocessor(toy_pictures()), teacher.preprocessor(toy_pictures())


def train(task: DistillTask, data: tuple[Any, Any], steps: int = 25) -> list[dict[str, float]]:
    optimiser = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=3e-3)
    history = []
    for _ in range(steps):
        torch.manual_seed(0)  # the same regions: the loss is then comparable
        losses = task.train()(data)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        history.append({name: float(value.detach()) for name, value in losses.items()})
    return history


@pytest.mark.parametrize("boxes", ["direct", "targets"])
@pytest.mark.slow
def test_the_student_learns_and_nothing_else_changes(boxes: Any, student: Detector, teacher: Detector) -> None:
    config = DistillConfig(boxes=boxes, regions=6, least_objectness=0.2)
    task = build_task(student, teacher, NAMES, localizes=True, config=config)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    own = {name: value.clone() for name, value in student.state_dict().items()}
    history = train(task, batch(student, teacher))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(module.training for module in teacher.modules())
    first, last = history[0], history[-1]
    assert (
        first.keys()
        == last.keys()
        == {"kl_names", "cosine", "loss"} | ({"l1", "giou", "objectness"} if boxes == "direct" else {"boxes"})
    )
    assert last["loss"] < 0.8 * first["loss"]
    assert last["kl_names"] < first["kl_names"]
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, own[name])}
    assert moved
    assert all(name.startswith(("image_tower.", "localizer.")) for name in moved)
    assert any(name.endswith("running_mean") for name in moved)


def test_every_part_that_learns_gets_a_gradient(student: Detector, teacher: Detector) -> None:
    task = build_task(student, teacher, NAMES, localizes=True, config=DistillConfig(regions=4))
    train(task, batch(student, teacher), steps=3)  # box heads and last norms start at zero
    silent = [name for name, p in task.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # The pool's key bias adds the same to every score of a query.
    assert silent == ["student.image_tower.net.attnpool.k_proj.bias"]


@pytest.mark.parametrize(("part", "frozen"), [("tower", "localizer."), ("localizer", "image_tower.")])
def test_one_part_alone(part: str, frozen: str, student: Detector, teacher: Detector) -> None:
    config = DistillConfig(tower=part == "tower", localizer=part == "localizer", regions=4)
    task = build_task(student, teacher, NAMES, localizes=True, config=config)
    own = {name: value.clone() for name, value in student.state_dict().items()}
    history = train(task, batch(student, teacher), steps=4)
    assert ("cosine" in history[0]) == (part == "tower")
    assert ("l1" in history[0]) == (part == "localizer")
    state = student.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in own.items() if name.startswith(frozen))
    assert any(not torch.equal(value, state[name]) for name, value in own.items())


def test_a_copy_of_the_teacher_has_nothing_to_learn(teacher: Detector) -> None:
    copy = new_student(teacher, Architecture.of(teacher.config))
    copy.load_state_dict(teacher.state_dict())
    task = build_task(copy, teacher, NAMES, localizes=True, config=DistillConfig(regions=4)).eval()
    with torch.no_grad():
        losses = task(batch(copy, teacher))
    assert losses["kl_names"] == pytest.approx(0, abs=1e-4)
    assert losses["cosine"] == pytest.approx(0, abs=1e-4)
    output = copy.localizer.decoder.layers
    assert len(output) == 3  # only the last layer is the teacher's; the others are still to come there
    boxes = torch.rand(3, 2, 5, 4) / 2 + 0.25
    followed = Followed(torch.zeros(2, 5, dtype=torch.int64), boxes[0], torch.full((2, 5), 0.5))
    same = direct_losses(boxes[:1], torch.zeros(1, 2, 5), followed)
    assert [float(value) for value in same.values()] == pytest.approx([0, 0, 0], abs=1e-5)
    assert all(float(value) > 0 for value in direct_losses(boxes[1:], torch.ones(2, 2, 5), followed).values())


def test_a_teacher_of_another_space_teaches_by_its_probabilities(tmp_path: Path, teacher: Detector) -> None:
    other = toy_detector(tmp_path / "other", seed=7)
    task = build_task(other, teacher, NAMES, localizes=True, config=DistillConfig(regions=4))
    assert not task.teacher.same_space  # type: ignore[union-attr]
    lesson = task.teacher.lesson(teacher.preprocessor(toy_pictures()), 4)  # type: ignore[operator]
    own = other.vocabulary_encoder.encode(NAMES).embeddings
    torch.testing.assert_close(lesson.embeddings, mean_embedding(lesson.log_probabilities["names"], own))
    assert build_task(
        new_student(teacher, Architecture.of(teacher.config)), teacher, NAMES, localizes=True, config=DistillConfig()
    ).teacher.same_space  # type: ignore[union-attr]


def test_any_module_can_teach(student: Detector) -> None:
    """A classifier of regions, without boxes and without embeddings, over two lexicons."""

    class Oracle(Teacher):
        def lesson(self, seen: Any, regions: int) -> TeacherOutput:
            assert seen == "anything"
            boxes = random_regions(3, regions)
            certain = torch.full((3, regions, 5), -20.0).index_fill(2, torch.tensor([2]), 0).log_softmax(-1)
            return TeacherOutput(boxes, {"names": certain, "groups": certain[..., :2].log_softmax(-1)})

    lexicons = {
        "names": Lexicon(F.normalize(torch.randn(5, 16), dim=-1)),
        "groups": Lexicon(F.normalize(torch.randn(2, 16), dim=-1), weight=0.5),
    }
    config = DistillConfig(localizer=False, regions=4)
    task = DistillTask(student=student, teacher=Oracle(), lexicons=lexicons, config=config)
    history = train(task, (student.preprocessor(toy_pictures()), "anything"))
    assert history[0].keys() == {"kl_names", "kl_groups", "loss"}
    assert history[-1]["kl_names"] < 0.5 * history[0]["kl_names"]
    with_boxes = DistillTask(student=student, teacher=Oracle(), lexicons=lexicons)
    with pytest.raises(ValueError, match="teacher that finds boxes"):
        with_boxes((student.preprocessor(toy_pictures()), "anything"))


def test_random_regions_lie_inside() -> None:
    torch.manual_seed(0)
    boxes = random_regions(2, 500)
    assert boxes.shape == (2, 500, 4)
    assert float((boxes[..., :2] - boxes[..., 2:] / 2).min()) >= -1e-6
    assert float((boxes[..., :2] + boxes[..., 2:] / 2).max()) <= 1 + 1e-6
    area = boxes[..., 2:].prod(-1)
    assert 0.009 < float(area.min()) < 0.02
    assert 0.4 < float(area.max()) < 0.71


def test_proposed_anchors_learn_too(tmp_path: Path, teacher: Detector) -> None:
    student = toy_detector(tmp_path / "proposing", anchors="proposed", seed=5)
    config = DistillConfig(tower=False, least_objectness=0.2)
    task = build_task(student, teacher, NAMES, localizes=True, config=config)
    history = train(task, batch(student, teacher), steps=8)
    assert history[-1]["proposals"] < history[0]["proposals"]


@pytest.mark.slow
def test_a_run_goes_on_after_a_stop_to_the_same_weights(
    student: Detector, teacher: Detector, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = {name: value.clone() for name, value in student.state_dict().items()}
    paths, run = sorted(photos.iterdir()), DistillRun(epochs=2, batch=1)

    def go(folder: str, **changes: Any) -> Any:
        student.load_state_dict(start)
        options = {"localizes": True, "paths": paths, "names": NAMES, "run": run, "config": DistillConfig(regions=3)}
        return distill(
            student=student, teacher=teacher, run_dir=tmp_path / folder, progress=False, **(options | changes)
        )

    assert go("whole").steps == 6
    whole = {name: value.clone() for name, value in student.state_dict().items()}
    update, steps = Ema.update, []

    def interrupting(self: Ema, module: torch.nn.Module) -> None:
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        update(self, module)

    monkeypatch.setattr(Ema, "update", interrupting)
    assert go("parts").interrupted
    assert go("parts").steps == 6
    assert all(torch.equal(value, whole[name]) for name, value in student.state_dict().items())
    assert not any(parameter.requires_grad for parameter in student.parameters())
    with pytest.raises(TrainingError, match="another configuration: names"):
        go("parts", names=("red square", "sky"))
    with pytest.raises(TrainingError, match="localizer is trained"):
        go("other", localizes=False)
    with pytest.raises(TrainingError, match="expected images"):
        PhotoFolder([])


@pytest.mark.parametrize(
    "wrong",
    [
        {"tower": False, "localizer": False},
        {"boxes": "some"},
        {"regions": 0},
        {"kl": -1.0},
        {"least_objectness": 1.0},
    ],
)
def test_impossible_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        DistillConfig(**wrong)


@pytest.mark.slow
def test_the_command(teacher: Detector, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher.align_fast_pooling(FastAlignment(embed_dim=16))
    teacher.save(tmp_path / "teacher.safetensors")
    sizes = tmp_path / "sizes.json"
    sizes.write_text('{"width": 4, "ff": 8, "dec_layers": 2}')
    output, report = tmp_path / "small.safetensors", tmp_path / "report.json"
    command = ["distill", "--teacher", str(tmp_path / "teacher.safetensors"), "--architecture", str(sizes)]
    command += ["--images", str(photos), "--run", str(tmp_path / "run"), "--output", str(output), "--device", "cpu"]
    command += ["--epochs", "1", "--regions", "3", "--classes", "cat, dog", "--json", str(report)]
    assert main(command) == 0
    out = capsys.readouterr().out
    for word in ("teacher", "student before", "agreement", "GMAC", "width", "parameters, all"):
        assert word in out
    student = cora.load(output)
    assert Architecture.of(student.config).width == 4
    assert student.fast_alignment is not None
    assert bool(student.fast_alignment.shift.weight.any())  # fitted to the tower that was taught
    assert len(student.predict(Image.open(photos / "0.png"), ["cat", "dog"], score=0.0)) > 0
    assert report.read_text(encoding="utf-8").count('"gmac"') == 3
    for wrong, message in (
        (["--teacher", "none.safetensors"], "existing file"),
        (["--teacher", "RN50-quickgelu"], "--learn tower"),
        (["--images", str(tmp_path / "nowhere")], "no file at"),
        (["--output", "model.pt"], "*.safetensors"),
        (["--val-images", str(photos)], "together"),
        (["--architecture", str(tmp_path / "no.json")], "check the path"),
        (["--teacher", "model.onnx"], "exported"),
    ):
        assert main([*command, "--run", str(tmp_path / "new"), *wrong]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
