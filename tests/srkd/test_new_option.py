"""An option costs one place: its line in a group. A copy of srkd with one line more has it everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.support.commands import ROOT, python

LINE = '    grain: Annotated[float | None, Field(ge=0), Option("How much grain it keeps.", unset="all of it")] = None\n'
GROUPS = {
    "TrainingOptions": "    recipe: Annotated[",
    "StudentOptions": "    width: Annotated[",
}
"""A group, and the line before which the new one goes."""

PROGRAM = """
import inspect, json, sys
from pathlib import Path
from click.testing import CliRunner
import srkd
from compressor.base.context import QUIET
from srkd.cli.verbs.compress import command
from srkd.options.compress import CompressOptions
from srkd.options.option import from_json, to_json, values_of
from srkd.runs.config import RunConfig
from srkd.runs.then import Then
from srkd.runs.trials import Trials

folder = Path(sys.argv[1])
call = CliRunner().invoke
value = lambda options: next(value for row, value in values_of(options) if row.name == "grain")
small = dict(width=0.25, init="inherit", steps=1, batch=2, lr_patch=8, grain=2)
baselines = CompressOptions.of(**small, with_baseline=True, seeds=2, out=folder / "plan")
then = CompressOptions.of(**small, then="pams", out=folder / "then")
trials = Trials(baselines, QUIET, RunConfig.decide(baselines, QUIET))
srkd.compress(**small, out=folder / "run")
request = json.loads((folder / "run" / "run.json").read_text())["request"]
print(json.dumps({
    "help": "--grain X" in call(command, ["--help"]).output,
    "meaning of none": "[default: all of it; x>=0]" in " ".join(call(command, ["--help"]).output.split()),
    "signature": str(inspect.signature(srkd.compress).parameters["grain"]),
    "wrong value": call(command, ["--grain", "-1", "--dry-run"]).output,
    "run.json": request["grain"],
    "read back": value(from_json(CompressOptions, request, "here", out=folder / "run")),
    "refused by --resume": call(command, ["--resume", str(folder / "run"), "--grain", "3"]).output,
    "runs of a comparison": [value(run.options) for run in trials.runs],
    "runs of --then": [value(run.options) for run in Then(then, QUIET).runs],
}))
"""


def found(group: str, tmp_path: Path) -> dict[str, object]:
    shutil.copytree(ROOT / "srkd", tmp_path / "srkd", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "srkd" / "options" / "compress.py"
    before, _, after = file.read_text().partition(f"class {group}(")
    head, mark, tail = after.partition(GROUPS[group])
    file.write_text(f"{before}class {group}({head}{LINE}{mark}{tail}")
    outcome = python("-c", PROGRAM, str(tmp_path), cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert outcome.code == 0, outcome.err
    facts: dict[str, object] = json.loads(outcome.out.splitlines()[-1])
    return facts


def test_an_option_of_the_training_is_in_every_place_and_every_run(tmp_path: Path) -> None:
    facts = found("TrainingOptions", tmp_path)
    assert facts["help"] and facts["meaning of none"] and facts["signature"] == "grain: float | None = None"
    assert "'--grain': -1.0 is not in the range x>=0" in str(facts["wrong value"])
    assert facts["run.json"] == facts["read back"] == 2
    assert "--grain would change the run" in str(facts["refused by --resume"])
    assert facts["runs of a comparison"] == [2] * 6 and facts["runs of --then"] == [2, 2]


def test_an_option_of_the_student_is_that_of_the_first_student_alone(tmp_path: Path) -> None:
    facts = found("StudentOptions", tmp_path)
    assert facts["help"] and facts["run.json"] == 2
    assert facts["runs of a comparison"] == [2] * 6 and facts["runs of --then"] == [2, None]
