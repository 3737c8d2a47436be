"""`srkd report` and `srkd compare`: pages about run folders, and comparisons of methods."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import srkd
from compressor.base.errors import SrkdError, UsageError
from srkd.api.report import MOST_BYTES
from srkd.cli.main import run
from srkd.options.compress import CompressOptions
from srkd.record.measurements import ProfileFile, read_profile
from srkd.reports.charts import against_macs, against_time, point_figures
from srkd.reports.contents import read_contents
from srkd.reports.page import Section, report_page
from srkd.reports.pictures import Pictures
from srkd.reports.reproduction import given_options
from tests.support.foreign_models import save_onnx, save_torchscript, twin
from tests.support.run_files import read_json
from tests.support.small_runs import TWO_SEEDS, save_photos, save_teacher

EVIL = '<script>alert("1")</script>&amp;'


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished plan of two seeds and their baselines, with its teacher and exports."""
    folder = tmp_path_factory.mktemp("report")
    photos, teacher = save_photos(folder / "photos"), save_teacher(folder / "teacher.safetensors")
    words: dict[str, Any] = {"data": photos, "val": photos, **TWO_SEEDS}
    srkd.compress(teacher, recipe="inherit", with_baseline=True, out=folder / "plan", **words)
    srkd.export(folder / "plan", formats="onnx")
    return folder / "plan"


@pytest.fixture
def copy(plan: Path, tmp_path: Path) -> Path:
    """Return a copy of the plan's folder that a test may change."""
    return Path(shutil.copytree(plan, tmp_path / "copy"))


def change(folder: Path, **changes: Any) -> None:
    """Change entries of run.json; `__` in a name leads into objects, None removes an entry."""
    path = folder / "run.json"
    facts = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = facts
        for parent in parents:
            place = place[parent]
        place[last] = value
        if value is None:
            del place[last]
    path.write_text(json.dumps(facts))


