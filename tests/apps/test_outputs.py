"""No command replaces a source, or a file of another kind; its own earlier output it may."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import save_file

from cora.apps import kinds
from cora.apps.cli import main
from cora.apps.command import COMMAND
from cora.apps.options import outputs_of
from cora.files import lock, write_picture
from tests.apps.command_lines import COMMANDS

PHOTOS = ("--images", "photos", "--annotations", "boxes.json")
CLASSES = ("--classes", "cat")
TRUTH = {
    "images": [{"id": 1, "file_name": "white.jpg", "width": 80, "height": 60}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}],
}

#: Command -> what it needs beside its outputs; and outputs that it needs.
NEEDED = {
    "detect": (("photos", *CLASSES), {}),
    "video": (("clip.mp4", *CLASSES), {}),
    "convert": (("published.pth",), {"--output": "own.safetensors"}),
    "evaluate": (PHOTOS, {}),
    "region-accuracy": (PHOTOS, {}),
    "train prompts": (PHOTOS, {"--run": "runs"}),
    "train localizer": (PHOTOS, {"--run": "runs"}),
    "train all": (PHOTOS, {"--run": "runs"}),
    "relabel": (PHOTOS, {"--output": "new.json"}),
    "pseudo-label": (("photos", *CLASSES), {"--output": "new.json"}),
    "text-prompts": ((*PHOTOS, "--method", "offsets"), {"--output": "text.safetensors"}),
    "groups": ((*CLASSES, "--groups", "1"), {}),
    "finetune": (PHOTOS, {}),
    "index": (("photos",), {"--db": "regions.db"}),
    "search": (("regions.db", "--text", "cat"), {}),
    "study train": (PHOTOS, {"--run": "runs"}),
    "study evaluate": ((*PHOTOS, "--study", "study.safetensors"), {}),
    "cam": (("photos/white.jpg", *CLASSES), {}),
    "calibrate": (PHOTOS, {"--output": "own.safetensors"}),
    "align": (("--model", "nano", "--images", "photos"), {"--output": "own.safetensors"}),
    "prune": (("--model", "nano", "--images", "photos", "--ffn", "0.5"), {"--output": "own.safetensors"}),
    "distill": (("--images", "photos", "--teacher", "nano", "--student", "nano"), {"--run": "runs"}),
    "search-arch": (("--model", "nano", "--images", "photos", "--budget", "9"), {"--run": "runs"}),
    "export": (("--format", "onnx"), {"--output": "own.onnx"}),
    "quantize": (
        ("--images", "photos", "--backend", "onnxruntime", "--mode", "dynamic"),
        {"--output": "own.onnx"},
    ),
    "batch": (("photos", *CLASSES), {}),
    "shards": (PHOTOS, {"--output": "shards"}),
    "split": ((PHOTOS[3], "--split", "coco", "--part", "base"), {"--output": "new.json"}),
}


def declared_outputs(name: str) -> dict[str, kinds.Kind]:
    """Option of a command that names an output -> what is written there."""
    return outputs_of(COMMANDS[name].get_default(COMMAND).options)


def outputs(*, folders: bool) -> list[tuple[str, str]]:
    """(command, flag) of every output of every command."""
    found = []
    for name, parser in COMMANDS.items():
        declared = declared_outputs(name)
        for action in parser._actions:
            if action.dest in declared and declared[action.dest].folder == folders:
                found.append((name, action.option_strings[-1]))
    return found


def command_line(name: str, flag: str, path: str) -> list[str]:
    needed, required = NEEDED[name]
    given = {**required, flag: path}
    return [*name.split(), *needed, *(word for pair in given.items() for word in pair)]


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.fixture
def here(folder: Path, loaded: list[str]) -> Path:
    """The folder with two images, and with other people's files."""
    Path("boxes.json").write_text(json.dumps(TRUTH))
    Path("foreign.py").write_text("import os\n")
    Path("foreign.json").write_text(json.dumps(TRUTH))
    Path("foreign.txt").write_text("cat\ndog\n")
    Image.new("RGB", (9, 9)).save("foreign.png")
    Image.new("RGB", (9, 9)).save("foreign.jpg")
    save_file({}, "foreign.safetensors", metadata={"format": "pt"})
    return folder


def test_the_list_of_commands_is_whole() -> None:
    assert COMMANDS.keys() - NEEDED.keys() == {"models", "serve"}


