"""`srkd compare --data`: students on benchmark sets over seeds, gains over baselines, and the scores that are kept."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import srkd
from srkd.cli.main import run
from srkd.record.evaluations import EVALUATIONS
from srkd.reports.comparison import Comparison
from srkd.terminal.tables import latex_text
from tests.support.small_runs import TWO_SEEDS, save_photos, save_teacher

SETS = ("A_1", "B%")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two plans of two seeds and a baseline, the second a sweep, and two sets in benchmarks/."""
    desk = tmp_path_factory.mktemp("sets")
    photos, teacher = save_photos(desk / "photos"), save_teacher(desk / "teacher.safetensors")
    words: dict[str, Any] = {"data": photos, "val": photos, **TWO_SEEDS}
    srkd.compress(teacher, recipe="inherit", baselines=("scratch",), out=desk / "first", **words)
    words |= {"sweep": ("rate=0.001,0.01",)}
    srkd.compress(teacher, recipe="inherit", baselines=("scratch",), out=desk / "second", **words)
    for index, name in enumerate(SETS):
        folder = desk / "benchmarks" / name
        folder.mkdir(parents=True)
        for photo in list(photos.iterdir())[index:]:
            shutil.copy(photo, folder)
    return desk


@pytest.fixture
def copy(desk: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder that a test may change; no score is kept there yet."""
    folder = Path(shutil.copytree(desk, tmp_path / "copy"))
    for file in folder.rglob(EVALUATIONS):
        file.unlink()
    for file in folder.rglob("run.json"):
        file.write_text(file.read_text().replace(str(desk), str(folder)))
    return folder


def table_of(folder: Path, *plans: str, **words: Any) -> Comparison:
    runs = [folder / plan for plan in plans or ("first", "second")]
    return srkd.compare(runs, data=folder / "benchmarks", **words)


def scored_images(folder: Path, *plans: str) -> int:
    """Return how many images a call of compare enlarges."""
    counts: list[int] = []
    table_of(folder, *plans, progress=lambda title, done, total: counts.append(total) if done == total else None)
    return sum(counts)


def test_figures_are_those_of_evaluate(desk: Path) -> None:
    table = table_of(desk, "first")
    runs = [desk / "first" / f"{name}-seed{seed}" for name in ("inherit", "scratch") for seed in (10, 11)]
    scores = srkd.evaluate([desk / "teacher.safetensors", *runs], data=desk / "benchmarks").models
    rows = {row.name: row for row in table.rows}
    (gains,) = table.gains
    assert (gains.name, gains.over, gains.seeds) == ("inherit", "scratch", (10, 11))
    assert list(rows)[:2] == ["bicubic", "teacher"] and rows.keys() == {"bicubic", "teacher", "inherit", "scratch"}
    assert [rows[name].role for name in ("inherit", "scratch")] == ["student", "baseline"]
    for name in SETS:
        for key in ("psnr_y", "ssim_y"):
            for reference in ("bicubic", "teacher"):
                assert rows[reference].sets[name][key].values == (scores[reference][name][key],)
            for method in ("inherit", "scratch"):
                figure = rows[method].sets[name][key]
                assert figure.values == tuple(scores[f"{method}-seed{seed}"][name][key] for seed in (10, 11))
                assert figure.mean == pytest.approx(statistics.mean(figure.values))
                assert figure.sd == pytest.approx(statistics.stdev(figure.values))
            gain, (own, other) = gains.sets[name][key], (rows[m].sets[name][key].values for m in ("inherit", "scratch"))
            by_hand = [mine - theirs for mine, theirs in zip(own, other, strict=True)]
            assert gain.differences == pytest.approx(by_hand) and gain.mean == pytest.approx(statistics.mean(by_hand))
            assert gain.sd == pytest.approx(statistics.stdev(by_hand))
            assert gain.above_zero == sum(difference > 0 for difference in by_hand)


def test_rows_are_labelled_by_the_settings_that_differ(desk: Path) -> None:
    table = table_of(desk)
    rates = ("0.0008", "0.001", "0.01")
    names = {f"{recipe}, rate={rate}" for recipe in ("inherit", "scratch") for rate in rates}
    assert {row.name for row in table.rows if row.seeds} == names
    assert {row.settings["schedule.rate"] for row in table.rows if row.seeds} == set(rates)
    assert "width=4" in table.shared_line() and "rate=" not in table.shared_line()
    # Of one recipe, the rate alone tells the rows apart.
    alone = table_of(desk, "first/scratch-seed10", "second/scratch-rate-0.01-seed10")
    assert {row.name for row in alone.rows if row.seeds} == {"rate=0.0008", "rate=0.01"}
    assert "scratch" in alone.shared_line()


def test_runs_in_folders_of_one_name_are_scored_apart(desk: Path, tmp_path: Path) -> None:
    runs = [tmp_path / recipe / "run" for recipe in ("inherit", "scratch")]
    for run_folder in runs:
        shutil.copytree(desk / "first" / f"{run_folder.parent.name}-seed10", run_folder)
    rows = {row.name: row.sets for row in srkd.compare(runs, data=desk / "benchmarks").rows if row.seeds}
    expected = {row.name: row.sets for row in table_of(desk, "first").rows if row.seeds}
    for method in ("inherit", "scratch"):
        assert rows[method]["A_1"]["psnr_y"].mean == expected[method]["A_1"]["psnr_y"].values[0]
    shutil.copytree(runs[0], tmp_path / "again" / "run")
    names = [method.name for method in srkd.compare([runs[0], tmp_path / "again" / "run"]).methods]
    assert names == [f"inherit ({folder / 'run'})" for folder in (tmp_path / "inherit", tmp_path / "again")]


def test_a_run_counts_once_and_pairs_are_of_one_plan(desk: Path) -> None:
    again = table_of(desk, "first", "first/scratch-seed10")
    assert [len(row.seeds) for row in again.rows] == [0, 0, 2, 2]
    # A point shares seeds with the baselines of other points and plans, but it is compared with its own.
    gains = table_of(desk).gains
    assert len(gains) == 3 and all(each.over == each.name.replace("inherit", "scratch") for each in gains)
    alone = table_of(desk, *(f"first/{name}" for name in ("inherit-seed10", "scratch-seed10", "scratch-seed11")))
    assert [each.seeds for each in alone.gains] == [(10,)]
    assert table_of(desk, "first/inherit-seed10").left_out[0].startswith("no gains")


def test_a_run_without_a_teacher_stands_beside_one_with_it(desk: Path, tmp_path: Path) -> None:
    words = {**TWO_SEEDS, "seeds": 1, "data": desk / "photos", "val": desk / "photos", "width": None}
    srkd.compress(recipe="scratch", student="edsr:width=4,depth=4,scale=2", out=tmp_path / "scratch", **words)
    (gains,) = srkd.compare([desk / "first" / "inherit-seed10", tmp_path / "scratch"]).gains
    assert all("psnr_y" in figures and "psnr_y_teacher" not in figures for figures in gains.sets.values())


def test_a_second_call_enlarges_nothing(copy: Path) -> None:
    (copy / "elsewhere").mkdir()
    images = sum(len(list((copy / "benchmarks" / name).iterdir())) for name in SETS)
    notes: list[str] = []
    first = table_of(copy, "first", announce=notes.append)
    assert any(EVALUATIONS in note for note in notes)
    notes.clear()
    shutil.move(copy / "teacher.safetensors", copy / "elsewhere")
    assert table_of(copy, "first", announce=notes.append) == first and notes == []
    assert scored_images(copy, "first") == 0
    # Another plan is scored; what is known is not.
    assert scored_images(copy) == images and scored_images(copy) == 0
    assert first.left_out == () and [row.role for row in first.rows][:2] == ["bicubic", "teacher"]


def test_what_has_changed_is_scored_anew(copy: Path) -> None:
    before = table_of(copy, "first")
    shutil.copy(copy / "second" / "rate-0.01-seed10" / "student.safetensors", copy / "first" / "inherit-seed10")
    assert scored_images(copy, "first") == 5
    photo = next((copy / "benchmarks" / "B%").iterdir())
    times = photo.stat()
    Image.open(photo).rotate(180).save(photo)
    os.utime(photo, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert scored_images(copy, "first") == 2
    after = table_of(copy, "first")
    assert after.sets["A_1"] == before.sets["A_1"] and after.sets["B%"] != before.sets["B%"]
    other = table_of(copy, "first", border=0)
    assert other.rows != after.rows and "border=0" in other.protocol


def test_files_of_scores_that_cannot_be_used(copy: Path) -> None:
    table = table_of(copy, "first")
    damaged, folder = (copy / "first" / f"scratch-seed{seed}" / EVALUATIONS for seed in (10, 11))
    damaged.write_text("{")
    folder.unlink()
    folder.mkdir()
    notes: list[str] = []
    assert table_of(copy, "first", announce=notes.append) == table
    assert sum("damaged" in note for note in notes) == 1 and sum("not kept" in note for note in notes) == 1
    assert json.loads(damaged.read_text())["schema"] == "srkd.evaluations/3"


def test_an_interrupted_call_keeps_the_finished_sets(copy: Path) -> None:
    done_sets: list[str] = []

    def stop(title: str, done: int, total: int) -> None:
        if len(done_sets) == 1 and done:
            raise KeyboardInterrupt
        if done == total:
            done_sets.append(title)

    with pytest.raises(KeyboardInterrupt):
        table_of(copy, "first", progress=stop)
    assert scored_images(copy, "first") == 2


def test_by_the_goal_teacher_its_images_come_first(copy: Path) -> None:
    photos, words = copy / "photos", {**TWO_SEEDS, "goal": "teacher"}
    srkd.compress(copy / "teacher.safetensors", recipe="logits", data=photos, val=photos, out=copy / "third", **words)
    table = table_of(copy, "third")
    runs = sorted((copy / "third").glob("logits-seed*"))
    scores = srkd.evaluate(runs, data=copy / "benchmarks", against=copy / "teacher.safetensors").models
    row = table.rows[-1]
    assert table.references == ("teacher", "original") and "to the teacher" in table.latex()
    for key in ("psnr_y_teacher", "ssim_y_teacher", "psnr_y", "ssim_y"):
        assert row.sets["B%"][key].values == tuple(scores[run.name]["B%"][key] for run in runs)
    assert [row[0] for row in table.table("teacher").rows] == ["bicubic", "logits"]


def rows_of(tabular: str) -> list[list[str]]:
    """Return the cells of a tabular as LaTeX reads it: as many in each row, and braces in pairs."""
    begin, *inner, end = (line for line in tabular.splitlines() if not line.startswith("%"))
    columns = re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", begin)
    assert columns and end == r"\end{tabular}"
    rows = [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in inner if line != r"\hline"]
    for row in rows:
        plain = re.sub(r"\\[&%$#_{}]", "", "".join(row))
        assert len(row) == len(columns[1]) and plain.count("{") == plain.count("}") and plain.count("$") % 2 == 0, row
        assert not re.search("[%#_^~]", plain), row
    return [[cell.strip() for cell in row] for row in rows]


def test_latex(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", str(desk / "first"), "--data", str(desk / "benchmarks"), "--latex"]) == 0
    text, table = capsys.readouterr().out, table_of(desk, "first")
    head, *rows, gains = rows_of(text)
    metrics = [rf"{name} {metric}" for name in (r"A\_1", r"B\%") for metric in ("PSNR-Y", "SSIM-Y")]
    assert head == ["method", "seeds", "params", "GMAC at 256x256", *metrics]
    assert [row[0] for row in rows] == [latex_text(row.name) for row in table.rows] and " over scratch" in gains[0]
    assert gains[4][:2] in ("$+", "$-")
    for index, (name, key, digits) in enumerate(
        (name, *each) for name in SETS for each in (("psnr_y", 3), ("ssim_y", 4))
    ):
        figures = [row.sets[name][key] for row in table.rows]
        best = max(figure.mean for figure, row in zip(figures, table.rows, strict=True) if row.seeds)
        for row, figure, facts in zip(rows, figures, table.rows, strict=True):
            shown = f"{figure.mean:.{digits}f}"
            is_best = facts.seeds and shown == f"{best:.{digits}f}"
            sd = "" if figure.sd is None else rf" $\pm$ {figure.sd:.{digits}f}"
            assert row[index + 4] == (rf"\textbf{{{shown}}}" if is_best else shown) + sd
    caption = "\n".join(line for line in text.splitlines() if line.startswith("%"))
    assert all(each in caption for each in (table.protocol, "seeds 10, 11", table.lines()[0], srkd.__version__))


def test_names_with_special_characters_are_latex(desk: Path) -> None:
    table, name = table_of(desk, "first"), "[a_b] 5% & $x$ #1 {y} ~^\\ <z> | *"
    odd = replace(table, rows=tuple(replace(row, name=name) for row in table.rows))
    assert rows_of(odd.latex())[1][0] == latex_text(name)


def test_csv_and_json(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, arguments = table_of(desk, "first"), ["compare", str(desk / "first"), "--data", str(desk / "benchmarks")]
    assert run([*arguments, "--csv"]) == 0
    records = {(each["name"], each["over"]): each for each in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert records.keys() == {*((row.name, "") for row in table.rows), ("inherit", "scratch")}
    for row in table.rows:
        record, figure = records[row.name, ""], row.sets["B%"]["psnr_y"]
        assert float(record["sets.B%.psnr_y.mean"]) == figure.mean and record["seeds"] == " ".join(map(str, row.seeds))
        assert tuple(map(float, record["sets.B%.psnr_y.values"].split())) == figure.values
    gain = table.gains[0].sets["B%"]["ssim_y"]
    assert float(records["inherit", "scratch"]["sets.B%.ssim_y.mean"]) == gain.mean
    assert run([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "srkd.compare/1" and set(document["sets"]) == set(SETS)
    assert document["rows"][0]["sets"]["A_1"]["psnr_y"]["mean"] == table.rows[0].sets["A_1"]["psnr_y"].mean


def test_known_scores_need_no_torch(desk: Path) -> None:
    """Importing torch takes longer than the rest of a second call."""
    table_of(desk, "first")
    code = (
        "import sys; from srkd.cli.main import run; code = run(sys.argv[1:]); "
        "print('torch' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    words = ["compare", str(desk / "first"), "--data", str(desk / "benchmarks"), "--json"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.split()) == (0, ["False"]) and "A_1" in done.stdout
