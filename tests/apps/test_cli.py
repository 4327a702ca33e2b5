"""The command line itself: what it imports, says and returns."""

import subprocess
import sys
from pathlib import Path

import pytest

import cora
from cora import detector
from cora.apps.cli import main

COMMANDS = (
    *("detect", "convert", "models", "evaluate", "region-accuracy"),
    *("train", "relabel", "finetune", "pseudo-label", "text-prompts", "groups"),
    *("study", "cam", "video", "index", "search", "serve", "batch", "shards", "split"),
    *("export", "quantize", "prune", "distill", "search-arch", "calibrate"),
)


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["detect", "--help"],
        ["--version"],
        ["train", "all", "--help"],
        ["finetune", "--help"],
        ["study", "train", "--help"],
    ],
)
def test_help_does_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from cora.apps.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as ending:\n    assert ending.code == 0\n"
        "heavy = {'torch', 'numpy', 'PIL', 'rich', 'open_clip'"
        + ("}" if arguments == ["--version"] else ", 'importlib.metadata'}")
        + "\nprint('heavy:', sorted(heavy & set(sys.modules)))"
    )
    assert run(code).splitlines()[-1] == "heavy: []"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert command in out


@pytest.mark.parametrize(
    "command", [*COMMANDS, "train prompts", "train localizer", "train all", "study train", "study evaluate"]
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command.split(), "--help"])
    assert f"usage: cora {command}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"cora {cora.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND; see 'cora --help'"),
        (["dtect"], "invalid choice: 'dtect', did you mean detect?; see 'cora --help'"),
        (["xyzzy"], "invalid choice: 'xyzzy' (choose from detect, video, "),
        (["train", "promts"], "invalid choice: 'promts', did you mean prompts?; see 'cora train --help'"),
        (["detect", "a.jpg", "--clases", "cat"], "unknown option --clases, did you mean --classes?; see 'cora detect"),
        (["detect", "a.jpg", "--conf", "0.3"], "unknown option --conf, did you mean --score?; see 'cora detect"),
        (["detect", "a.jpg", "--text-prompt", "cat ."], "unknown option --text-prompt, did you mean --classes?; see"),
        (["detect", "--source", "a.jpg"], "unknown option --source, SOURCE needs no option; see 'cora detect --help'"),
        (["index", "--images", "photos"], "unknown option --images, DIR needs no option; see 'cora index --help'"),
        (["detect", "a.jpg", "--clases=cat"], "unknown option --clases, did you mean --classes?; see 'cora detect"),
        (["evaluate", "--anotations", "a"], "unknown option --anotations, did you mean --annotations?; see 'cora eval"),
        (["train", "all", "--epoch", "3"], "unknown option --epoch; see 'cora train all --help'"),
        (["models", "--verbosely"], "unknown option --verbosely; see 'cora models --help'"),
        (["serve", "nano"], "unrecognized arguments: nano; see 'cora serve --help'"),
        (["study", "train", "--rum", "a"], "unknown option --rum, did you mean --run?; see 'cora study train --help'"),
        (["detect", "a.jpg", "--score", "x"], "argument --score: expected a number in 0..1"),
        (["calibrate", "--images", "a"], "required: --annotations, --output; see 'cora calibrate --help'"),
    ],
)
def test_wrong_command_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    err = capsys.readouterr().err
    assert err.startswith("cora: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "nano" in out
    assert "RN50-quickgelu" in out


def test_interruption(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*arguments: object, **others: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(detector, "load_foreign", interrupted)
    assert main(["convert", __file__, "--output", "b.safetensors"]) == 130
    assert capsys.readouterr().err == "cora: interrupted\n"


@pytest.mark.parametrize(
    ("checkpoint", "output", "message"),
    [
        ("none.pth", "out.safetensors", "expected a checkpoint file, got no file at none.pth"),
        ("text.pth", "out.pth", "expected an output file *.safetensors, got out.pth"),
        ("text.pth", "out.safetensors", "text.pth"),
    ],
)
def test_convert_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    checkpoint: str,
    output: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.pth").write_text("I am no checkpoint")
    assert main(["convert", checkpoint, "--output", output]) == 2
    err = capsys.readouterr().err
    assert err.startswith("cora: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not Path(output).exists()