@pytest.mark.parametrize("foreign", ["jpg", "py", "json", "txt", "png", "safetensors"])
@pytest.mark.parametrize(("name", "flag"), outputs(folders=False))
def test_files_of_another_kind_stay(
    here: Path, loaded: list[str], capsys: pytest.CaptureFixture[str], name: str, flag: str, foreign: str
) -> None:
    file = Path(f"foreign.{foreign}")
    before, names = file.read_bytes(), sorted(os.listdir())
    err = refusal(capsys, command_line(name, flag, str(file)))
    assert f"{flag}: expected a new file or " in err
    assert "got a" in err
    assert "name another" in err
    assert file.read_bytes() == before
    assert sorted(os.listdir()) == names
    assert not loaded


@pytest.mark.parametrize("spelled", ["boxes.json", "./photos/../boxes.json", "linked.json", "{here}/boxes.json"])
@pytest.mark.parametrize(
    ("name", "flag"),
    [pair for pair in outputs(folders=False) if PHOTOS[0] in NEEDED[pair[0]][0] and "boxes.json" in NEEDED[pair[0]][0]],
)
def test_annotations_are_no_output(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, flag: str, spelled: str
) -> None:
    Path("linked.json").symlink_to("boxes.json")
    err = refusal(capsys, command_line(name, flag, spelled.format(here=here)))
    assert f"{flag}: expected a place of its own, got" in err
    assert "which is read" in err
    assert json.loads(Path("boxes.json").read_text()) == TRUTH


