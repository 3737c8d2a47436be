"""`srkd plot`: a picture of runs' curves; values that are no numbers are left out, other folders are refused."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

import srkd
from compressor.base.errors import SrkdError, UsageError
from srkd.charts import COLOURS, MARK, Chart, Curve, NothingToDraw, draw_charts
from srkd.cli.main import run
from tests.support.run_files import save_run_file

WIDTH, HEIGHT = 1000, 340
PANEL = (100, 30, 800, HEIGHT - 40)
"""Within the axes of the first chart, left of the names."""


def rows_of(*, steps: int = 100, psnr: float = 29.0, skipped: Sequence[int] = ()) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        terms = {"weighted/pixel": 1 / step, "weighted/logits": 2 / step}
        rows.append({"kind": "train", "step": step, **terms, "loss": 3 / step, "rate": 1e-4 if step < 50 else 5e-5})
        if step % 20 == 0:
            scores = {"student_psnr_y": psnr + step / 100, "teacher_psnr_y": 31.0, "bicubic_psnr_y": 28.5}
            rows.append({"kind": "validation", "step": step, **scores})
    return rows + [{"kind": "skipped", "step": step, "loss": None} for step in skipped]


def save_run(folder: Path, rows: Sequence[object]) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def pixels_of(picture: Image.Image, colour: str) -> np.ndarray[Any, Any]:
    """Return the places (rows, columns) of one colour."""
    difference = np.asarray(picture.convert("RGB")).astype(int) - ImageColor.getrgb(colour)
    return np.argwhere(np.abs(difference).max(2) < 40)


def test_a_run_becomes_a_picture_of_three_charts(tmp_path: Path) -> None:
    folder = save_run(tmp_path / "first", rows_of(skipped=[50]))
    report = srkd.plot(folder)
    assert report.path == folder / "curves.png" and report.steps == {"first": 100}
    with Image.open(report.path) as picture:
        assert picture.size == (WIDTH, 3 * HEIGHT)
        quality = picture.crop(PANEL)
        loss = picture.crop((0, HEIGHT, 820, 2 * HEIGHT))
    # The student rises from the lower left to the upper right, below the teacher and above bicubic.
    student, teacher, bicubic = (pixels_of(quality, colour) for colour in COLOURS[:3])
    left, right = student[student[:, 1].argmin()], student[student[:, 1].argmax()]
    assert right[0] < left[0] and right[1] - left[1] > 400
    assert teacher[:, 0].max() < student[:, 0].min() and np.ptp(teacher[:, 0]) < 5
    assert bicubic[:, 0].min() > student[:, 0].max()
    columns = np.bincount(pixels_of(loss, MARK)[:, 1])
    curve = pixels_of(loss, COLOURS[0])[:, 1]
    assert columns.max() > 200 and np.sort(columns)[-3] < 5
    assert abs((columns.argmax() - curve.min()) / np.ptp(curve) - 0.5) < 0.02
    assert pixels_of(quality, MARK).size == 0


def test_several_runs_and_plans_are_drawn_over_one_another(tmp_path: Path) -> None:
    names = ["logits-seed10", "scratch-seed10"]
    for index, name in enumerate(names):
        save_run(tmp_path / "plan" / name, rows_of(psnr=29 + index))
    # The last trial has not started.
    save_run(tmp_path / "other", rows_of())
    save_run_file(
        tmp_path / "plan",
        trials={
            "runs": [{"name": name, "title": "", "variant": "", "spec": None} for name in (*names, "scratch-seed11")]
        },
    )
    report = srkd.plot(tmp_path / "plan")
    assert list(report.steps) == names and report.path == tmp_path / "plan" / "curves.png"
    with Image.open(report.path) as picture:
        assert picture.size == (WIDTH, 2 * HEIGHT)
        lower, upper = (pixels_of(picture.crop(PANEL), colour) for colour in COLOURS[:2])
    assert upper[:, 0].mean() < lower[:, 0].mean()
    runs = [tmp_path / "other", *(tmp_path / "plan" / name for name in names)]
    assert len(srkd.plot(runs, out=tmp_path / "new" / "all.png").runs) == 3


@pytest.mark.parametrize(
    "rows",
    [
        [{"kind": "train", "step": 1, "loss": 0.5, "rate": 1e-4}],
        [{"kind": "train", "step": 1, "loss": float("nan"), "rate": 0}, {"kind": "validation", "step": 1}],
        [{"kind": "train", "step": 10**300, "loss": 1e-300}, {"kind": "train", "step": 0, "loss": "x", "rate": -1}],
        [*rows_of(steps=3), {"kind": "train", "step": 2, "loss": -1}, {"step": 4}, {"kind": "flag", "step": 4}, 7, "x"],
    ],
    ids=["one step", "no numbers", "far apart", "other rows"],
)
def test_odd_rows_are_no_obstacle(rows: list[object], tmp_path: Path) -> None:
    with Image.open(srkd.plot(save_run(tmp_path / "run", rows)).path) as picture:
        assert picture.width == WIDTH


NUMBER = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(10**9), 10**9).map(float)


@pytest.mark.ci
@example([(1.0, 2.0)], False, False, ["two\nlines", "\ud800", "x" * 500])
@settings(max_examples=20)  # each one draws a picture
@given(
    st.lists(st.tuples(NUMBER, NUMBER), max_size=30),
    st.booleans(),
    st.booleans(),
    st.lists(st.text(max_size=90), max_size=9),
)
def test_any_numbers_can_be_drawn(
    points: list[tuple[float, float]], logarithmic: bool, dashed: bool, names: list[str]
) -> None:
    curves = tuple(Curve(name, tuple(points), dashed) for name in names)
    try:
        picture = draw_charts([Chart(names[0] if names else "any", curves, logarithmic)])
    except NothingToDraw:
        assert not names or all(abs(x) > 1e15 or not 1e-15 <= y <= 1e15 for x, y in points if not math.isnan(x + y))
    else:
        assert Image.open(io.BytesIO(picture)).size == (WIDTH, HEIGHT)
        assert draw_charts([Chart("any", curves, logarithmic)], "svg").startswith(b"<?xml")


def test_the_same_numbers_give_the_same_bytes_whatever_the_settings_of_the_user_are() -> None:
    chart = Chart("a $title", (Curve("_one", ((1.0, 2.0), (2.0, 1.0))), Curve("$two", ((1.0, 1.5),), dashed=True)))
    drawn = [draw_charts([chart], kind) for kind in ("png", "svg")]  # type: ignore[arg-type]
    with matplotlib.rc_context({"lines.linewidth": 9, "figure.dpi": 300, "axes.facecolor": "red"}):
        assert [draw_charts([chart], kind) for kind in ("png", "svg")] == drawn  # type: ignore[arg-type]
    assert b"_one" in drawn[1] and b"$two" in drawn[1]


def test_runs_in_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [save_run(tmp_path / name / "run", rows_of(steps=steps)) for name, steps in (("a", 100), ("b", 200))]
    report = srkd.plot([*runs, save_run(tmp_path / "other", rows_of())], out=tmp_path / "curves.png")
    assert report.steps == {str(runs[0]): 100, str(runs[1]): 200, "other": 100}


def test_no_run_is_one_line(tmp_path: Path) -> None:
    for verb, words in ((srkd.plot, {"out": tmp_path / "a.png"}), (srkd.report, {}), (srkd.compare, {})):
        with pytest.raises(UsageError, match=r"^no run folder: name at least"):
            verb([], **words)  # type: ignore[operator]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    words = save_run(tmp_path / "words", [{"kind": "train", "step": 1, "loss": "low"}])
    first = save_run(tmp_path / "first", rows_of(steps=2))
    for error, expected, arguments in (
        (SrkdError, "empty has no curves yet: no row in metrics.jsonl", (empty,)),
        (SrkdError, "nowhere is not a run folder: it does not exist", (tmp_path / "nowhere",)),
        (SrkdError, "metrics.jsonl holds no number to draw", (words,)),
        (UsageError, "2 runs make one file: name it with --out", ([first, first],)),
    ):
        with pytest.raises(error, match=expected):
            srkd.plot(*arguments)
    assert run(["plot", str(first), "-o", str(first / "run.json")]) == 2
    assert "--out" in capsys.readouterr().err and not (first / "run.json").exists()
    assert run(["plot", str(first)]) == 0
    assert capsys.readouterr().out == f"wrote {first / 'curves.png'}: first to step 2\n"
