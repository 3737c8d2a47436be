"""A run knows the code that it trains with: changed code is refused or, if accepted, recorded."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import srkd
from compressor.base.errors import SrkdError
from recipes import catalogue
from srkd.cli.main import run as srkd_in_process
from srkd.record.run_file import read_run_file
from tests.support.deaths import death_after
from tests.support.packages import install
from tests.support.run_files import assert_read_as_written, read_json
from tests.support.small_runs import SMALL

ENTRY = """
from srkd import Contribution, MethodEntry

CONTRIBUTION = Contribution(methods={"heavy": MethodEntry("lab.method:Heavy", needs="nothing")})
"""
METHOD = """
from dataclasses import dataclass, field

from lab.formula import POWER
from srkd import PlainMethod


@dataclass(frozen=True)
class Heavy(PlainMethod):
    eps: float = 0.5
    name: str = "heavy"
    weights: dict = field(default_factory=lambda: {"heavy": 1.0})

    def terms(self, step):
        return {"heavy": (self.eps + (step.student().sr - step.hr).abs()).pow(POWER).mean()}
"""
RECIPE = "title: Heavy\nsource: a test\nmethods:\n  - name: heavy\n"
HEAVIER = ("method.py", "1.0}", "100.0}")
STRONGER = ("formula.py", "1", "2.0")

Edit = Callable[[str, str, str], None]


@pytest.fixture
def edit_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Install a package with the method `heavy`, and return a function that edits one of its files."""
    site = install(tmp_path / "site", "lab_entry", ENTRY, catalogue.GROUP, "lab = lab_entry:CONTRIBUTION")
    package = site / "lab"
    package.mkdir()
    for name, text in {"__init__.py": "", "method.py": METHOD, "formula.py": "POWER = 1\n"}.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(site)
    for table in (catalogue.METHODS, catalogue.RECIPES):
        monkeypatch.setattr(table, "_all", None)

    def forget() -> None:
        for name in [name for name in sys.modules if name == "lab_entry" or name.partition(".")[0] == "lab"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        shutil.rmtree(package / "__pycache__", ignore_errors=True)

    def edit(file: str, old: str, new: str) -> None:
        text = (package / file).read_text()
        assert old in text
        (package / file).write_text(text.replace(old, new))
        forget()

    forget()
    return edit


@pytest.fixture
def words(tmp_path: Path, photos: Path, teacher: Path) -> dict[str, Any]:
    """The options of a run with the method `heavy` that saves its state after each of two steps."""
    recipe = tmp_path / "heavy.yaml"
    recipe.write_text(RECIPE)
    settings = (*SMALL, "schedule.validate_every=1")
    options = {"data": photos, "recipe": str(recipe), "width": 0.5, "settings": settings}
    return {"teacher": teacher, "steps": 2, "threads": 1, **options}


@pytest.fixture
def stopped(edit_package: Edit, words: dict[str, Any], tmp_path: Path) -> Path:
    """A run that was stopped after one of its two steps."""
    with death_after(1):
        srkd.compress(out=tmp_path / "run", **words)
    return tmp_path / "run"


@pytest.mark.ci
def test_changed_code_is_refused_and_recorded_if_accepted(
    stopped: Path, edit_package: Edit, words: dict[str, Any], tmp_path: Path
) -> None:
    whole = srkd.compress(out=tmp_path / "whole", **words)
    again = shutil.copytree(stopped, tmp_path / "again")
    before = read_json(stopped)["code"]
    (method,) = before["methods"]
    assert (method["options"], method["weights"]) == ({"eps": 0.5}, {"heavy": 1.0})
    assert before["packages"].keys() == {"srkd", "torch", "lab"} and before["packages"]["lab"] == "1.0"
    assert {"lab.method", "lab.formula", "compressor.training.method"} == method["sources"].keys()
    edit_package(*HEAVIER)
    facts = (stopped / "run.json").read_bytes()
    with pytest.raises(SrkdError) as error:
        srkd.resume(stopped)
    old = method["sources"]["lab.method"]
    for text in ("method heavy of lab: lab.method", old[:12], "weight heavy", "1.0 -> 100.0", "--accept-changed-code"):
        assert text in str(error.value), str(error.value)
    assert (stopped / "run.json").read_bytes() == facts
    srkd.resume(stopped, accept_changed_code=True)
    after = read_json(stopped)["code"]
    (entry,) = after["continued"]
    (source, weight) = entry["changes"]
    assert entry["step"] == 1 and entry["time"] and entry["versions"] == []
    assert (source["before"], source["now"]) == (old, after["methods"][0]["sources"]["lab.method"])
    assert (weight["before"], weight["now"]) == ("1.0", "100.0")
    assert_read_as_written(stopped)
    comparison = srkd.compare([whole.run, stopped])
    assert len(comparison.methods) == 2
    assert any("1.0 (whole), 100.0 (run)" in line for line in comparison.differences)
    assert any("lab.method" in line and old[:12] in line for line in comparison.lines())
    # Put back, the same run ends with the bytes of one that never stopped.
    edit_package(HEAVIER[0], HEAVIER[2], HEAVIER[1])
    assert srkd.resume(again).student_path.read_bytes() == whole.student_path.read_bytes()
    assert read_json(again)["code"] == read_json(whole.run)["code"]
    assert srkd.compare([whole.run, again]).differences == ()


@pytest.mark.ci
def test_a_formula_in_another_file_of_the_package_is_part_of_it(
    stopped: Path, edit_package: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_package(*STRONGER)
    assert srkd_in_process(["compress", "--resume", str(stopped)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "method heavy of lab: lab.formula" in last and "weight" not in last
    assert srkd_in_process(["compress", "--resume", str(stopped), "--accept-changed-code"]) == 0
    assert srkd_in_process(["compress", "--accept-changed-code", "--out", str(stopped / "new")]) == 2


def change_code(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    facts = read_json(run)
    change(facts)
    (run / "run.json").write_text(json.dumps(facts))


@pytest.mark.ci
def test_another_version_with_the_same_source_goes_on_and_is_recorded(stopped: Path) -> None:
    change_code(stopped, lambda facts: facts["code"]["packages"].update(srkd="0.0.1"))
    notes: list[str] = []
    srkd.resume(stopped, announce=notes.append)
    assert sum("0.0.1" in note for note in notes) == 1
    contents = read_run_file(stopped)
    assert contents.code is not None
    (entry,) = contents.code.continued
    assert entry.changes == () and [change.before for change in entry.versions] == ["0.0.1"]
    # Seeds of a method may be of several versions, as long as their source is the same.
    assert srkd.compare(stopped).differences != ()


@pytest.mark.ci
def test_a_run_whose_code_was_not_recorded_goes_on_and_says_so(stopped: Path) -> None:
    change_code(stopped, lambda facts: facts.pop("code"))
    notes: list[str] = []
    srkd.resume(stopped, announce=notes.append)
    assert any("cannot be seen" in note for note in notes)
    contents = read_run_file(stopped)
    assert contents.code is not None and contents.code.continued[0].step == 1


@pytest.mark.ci
def test_a_plan_does_not_mix_code(edit_package: Edit, words: dict[str, Any], tmp_path: Path) -> None:
    plan = srkd.compress(out=tmp_path / "plan", seeds=2, **words).run
    shutil.rmtree(plan / "heavy-seed11")
    change_code(plan, lambda facts: facts.pop("result"))
    edit_package(*HEAVIER)
    with pytest.raises(SrkdError, match=r"--resume \S*plan: .*lab\.method"):
        srkd.resume(plan)
    assert not (plan / "heavy-seed11" / "run.json").exists()
    srkd.resume(plan, accept_changed_code=True)
    comparison = srkd.compare(plan)
    assert len(comparison.methods) == 2 and any("lab.method" in line for line in comparison.differences)


@pytest.mark.ci
def test_report_and_card_name_the_code(stopped: Path, tmp_path: Path) -> None:
    srkd.resume(stopped)
    contents = read_run_file(stopped)
    assert contents.code is not None
    digest = contents.code.methods[0].sha256[:12]
    srkd.export(stopped, formats="onnx", out=tmp_path / "exported")
    page = srkd.report(stopped, speed=False, out=tmp_path / "page.html").path
    for file in (page, tmp_path / "exported" / "student.md"):
        text = file.read_text()
        assert digest in text and "lab 1.0" in text, file
