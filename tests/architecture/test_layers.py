"""The house stands: imports go one way, nothing prints, files stay short, README and CI agree."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
LONGEST_FILE = 400


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_import_contracts() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_library_does_not_print(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    prints = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not prints, f"{name(path)} prints in lines {prints}; use logging, or rich in apps"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{name(path)} has {lines} lines; divide it"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name(path)} has no docstring"


def commands() -> dict[str, str]:
    """The README's commands by the word in their marker."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^<!-- command: (\w+) -->\n```sh\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL))


def test_readme_commands_are_single_lines() -> None:
    found = commands()
    assert sorted(found) == ["detect", "test"]
    assert all("\n" not in command for command in found.values())


def test_ci_takes_the_test_command_from_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    extraction = re.search(r"^test_command=\$\((awk .*)\)$", script, re.MULTILINE)
    assert extraction is not None
    done = subprocess.run(["bash", "-c", extraction[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == commands()["test"]


def test_files_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:examples|docs)/[\w./-]*\w", text))
    assert {path for path in named if not (ROOT / path).exists()} == set()
