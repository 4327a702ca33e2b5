"""The part of `benchmarks/batch.py` that needs no model."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.integration
def test_costs_without_detection_are_listed_for_every_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow.parquet")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "batch", raising=False)
    import batch

    batch.without_detection(tmp_path, 3)
    monkeypatch.delitem(sys.modules, "batch")
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == ["| coco", "| yolo", "| voc", "| parquet"]
    assert all(len(row) == 4 for row in rows)
    assert (tmp_path / "coco").is_dir()
