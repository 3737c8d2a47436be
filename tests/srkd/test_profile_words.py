"""`srkd profile` on the command line: its output, its picture, and a one-line error for each mistake."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from srkd.charts import NothingToDraw, Scatter, ScatterPoint, draw_scatter, pareto_front
from srkd.cli.main import run

QUICK = ("--lr-size", "12x10", "--seconds", "0.1", "--no-memory", "--runtime", "torch", "--threads", "1")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--runtime", "tvm"], "'tvm'"),
        (["--threads", "9999"], "threads=9999"),
        (["--batch", "1,x"], "'x' is not a count"),
        (["--pareto", "curve.pdf"], "--pareto curve.pdf"),
        (["--pareto", "x.png", "--no-quality"], "leave out --no-quality"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], line: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", str(model), "--seconds", "0.1", *words]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert line in last and "Traceback" not in last


@pytest.mark.ci
def test_the_picture_tables_and_json(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "pareto.png"
    assert run(["profile", str(model), "--teacher", str(model), *QUICK, "--pareto", str(picture), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    with Image.open(picture) as drawn:
        assert drawn.size == (1000, 640) and len(drawn.getcolors(10**6) or []) > 10
    assert {"megapixels_per_second", "warm_up_calls"} <= set(value["rows"][0])
    assert {"date", "cpu", "governor", "load_before", "busy_cores", "versions"} <= set(value["conditions"][0])
    assert value["lost"] == []
    assert run(["profile", str(model), *QUICK, "--no-quality", "--batch", "1,2", "-v"]) == 0
    output = capsys.readouterr()
    for words in ("MPixel/s", "LR 12x10, batch 2"):
        assert words in output.out
    assert "governor" in output.err
    assert run(["profile", str(model), *QUICK, "--no-quality", "--csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(row["megapixels_per_second"]) > 0


def test_the_front_has_no_point_that_another_beats() -> None:
    points = [ScatterPoint(name, x, y) for name, x, y in (("a", 1, 30), ("b", 2, 29), ("c", 3, 31), ("d", 3, 30.5))]
    assert [point.label for point in pareto_front(points)] == ["a", "c"]
    assert [point.label for point in pareto_front([*points, ScatterPoint("e", 1, 32)])] == ["e"]


def test_points_that_cannot_be_drawn_are_left_out_and_one_alone_can() -> None:
    odd = (ScatterPoint("none", 0, 1), ScatterPoint("infinite", 1, float("inf")))
    chart = Scatter("t", "ms", "dB", (ScatterPoint("alone", 5, 30),))
    drawn = draw_scatter(chart)
    assert drawn == draw_scatter(replace(chart, points=(*chart.points, *odd)))
    with pytest.raises(NothingToDraw):
        draw_scatter(replace(chart, points=odd))
    marked = (replace(chart.points[0], marked=True),)
    others = [replace(chart, points=marked), replace(chart, limit=7), replace(chart, logarithmic_y=True)]
    assert len({drawn, *(draw_scatter(changed) for changed in others)}) == 4