class Page(HTMLParser):
    """The elements of a page, and its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def shown(run: Path) -> Page:
    """The page of a run folder without its pictures and curves, which take seconds."""
    contents = replace(read_contents(run), metrics=())
    return Page(report_page([Section(contents, read_profile(run, contents.student_sha256), Pictures())], None))


def test_a_report_holds_everything_and_fetches_nothing(plan: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    report = srkd.report(plan, out=out, data=plan.parent / "photos")
    assert report.path == out and report.bytes == out.stat().st_size < MOST_BYTES
    page = page_of(out)
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert "url(" not in out.read_text().split("</style>")[0].split("<style>")[1]
    student = read_json(plan)["result"]["student"]
    for words in ("smaller", "Quality", "Pictures", "Curves", "Formats", "student.onnx", "passed", "How to reproduce"):
        assert words in page.text, words
    assert f"{student['cost']['params']:,}" in page.text
    (exported,) = json.loads((plan / "exports.json").read_text())["files"].values()
    assert f"{exported['parity']['max_abs']:.1e} on {exported['parity']['on']}" in page.text
    assert "srkd compress" in page.text and "--seeds 2" in page.text and "--width 0.5" in page.text
    # The page must not name folders of this machine.
    assert str(plan.parent) not in out.read_text()
    assert hashlib.sha256((plan / "student.safetensors").read_bytes()).hexdigest() in page.text
    assert not list(tmp_path.glob(".page*"))


def test_the_policy_allows_the_one_script_and_no_other(plan: Path) -> None:
    text = report_page([Section(replace(read_contents(plan), metrics=()), None, Pictures())], None)
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    (policy,) = (at["content"] for tag, at in Page(text).elements if at.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def test_names_in_a_run_folder_are_text(plan: Path, copy: Path, tmp_path: Path) -> None:
    """Text from run.json, exports.json, metrics.jsonl and profile.json never becomes markup."""
    change(copy, recipe=EVIL, preset__title=EVIL, data__validation=[EVIL], data__origin=EVIL, machine__cpu=EVIL)
    change(copy, result__flags=[EVIL], result__protocol=EVIL, result__recipe=EVIL, options__settings=[EVIL])
    facts = read_json(copy)
    for row in facts["result"]["trials"]["rows"]:
        row["name"] = EVIL
    for gain in facts["result"]["trials"]["gains"]:
        gain["over"] = EVIL
    facts["teacher"]["licence"] = EVIL
    (copy / "run.json").write_text(json.dumps(facts))
    record = json.loads((copy / "exports.json").read_text())
    record["files"][EVIL.replace("/", "")] = {**record["files"]["student.onnx"], "verdict": EVIL, "format": EVIL}
    (copy / "exports.json").write_text(json.dumps(record))
    rows = {"kind": "train", "step": 1, "loss": 1.0, f"weighted/{EVIL}": 1.0, "weighted/b": 2.0, "rate": 1.0}
    for file in copy.rglob("metrics.jsonl"):
        file.unlink()
    (copy / "metrics.jsonl").write_text(json.dumps(rows) + "\n")
    sha256 = hashlib.sha256((copy / "student.safetensors").read_bytes()).hexdigest()
    row = {"model": EVIL, "runtime": EVIL, "device": EVIL, "precision": EVIL, "lr_size": EVIL, "verdict": EVIL}
    rows_of_speed = [{**row, "latency_ms": {"p50": 2.0}, "speedup_same_runtime": 2.0}]
    speed = {"rows": rows_of_speed, "notes": [EVIL], "student_sha256": sha256}
    (copy / "profile.json").write_text(json.dumps(speed))
    path = srkd.report(copy, out=tmp_path / "page.html", data=plan.parent / "photos").path
    text = path.read_text()
    assert "<script>alert" not in text and "alert(" in text
    assert [tag for tag, _ in page_of(path).elements].count("script") == 1
    assert page_of(path).text.count(EVIL) > 20


def test_points_are_networks_above_their_cost_with_bicubic_as_a_level(plan: Path) -> None:
    contents = read_contents(plan)
    by_work = against_macs(contents.scores, "original")
    assert [(point.label, point.group) for point in by_work.points] == [
        ("inherit", "student"),
        ("scratch", "baseline"),
        ("teacher", "teacher"),
    ]
    bicubic = contents.score("bicubic")
    assert by_work.levels == (("bicubic", bicubic.to_original.mean),)
    assert all(point.x == score.macs / 1e9 for point, score in zip(by_work.points, contents.scores, strict=False))  # type: ignore[operator]
    ((_, picture),) = point_figures([by_work, None])
    assert all(point.label.encode() in picture for point in by_work.points) and b"bicubic" in picture
    assert against_macs([score for score in contents.scores if score.role == "teacher"], "original") is None


def test_points_are_times_at_the_first_size_without_unbounded_files(plan: Path) -> None:
    base = {"model": "s", "runtime": "torch", "device": "cpu", "precision": "fp32", "lr_size": "8x8"}
    student = {**base, "latency_ms": {"p50": 2.0}}
    teacher = {**student, "model": "t", "latency_ms": {"p50": 4.0}}
    unbounded = {**student, "precision": "int8", "int8": {"bounded": False}}
    rows = [teacher, student, {**student, "lr_size": "16x16"}, {**student, "batch": 4}, unbounded]
    profile = ProfileFile.model_validate_json(json.dumps({"student_sha256": "0", "teacher": "t", "rows": rows}))
    by_time = against_time(read_contents(plan), profile)
    assert by_time is not None and by_time.x_label == "ms an image of LR 8x8, cpu, 1 thread"
    assert [(point.label, point.x) for point in by_time.points] == [
        ("teacher, torch fp32", 4.0),
        ("student, torch fp32", 2.0),
    ]


def test_the_headline_says_what_was_measured(copy: Path) -> None:
    row = {"model": "s", "runtime": "torch", "device": "cpu", "precision": "fp32", "lr_size": "64x64", "threads": 1}
    unbounded = {**row, "precision": "int8", "int8": {"bounded": False}, "speedup_vs_teacher_eager": 99.0}
    sha256 = hashlib.sha256((copy / "student.safetensors").read_bytes()).hexdigest()
    for verdict, speedup, words in (
        ("faster", 2.5, "2.50× faster"),
        ("slower", 0.5, "2.00× slower"),
        ("no measurable difference", 1.01, "measurable gain"),
    ):
        speeds = {"latency_ms": {"p50": 2.0}, "speedup_same_runtime": speedup, "verdict": verdict}
        record = {"student_sha256": sha256, "rows": [{**row, **speeds}, {**unbounded, "latency_ms": {"p50": 0.1}}]}
        (copy / "profile.json").write_text(json.dumps(record))
        text = shown(copy).text
        assert words in text
        # An unbounded int8 file does not count, as its quality is not that of the scored student.
        assert "99.00× over the teacher in torch at best" not in text


def test_an_unfinished_run_is_shown_as_far_as_it_is(copy: Path, tmp_path: Path) -> None:
    change(copy, result=None)
    (copy / "student.safetensors").unlink()
    report = srkd.report(copy, out=tmp_path / "page.html")
    text = page_of(report.path).text
    assert "not finished" in text and "Curves" in text and "Quality" not in text
    assert any("no student yet" in line for line in report.missing)
    assert any(f"srkd compress --resume {copy} " in line for line in report.missing)
    assert "srkd compress --resume RUN " in text and "Pictures" not in text


def test_options_are_given_without_folders_and_zeros_are_options_too() -> None:
    options = CompressOptions.of(seed=0, label_margin=0, calm=0, data="/home/me/photos", val=["own=/home/me/more"])
    given = dict(given_options(options))
    zeros, names = {"--seed": "0", "--label-margin": "0", "--calm": "0.0"}, {"--data": "photos", "--val": "own=more"}
    assert given == {"--recipe": "auto", **zeros, **names}


def test_a_changed_export_is_called_changed(copy: Path) -> None:
    (copy / "student.onnx").write_bytes(b"another file")
    assert "has changed since" in shown(copy).text
    (copy / "student.onnx").unlink()
    assert "the file is gone" in shown(copy).text


def test_without_the_teacher_the_originals_are_compared_with(plan: Path, copy: Path, tmp_path: Path) -> None:
    change(copy, teacher__sha256="0" * 64)
    report = srkd.report(copy, out=tmp_path / "page.html", data=plan.parent / "photos")
    assert any("the teacher's file is not at hand" in line for line in report.missing)
    assert "where student and original differ most" in page_of(report.path).text


@pytest.mark.parametrize("save", [save_onnx, pytest.param(save_torchscript, marks=pytest.mark.ci)])
def test_a_teacher_of_outputs_alone_is_shown_by_its_images(
    save: Callable[..., Path], plan: Path, copy: Path, tmp_path: Path
) -> None:
    file = save(twin(), tmp_path / ("teacher.onnx" if save is save_onnx else "teacher.pt"))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    change(copy, teacher__path=str(file), teacher__sha256=sha256, teacher__kind="foreign")
    report = srkd.report(copy, out=tmp_path / "report.html", data=plan.parent / "photos", trust_code=True)
    page = page_of(report.path)
    assert "where student and teacher differ most" in page.text and "teacher" not in str(report.missing)
    assert sum(tag == "img" for tag, _ in page.elements) >= 4


@pytest.mark.ci
def test_several_runs_are_one_page(plan: Path, copy: Path, tmp_path: Path) -> None:
    report = srkd.report([plan, copy], out=tmp_path / "both.html", data=plan.parent / "photos")
    text = page_of(report.path).text
    assert "2 runs side by side" in text and text.count("How to reproduce") == 2


def test_bad_input_is_one_line(plan: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    page = str(tmp_path / "p.html")
    (copy / "student.safetensors").unlink()
    for arguments, code, words in (
        (["report", str(tmp_path / "none")], 1, "does not exist"),
        (["report", str(empty)], 1, "empty"),
        (["report", str(plan), "--out", str(tmp_path / "p.txt")], 2, "ends in .html"),
        (["report", str(plan), str(copy)], 2, "--out FILE.html"),
        (["report", str(plan), "--out", page, "--data", str(empty)], 1, "no images"),
        (["report", str(plan), str(plan), "--out", page], 2, "named twice"),
        (["compare", str(empty)], 1, "empty"),
        (["compare", str(plan), "--device", "cuda"], 2, "--device: it is about the sets of --data"),
    ):
        assert run([*arguments, "-q"]) == code, arguments
        error = capsys.readouterr().err.strip()
        assert error.startswith("srkd: ") and "\n" not in error and words in error, error
    assert not Path(page).exists()


def test_compare_means_over_seeds(plan: Path) -> None:
    comparison = srkd.compare(plan)
    facts = read_json(plan)["result"]["trials"]
    means = {row["name"]: (row["mean"], row["sd"]) for row in facts["rows"]}
    figures = {row.name: row.sets["validation"]["psnr_y"] for row in comparison.methods}
    assert {name: (figure.mean, figure.sd) for name, figure in figures.items()} == {
        name: (pytest.approx(mean), pytest.approx(sd)) for name, (mean, sd) in means.items()
    }
    assert [row.role for row in comparison.rows[:2]] == ["bicubic", "teacher"]
    best, other = (figures[row.name].mean for row in comparison.methods)
    assert best >= other and comparison.methods[0].seeds == (10, 11)
    (gain,), (of_plan,) = comparison.gains, facts["gains"]
    assert (gain.name, gain.over) == ("inherit", "scratch")
    assert gain.sets["validation"]["psnr_y"].differences == pytest.approx(of_plan["differences"])


def test_single_runs_are_seeds_of_one_method(plan: Path) -> None:
    parts = sorted(plan.glob("inherit-seed*"))
    alone, both = srkd.compare(parts[0]), srkd.compare(parts)
    sds = [each.methods[0].sets["validation"]["psnr_y"].sd for each in (alone, both)]
    assert sds[0] is None and sds[1] is not None
    assert [len(both.methods), both.methods[0].seeds] == [1, (10, 11)]


def test_other_settings_are_another_method_and_the_best_is_compared_with_it(plan: Path, copy: Path) -> None:
    part, other = plan / "inherit-seed10", copy / "inherit-seed10"
    change(other, preset__schedule__rate=0.5, result__student__psnr_y=99.0)
    comparison = srkd.compare([part, other])
    assert len({method.name for method in comparison.methods}) == 2
    (gain,) = comparison.gains
    assert gain.seeds == (10,) and gain.sets["validation"]["psnr_y"].mean > 50


def test_what_cannot_be_compared_is_named(plan: Path, copy: Path) -> None:
    facts = (copy / "run.json").read_text()
    changes: dict[str, dict[str, Any]] = {
        "their scale differs (2 and 3)": {"student__scale": 3},
        "their validation protocol differs": {"result__protocol": "psnr@rgb"},
        "their validation images differ": {"data__validation": ["x"]},
        "their training images differ": {"data__digest": "x"},
        "bicubic has": {"result__bicubic": {"psnr_y": 1.0, "cost": None}},
    }
    for words, changed in changes.items():
        (copy / "run.json").write_text(facts)
        change(copy, **changed)
        with pytest.raises(UsageError, match=re.escape(words)):
            srkd.compare([plan, copy])


def test_unfinished_runs_are_left_out(plan: Path, copy: Path) -> None:
    change(copy, result=None)
    assert "copy is left out" in srkd.compare([plan, copy]).left_out[0]
    with pytest.raises(SrkdError, match="nothing to compare"):
        srkd.compare(copy)