@pytest.mark.parametrize("output", ["photos/white.jpg", "PHOTOS/../photos/White.JPG", "link.jpg"])
def test_the_photo_is_no_output(here: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
    Path("PHOTOS").mkdir(exist_ok=True)
    Path("link.jpg").symlink_to("photos/white.jpg")
    before = Path("photos/white.jpg").read_bytes()
    assert "which is read" in refusal(capsys, ["detect", "photos/white.jpg", *CLASSES, "--json", output])
    assert Path("photos/white.jpg").read_bytes() == before


def test_classes_exemplars_and_models_are_no_outputs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--classes", "@foreign.txt"], ["--exemplar", "cat=foreign.txt"], [*CLASSES, "--model=foreign.txt"]):
        assert "which is read" in refusal(capsys, ["detect", "photos/white.jpg", *given, "--json", "foreign.txt"])
    Path("runs").mkdir()
    Path("runs/model.safetensors").touch()
    arguments = ["finetune", *PHOTOS, "--model", "runs/model.safetensors", "--run", "runs"]
    assert "which is read" in refusal(capsys, arguments)


def test_one_place_for_two_results_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["video", "clip.mp4", *CLASSES, "--csv", "new.txt", "--json", "./new.txt"]
    assert "expected a file of its own for each" in refusal(capsys, arguments)


@pytest.mark.parametrize(("name", "flag"), outputs(folders=True))
def test_folders_keep_what_is_not_theirs(here: Path, capsys: pytest.CaptureFixture[str], name: str, flag: str) -> None:
    kind = next(
        declared_outputs(name)[action.dest] for action in COMMANDS[name]._actions if flag in action.option_strings
    )
    Path("mine").mkdir()
    for file in kind.files:
        (Path("mine") / file).write_text("my own notes")
        assert "got a text file of another kind" in refusal(capsys, command_line(name, flag, "mine"))
        assert (Path("mine") / file).read_text() == "my own notes"
        (Path("mine") / file).unlink()
    if kind.apart:
        assert "which is read" in refusal(capsys, command_line(name, flag, "photos"))
        assert sorted(os.listdir("photos")) == ["black.png", "white.jpg"]


def all_outputs() -> list[tuple[str, str]]:
    return sorted({*outputs(folders=False), *outputs(folders=True)})


@pytest.mark.parametrize(("name", "flag"), all_outputs())
def test_a_place_that_cannot_be_written_is_noticed_before_the_work(
    here: Path, loaded: list[str], capsys: pytest.CaptureFixture[str], name: str, flag: str
) -> None:
    Path("occupied").write_text("a file where a folder has to be")
    before = sorted(here.rglob("*"))
    bad = ["occupied/new.json", "/proc/new.json", f"{'n' * 300}.json"]
    bad.append("boxes.json" if (name, flag) in outputs(folders=True) else "photos")
    for path in bad:
        err = refusal(capsys, command_line(name, flag, path))
        assert f"{flag}: expected" in err or "File name too long" in err
        assert path in err
    assert sorted(here.rglob("*")) == before
    assert not loaded


@pytest.mark.parametrize(("name", "flag"), [pair for pair in all_outputs() if pair[1] == "--run"])
def test_a_second_run_in_one_folder_is_refused(
    here: Path, loaded: list[str], capsys: pytest.CaptureFixture[str], name: str, flag: str
) -> None:
    Path("runs").mkdir()
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom cora.files import lock\n"
        "with lock(Path('runs/run.lock')) as held:\n    print(held, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "True\n"
            err = refusal(capsys, command_line(name, flag, "runs"))
            assert "--run: expected a folder that no other run works in, got runs" in err
            assert os.listdir("runs") == ["run.lock"]
            assert not loaded
        finally:
            other.kill()
    # Killed, it holds the folder no longer, though its file is still there: now the input is what is wrong.
    assert os.listdir("runs") == ["run.lock"]
    monkeyed = command_line(name, flag, "runs")
    Path("boxes.json").write_text("{}")
    Path("photos/white.jpg").unlink()
    Path("photos/black.png").unlink()
    assert "no other run" not in refusal(capsys, monkeyed)
    assert os.listdir("runs") == []


def test_processes_that_belong_together_share_a_run(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("runs").mkdir()
    Path("boxes.json").write_text("{}")
    with lock(Path("runs/run.lock")) as held:
        assert held
        monkeypatch.setenv("RANK", "1")
        assert "no other run" not in refusal(capsys, ["train", "all", *PHOTOS, "--run", "runs"])


def test_bad_input_leaves_no_folder_of_a_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("boxes.json").write_text("{}")
    refusal(capsys, ["train", "all", *PHOTOS, "--run", "new/run/s"])
    assert not Path("new").exists()


def test_drawn_pictures_never_replace_photos(here: Path) -> None:
    Path("drawn").mkdir()
    Image.new("RGB", (5, 5)).save("drawn/white.jpg")
    before = Path("drawn/white.jpg").read_bytes()
    for _ in range(2):
        assert main(["detect", "photos/white.jpg", *CLASSES, "--output", "drawn"]) == 0
        assert Path("drawn/white.jpg").read_bytes() == before
        assert sorted(os.listdir("drawn")) == ["white-2.jpg", "white.jpg"]


@pytest.mark.parametrize(("name", "flag"), outputs(folders=False))
def test_an_ending_of_another_kind_is_refused(
    here: Path, loaded: list[str], capsys: pytest.CaptureFixture[str], name: str, flag: str
) -> None:
    kind = next(
        declared_outputs(name)[action.dest] for action in COMMANDS[name]._actions if flag in action.option_strings
    )
    before = sorted(os.listdir())
    for ending in sorted(kinds.TELLING - set(kind.endings)) if kind.endings else []:
        err = refusal(capsys, command_line(name, flag, f"other{ending.upper()}"))
        assert f"{flag}: expected a file that ends in {' or '.join(kind.endings)}, got other{ending.upper()}; " in err
    assert f"{flag}: expected a file, got -, which is none here" in refusal(capsys, command_line(name, flag, "-"))
    assert sorted(os.listdir()) == before
    assert not loaded


def test_a_tilde_is_the_home_also_behind_an_equals_sign(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here / "home"))
    assert main(["detect", "photos/white.jpg", *CLASSES, "--json=~/found.json", "--output=~/drawn", "--csv=a.txt"]) == 0
    assert sorted(os.listdir("home")) == ["drawn", "found.json"]
    assert not Path("~").exists()
    assert Path("a.txt").is_file()


def test_the_same_command_again_is_welcome(here: Path) -> None:
    for _ in range(2):
        arguments = ["detect", "photos/white.jpg", *CLASSES, "--json", "found.json", "--output", "drawn"]
        assert main(arguments) == 0
        assert main([*arguments, "--score", "0.9"]) == 0  # nothing found
        assert sorted(os.listdir("drawn")) == ["white.jpg"]


def draw(path: Path) -> None:
    write_picture(path, Image.new("RGB", (9, 9)))


@pytest.mark.parametrize(
    ("kind", "name", "write"),
    [
        (kinds.PICTURE, "a.png", draw),
        (kinds.PICTURE, "a.jpg", draw),
        (kinds.MODEL, "a.safetensors", lambda p: save_file({}, p, metadata={"format": "cora-detector"})),
        (kinds.VIDEO, "a.mp4", lambda p: p.write_bytes(b"\0\0\0\x20ftypisom")),
        (kinds.TRACK_TABLE, "a.csv", lambda p: p.write_text("frame,seconds,track,class,score,left\n")),
        (kinds.RELABELLED, "a.json", lambda p: p.write_text('{"annotations": [{"original_category_id": 1}]}')),
        (kinds.PSEUDO, "a.json", lambda p: p.write_text('{"info": {"labelled": 3}}')),
        (kinds.EXPORT, "a.onnx", lambda p: p.write_bytes(b'\x08\x07{"format": "cora-export"}')),
    ],
)
def test_kinds_know_their_own(tmp_path: Path, kind: kinds.Kind, name: str, write: Callable[[Path], object]) -> None:
    write(tmp_path / name)
    assert kind.fits(tmp_path / name)
    (tmp_path / name).write_bytes(b"\xff\xd8\xff broken")
    assert not kind.fits(tmp_path / name)
