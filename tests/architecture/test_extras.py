"""What commands import does not need the packages of extras: a missing one is named in one line, no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Packages that extras bring. A fresh installation has none of them.
EXTRAS = ("scipy", "tensorboard", "hotcoco", "lvis", "lancedb", "fastapi", "uvicorn", "av", "onnx", "onnxruntime")
MISSING = """
import sys
sys.modules.update(dict.fromkeys({extras!r}))
from cora.apps.cli import main
sys.exit(main({words!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["finetune", "evaluate"])
def test_a_missing_extra_is_one_line(command: str, tmp_path: Path) -> None:
    words = [command, "--images", str(tmp_path), "--annotations", str(tmp_path / "none.json")]
    if command == "finetune":
        words += ["--run", str(tmp_path / "run")]
    code = MISSING.format(extras=EXTRAS, words=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
