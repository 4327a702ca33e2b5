"""No test falls between the tiers, the default tier needs few packages, and CI skips nothing in silence."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TIERS = ("slow", "integration", "browser")
#: Imported by packages of the extra `test-all` only, which the default run does without.
LARGE = {"lancedb", "nncf", "onnx", "onnxruntime", "onnxscript", "openvino", "playwright", "pyarrow", "ray"}
LARGE |= {"schemathesis", "tensorrt", "torchao"}


def default_expression() -> str:
    options: list[str] = PROJECT["tool"]["pytest"]["ini_options"]["addopts"]
    return options[options.index("-m") + 1]


def test_ci_runs_every_tier() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    others = re.search(r'^other_tiers="(.*)"$', script, re.MULTILINE)
    assert others is not None
    for chosen in range(1 << len(TIERS)):
        marks = {tier: bool(chosen >> place & 1) for place, tier in enumerate(TIERS)}
        in_default, in_others = (eval(expression, {}, marks) for expression in (default_expression(), others[1]))
        assert in_default != in_others, marks


def test_the_workflow_runs_what_the_package_says_it_supports() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    prefix = "Programming Language :: Python :: 3."
    supported = [f"3.{line.removeprefix(prefix)}" for line in PROJECT["project"]["classifiers"] if prefix in line]
    assert jobs["default"]["strategy"]["matrix"]["python"] == supported
    steps = [step.get("run", "") for step in jobs["default"]["steps"]]
    assert any(f'-m "{default_expression()} and not needs_shared"' in step for step in steps)


def test_files_of_tests_import_no_large_package() -> None:
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.relative_to(ROOT)}: {name}" for name in names if name.partition(".")[0] in LARGE]
    # A script, not a test.
    found.remove("tests/service/page_picture.py: playwright.sync_api")
    assert not found, f"{found}; take pytest.importorskip, and mark the tests `integration`"


@pytest.mark.integration
def test_ci_skips_nothing_in_silence(tmp_path: Path) -> None:
    (tmp_path / "test_skips.py").write_text(
        "import pytest\n\n"
        "def test_without_browser(): pytest.skip('needs a browser')\n\n"
        "def test_without_gpu(): pytest.skip('needs a GPU')\n\n"
        "@pytest.mark.xfail(strict=True)\ndef test_known(): raise ValueError\n"
    )
    (tmp_path / "test_file.py").write_text("import pytest\npytest.importorskip('no_such_package')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml")]

    def outcome(ci: str, marks: str) -> tuple[int, str]:
        environment = {**os.environ, "CI": ci, "PYTEST_ADDOPTS": "--continue-on-collection-errors"}
        run = [*command, "-m", marks, str(tmp_path)]
        done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    code, summary = outcome("", "")
    assert code == 0, summary
    assert "3 skipped, 1 xfailed" in summary
    # The default run may lack the packages of other tiers.
    code, summary = outcome("true", default_expression())
    assert code == 1, summary
    assert "1 failed, 2 skipped, 1 xfailed" in summary
    code, summary = outcome("true", "")
    assert code == 1, summary
    assert "1 failed, 1 skipped, 1 xfailed, 1 error" in summary
    assert "CI must not skip this test (needs a browser)" in summary
