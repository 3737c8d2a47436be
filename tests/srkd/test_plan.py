"""`srkd plan` and `srkd compress --target-…` as a user calls them, on a tiny teacher in torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import srkd
from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.load import load_checkpoint
from compressor.models.students.students import parse_student
from compressor.runtimes import table
from export.plan.measure import Environment
from export.plan.search import Targets, unknown
from srkd.cli.main import run
from srkd.record.result import CompressReport
from srkd.record.run_file import read_run_file
from srkd.runs import planning, planning_elsewhere, target
from srkd.runs.planning import PlanReport, remedies
from srkd.runs.planning_elsewhere import PlanFiles
from srkd.terminal.console import json_value
from tests.support.deaths import death_after
from tests.support.run_files import assert_read_as_written, read_json
from tests.support.small_runs import SMALL, TEACHER

TINY = {"runtime": "torch", "lr_size": "16x12", "threads": 1}
WORDS = ("--runtime", "torch", "--lr-size", "16x12", "--threads", "1")
EASY = ("--target-fps", "0.2")
"""A target that even a busy machine meets."""


@pytest.mark.ci
def test_the_verb_prints_a_table_of_reasons_draws_a_picture_and_names_the_next_step(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "plan.png"
    words = ["plan", "--teacher", str(teacher), *EASY, *WORDS, "--seconds", "0.05", "--no-quality", "-o", str(picture)]
    assert run(words) == 0
    out = capsys.readouterr().out
    assert "chosen: edsr 8x4" in out, "the teacher's own shape, as everything is in reach"
    assert f"wrote {picture}" in out and f"next: srkd compress --teacher {teacher} --student edsr:scale=2" in out
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG" and drawn.convert("L").getextrema()[0] < 100


@pytest.mark.ci
def test_the_function_returns_what_json_prints(teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = srkd.plan(teacher, target_fps=0.2, target_mb=1, seconds=0.05, **TINY)
    assert isinstance(report, PlanReport) and report.chosen in report.rows and report.scale == 2
    assert parse_student(report.chosen.student) == TEACHER
    assert report.chosen.psnr_y is not None, "solved for: the finalists' quality is known"
    assert any(row.psnr_y is None for row in report.rows), "of the others it is not"
    assert all(row.why for row in report.rows)
    assert run(["plan", "--teacher", str(teacher), *EASY, *WORDS, "--seconds", "0.05", "--no-quality", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["schema"] == "srkd.plan/1" and values["targets"]["fps"] == 0.2 and values["lr_size"] == "16x12"
    assert {"student", "params", "macs", "ms", "ms_interval", "fps", "psnr_y", "verdict", "why"} <= values[
        "chosen"
    ].keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "a plan needs a target"),
        (("--target-ms", "-3"), "--target-ms: '-3' should"),
        (("--target-ms", "inf"), "--target-ms inf: give a number above 0"),
        (("--target-fps", "9", "--runtime", "tensorflow"), "'tensorflow'"),
        (("--target-fps", "9", "--lr-size", "99999x99999"), "99999x99999 takes 600 GB"),
        (("--target-fps", "9", "--scale", "3"), "the network enlarges x2"),
        (("--target-fps", "9", "--precision", "int8"), "--precision int8"),
        (("--measured", "nowhere.json"), "nowhere.json does not exist"),
        (("--target-fps", "9", "-o", "plan.jpg"), "plan.jpg"),
        (("--target-fps", "9", "--emit", "phone", "-o", "a.png"), "--out a.png: --emit plans nothing yet"),
        (("--measured", "a.json", "--threads", "2"), "--threads: --measured a.json has the times: leave it out"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    teacher: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = () if "--runtime" in words else ("--runtime", "torch")
    assert run(["plan", "--teacher", str(teacher), *runtime, *words, "-q"]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and "\n" not in err


def test_a_runtime_that_is_not_installed_is_named_with_its_pip_command(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "missing_modules", lambda modules: tuple(modules))
    with pytest.raises(UsageError, match=r"--runtime openvino: .*pip install 'srkd\[openvino\]'"):
        srkd.plan(teacher, target_fps=1, runtime="openvino")


def test_out_of_reach_is_one_line_with_what_would_reach_it(teacher: Path) -> None:
    with pytest.raises(SrkdError, match=r"1e\+09 FPS") as error:
        srkd.plan(teacher, target_fps=1e9, seconds=0.02, quality=False, **TINY)
    assert error.value.exit_code == 1 and "--lr-size 8x8" in str(error.value)


def test_remedies_are_a_smaller_image_then_int8() -> None:
    words = remedies(4.0, Targets(fps=30), Environment("onnxruntime", "fp32", (320, 180)))
    assert words[:2] == ["--lr-size 160x88", "perhaps --precision int8"]
    assert remedies(4.0, Targets(megabytes=1), Environment()) == []


def test_another_device_measures(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(planning_elsewhere, "spread_out", lambda candidates, targets: [candidates[0]])
    folder = tmp_path / "phone"
    files = srkd.plan(teacher, target_fps=2, lr_size="16x12", emit=folder)
    words = ["plan", "--teacher", str(teacher), "--target-fps", "2", "--lr-size", "16x12", "--csv"]
    assert run([*words, "--emit", str(tmp_path / "csv")]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "name,failed" and "compact-8x1.onnx," in rows
    assert isinstance(files, PlanFiles) and {"compact-8x1.onnx", "plan.json", "run.py"} == {*files.files}
    timings = {"schema": "srkd.plan-measured/1", "plan": files.id, "machine": "a phone"}
    (folder / "measured.json").write_text(json.dumps({**timings, "rows": {"compact 8x1": {"ms": 31.5}}}))
    report = srkd.plan(teacher, measured=folder / "measured.json", quality=False)
    assert isinstance(report, PlanReport) and (report.chosen.name, report.chosen.ms) == ("compact 8x1", 31.5)
    assert report.measured_on == "a phone" and report.targets == Targets(fps=2)
    for words, line in (
        ({"runtime": "ncnn"}, "--runtime ncnn: .* has times for onnxruntime"),
        ({"lr_size": "640x360"}, "--lr-size 640x360: .* has times for 16x12"),
        ({"precision": "int8"}, "--precision int8: .* has times for fp32"),
    ):
        with pytest.raises(UsageError, match=line):
            srkd.plan(teacher, measured=folder / "measured.json", quality=False, **words)  # type: ignore[arg-type]
    with pytest.raises(SrkdError, match="100 FPS"):
        srkd.plan(teacher, target_fps=100, measured=folder / "measured.json", quality=False)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the measurements of plan and check, and solve for no finalist."""
    monkeypatch.setattr(target, "PLAN_SECONDS", 0.02)
    monkeypatch.setattr(target, "SECONDS", 0.1)
    monkeypatch.setattr(planning, "FittedQuality", lambda network, context: unknown)


