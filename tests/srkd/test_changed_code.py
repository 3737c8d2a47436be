"""A run knows the user's files that it trains with: a changed one is refused or, if accepted, recorded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import srkd
from compressor.base.errors import SrkdError
from srkd.cli.main import run as srkd_in_process
from srkd.record.run_file import read_run_file
from tests.support.commands import ROOT
from tests.support.deaths import death_after
from tests.support.run_files import assert_read_as_written, change_run_file, read_json
from tests.support.small_runs import SMALL

pytestmark = pytest.mark.ci

METHOD = """
from dataclasses import dataclass, field

from srkd import PlainMethod


@dataclass(frozen=True)
class Heavy(PlainMethod):
    teacher_needs = "nothing"
    weights: dict = field(default_factory=lambda: {"heavy": 1.0})

    def terms(self, step):
        return {"heavy": (step.student().sr - step.hr).abs().mean()}
"""


@pytest.fixture
def heavy(tmp_path: Path) -> Path:
    """The file of a method."""
    (tmp_path / "heavy.py").write_text(METHOD)
    return tmp_path / "heavy.py"


@pytest.fixture
def words(heavy: Path, photos: Path, teacher: Path) -> dict[str, Any]:
    """The options of a run that saves its state after each of two steps."""
    settings = (*SMALL, "schedule.validate_every=1")
    options = {"data": photos, "recipe": f"{heavy}:Heavy", "width": 0.5, "settings": settings}
    return {"teacher": teacher, "steps": 2, "threads": 1, **options}


@pytest.fixture
def stopped(words: dict[str, Any], tmp_path: Path) -> Path:
    """A run that was stopped after one of its two steps."""
    with death_after(1):
        srkd.compress(out=tmp_path / "run", **words)
    return tmp_path / "run"


def make_heavier(heavy: Path) -> None:
    heavy.write_text(METHOD.replace("1.0}", "100.0}"))


def test_a_changed_file_is_refused_and_recorded_if_accepted(
    stopped: Path, heavy: Path, words: dict[str, Any], tmp_path: Path
) -> None:
    whole = srkd.compress(out=tmp_path / "whole", **words)
    again = shutil.copytree(stopped, tmp_path / "again")
    before = read_json(stopped)["code"]
    assert before["packages"].keys() == {"srkd", "torch"} and before["files"].keys() == {str(heavy)}
    assert (" (git " in before["packages"]["srkd"]) == (ROOT / ".git").exists(), "the commit of a checkout"
    make_heavier(heavy)
    facts = (stopped / "run.json").read_bytes()
    with pytest.raises(SrkdError) as error:
        srkd.resume(stopped)
    for text in (str(heavy), before["files"][str(heavy)][:12], "--accept-changed-code"):
        assert text in str(error.value), str(error.value)
    assert (stopped / "run.json").read_bytes() == facts
    srkd.resume(stopped, accept_changed_code=True)
    after = read_json(stopped)["code"]
    (entry,) = after["continued"]
    (change,) = entry["changes"]
    assert entry["step"] == 1 and entry["time"]
    assert (change["before"], change["now"]) == (before["files"][str(heavy)], after["files"][str(heavy)])
    assert_read_as_written(stopped)
    comparison = srkd.compare([whole.run, stopped])
    assert len(comparison.methods) == 2 and any("heavy.py" in line for line in comparison.differences)
    # Put back, the same run ends with the bytes of one that never stopped.
    heavy.write_text(METHOD)
    assert srkd.resume(again).student_path.read_bytes() == whole.student_path.read_bytes()
    assert read_json(again)["code"] == read_json(whole.run)["code"]
    assert srkd.compare([whole.run, again]).differences == ()


def test_changed_code_can_only_be_accepted_by_a_run_that_goes_on(tmp_path: Path) -> None:
    assert srkd_in_process(["compress", "--accept-changed-code", "--out", str(tmp_path / "new")]) == 2


def test_another_version_goes_on_and_is_recorded(stopped: Path) -> None:
    change_run_file(stopped, lambda facts: facts["code"]["packages"].update(srkd="0.0.1"))
    notes: list[str] = []
    srkd.resume(stopped, announce=notes.append)
    assert sum("0.0.1" in note for note in notes) == 1
    (entry,) = read_json(stopped)["code"]["continued"]
    assert entry["changes"] == [] and [change["before"] for change in entry["versions"]] == ["0.0.1"]


def test_a_plan_does_not_mix_code(heavy: Path, words: dict[str, Any], tmp_path: Path) -> None:
    plan = srkd.compress(out=tmp_path / "plan", seeds=2, **words).run
    shutil.rmtree(plan / "Heavy-seed11")
    change_run_file(plan, lambda facts: facts.pop("result"))
    make_heavier(heavy)
    with pytest.raises(SrkdError, match=r"--resume \S*plan: .*heavy\.py"):
        srkd.resume(plan)
    assert not (plan / "Heavy-seed11" / "run.json").exists()
    srkd.resume(plan, accept_changed_code=True)
    comparison = srkd.compare(plan)
    assert len(comparison.methods) == 2 and any("heavy.py" in line for line in comparison.differences)


def test_report_and_card_name_the_code(stopped: Path, heavy: Path, tmp_path: Path) -> None:
    srkd.resume(stopped)
    contents = read_run_file(stopped)
    digest = contents.code.files[str(heavy)][:12]
    srkd.export(stopped, formats="onnx", out=tmp_path / "exported")
    page = srkd.report(stopped, out=tmp_path / "page.html").path
    for file in (page, tmp_path / "exported" / "student.md"):
        text = file.read_text()
        assert digest in text and "heavy.py" in text and contents.code.packages["srkd"] in text, file
