"""The house stands: imports go one way, nothing prints, files stay short, README and CI agree."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
LONGEST_FILE = 400


def test_import_contracts() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@cache
def trees() -> dict[str, ast.Module]:
    """Every source file by its name, parsed."""
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}


def test_library_does_not_print() -> None:
    calls = [(file, node) for file, tree in trees().items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    prints = [f"{file}:{call.lineno}" for file, call in calls if getattr(call.func, "id", "") == "print"]
    assert not prints, f"{prints} print; use logging, or rich in apps"


def test_files_stay_short() -> None:
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    long = {file: count for file, count in lines.items() if count > LONGEST_FILE}
    assert not long, f"{long} lines, at most {LONGEST_FILE} are allowed; divide these files"


def test_every_module_says_what_it_is() -> None:
    assert len(trees()) > 100
    silent = [file for file, tree in trees().items() if not ast.get_docstring(tree)]
    assert not silent, f"{silent} have no docstring"


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