@pytest.fixture
def teacher(ground: Path) -> Path:
    return ground / "teacher.safetensors"


def compressed(teacher: Path, folder: Path, **options: Any) -> CompressReport:
    """Compress to a target that every machine meets."""
    settings = {"recipe": "logits", "steps": 2, "settings": SMALL, "target_ms": 5000.0, "target_macs": 2e6, **options}
    return srkd.compress(teacher, data=teacher.parent / "photos", out=folder / "run", **settings, **TINY)  # type: ignore[arg-type]


@pytest.mark.ci
@pytest.mark.usefixtures("soon")
def test_compress_trains_what_the_target_decides_and_says_whether_it_is_met(teacher: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    report = compressed(teacher, tmp_path, announce=notes.append)
    assert report.target is not None and report.target.met
    assert report.target.file == report.student_path and report.target.line().startswith(
        "target 5000 ms, 0.002 GMAC at"
    )
    assert_read_as_written(tmp_path / "run")
    facts = read_json(tmp_path / "run")
    student = parse_student(facts["plan"]["chosen"]["student"])
    assert facts["student"] == json_value(student.to_dict()) and facts["plan"]["chosen"]["macs"] <= 2e6
    assert facts["options"]["target_ms"] == 5000.0 and facts["target"]["met"] is True
    assert any(line.startswith("plan: ") for line in notes)


@pytest.mark.ci
@pytest.mark.usefixtures("soon")
def test_a_target_decides_the_student_of_all_seeds_and_baselines(teacher: Path, tmp_path: Path) -> None:
    report = compressed(teacher, tmp_path, recipe="inherit", seeds=2, with_baseline=True)
    assert report.target is not None and report.target.met and report.trials is not None
    facts = read_json(tmp_path / "run")
    planned = parse_student(facts["plan"]["chosen"]["student"])
    runs = [read_json(tmp_path / "run" / name) for name in read_run_file(tmp_path / "run").run_names]
    assert len(runs) == 2 * 2 and all(row["student"] == json_value(planned.to_dict()) for row in runs)
    assert facts["target"]["met"] is True and not any("target" in row for row in runs), "the chosen student is timed"


@pytest.mark.ci
@pytest.mark.usefixtures("soon")
def test_a_target_decides_the_student_that_is_then_quantised(teacher: Path, tmp_path: Path) -> None:
    settings = (*SMALL, "then.schedule.batch=2", "then.schedule.lr_patch=8")
    report = compressed(teacher, tmp_path, then="pams", settings=settings)
    facts = read_json(tmp_path / "run")
    assert report.target is not None and report.target.file == tmp_path / "run" / "student.safetensors"
    network = load_checkpoint(report.student_path).network
    assert network.quantisation is not None
    assert network.spec == parse_student(facts["plan"]["chosen"]["student"])


@pytest.mark.ci
@pytest.mark.usefixtures("soon")
def test_a_resumed_run_keeps_its_plan_and_is_timed_at_its_end(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with death_after(1):
        compressed(teacher, tmp_path)
    before = read_json(tmp_path / "run")
    assert "result" not in before and before["plan"]["chosen"]["student"]
    monkeypatch.setattr(target, "_search", lambda *words: pytest.fail("planned again"))
    report = srkd.resume(tmp_path / "run")
    after = read_json(tmp_path / "run")
    assert after["plan"] == before["plan"] and report.target is not None and after["target"]["met"] is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"target_fps": 30.0, "width": 0.5}, "--width 0.5: the target decides the shape"),
        ({"target_fps": 30.0, "student": "edsr:width=8"}, "--student edsr:width=8: the target decides"),
        ({"target_fps": 30.0, "recipe": "csd"}, "csd trains its student inside the teacher, and a target may"),
        ({"target_fps": 30.0, "init": "inherit"}, "--init inherit: the target may choose a student that is no slice"),
        ({"runtime": "torch"}, "--runtime belongs to a target"),
    ],
)
def test_compress_refuses_what_contradicts_a_target(
    teacher: Path, tmp_path: Path, words: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        srkd.compress(teacher, out=tmp_path / "run", **words)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
