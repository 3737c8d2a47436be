"""benchmarks/metrics_and_lr.py: measured and expected figures, and an exit code that says whether they agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import metrics_and_lr
from benchmarks.evidence import FOLDER_VARIABLE, Result
from benchmarks.metrics_and_lr import Row, main


@pytest.mark.parametrize(("measured", "code", "count"), [(38.274, 0, "1 of 1"), (38.276, 1, "0 of 1")])
def test_a_figure_outside_its_tolerance_ends_the_command_with_1(
    measured: float, code: int, count: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row("a score", measured, 38.27, 0.005), Row("one to compare with", 30.0, 38.0, None)]
    monkeypatch.setattr(metrics_and_lr, "rcan_rows", lambda data: iter(rows))
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert main(["--data", str(tmp_path), "--only", "rcan"]) == code
    table = Result.read(tmp_path / "metrics_and_lr.json").tables["rcan"]
    assert f"{count} within their tolerance" in table.caption
    assert [row["holds"] for row in table.rows] == [not code, None]


def test_folders_without_anything_to_compare_with_are_named_and_no_result_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(SystemExit, match="neither holds anything to compare with"):
        main(["--data", str(tmp_path / "data"), "--only", "rcan,carn"])
    with pytest.raises(SystemExit):
        main([])
    assert list(tmp_path.iterdir()) == []
