"""An option costs one place: its line in a group. A copy of srkd with one line more has it everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import ROOT, python
from tests.support.small_runs import save_photos, save_teacher

LINES = {
    "TrainingOptions": (
        "    recipe: Annotated[",
        '    grain: Annotated[float | None, Field(ge=0), Option("Grain that it keeps.", unset="all of it")] = None\n',
    ),
    "StudentOptions": (
        "    width: Annotated[",
        '    tint: Annotated[int | None, Option("A tint.", unset="none")] = None\n',
    ),
}
"""A line more in a group, and the line before which it goes."""

PROGRAM = """
import inspect, json, sys
from pathlib import Path
from click.testing import CliRunner
import srkd
from compressor.base.context import Context
from srkd.cli.verbs.compress import command
from srkd.options.compress import CompressOptions
from srkd.options.option import from_json
from srkd.runs.compression import begin
from srkd.runs.second import second_options

folder = Path(sys.argv[1])
call = CliRunner().invoke
value = lambda options, name="grain": options.to_json()[name]
small = dict(teacher="teacher.safetensors", data="photos", width=0.5, init="inherit", steps=1, batch=2, lr_patch=8)
small |= dict(grain=2, tint=3)
baselines = CompressOptions.of(**small, with_baseline=True, seeds=2, out=folder / "plan")
then = CompressOptions.of(**small, then="pams", out=folder / "then")
trials, second = begin(baselines, Context()).trials, begin(then, Context())
options_of_then = [second.trials.runs[0].spec.options, second_options(folder, second.options, "original")]
srkd.compress(**small, out=folder / "run")
request = json.loads((folder / "run" / "run.json").read_text())["options"]
print(json.dumps({
    "help": "--grain X" in call(command, ["--help"]).output,
    "meaning of none": "[default: all of it; x>=0]" in " ".join(call(command, ["--help"]).output.split()),
    "signature": str(inspect.signature(srkd.compress).parameters["grain"]),
    "wrong value": call(command, ["--grain", "-1", "--dry-run"]).output,
    "run.json": request["grain"],
    "read back": value(from_json(CompressOptions, request, "here", out=folder / "run")),
    "refused by --resume": call(command, ["--resume", str(folder / "run"), "--grain", "3"]).output,
    "runs of a comparison": [value(run.spec.options) for run in trials.runs],
    "runs of --then": [value(options) for options in options_of_then],
    "tint": [request["tint"], *(value(run.spec.options, "tint") for run in trials.runs)],
    "tint of --then": [value(options, "tint") for options in options_of_then],
}))
"""


@pytest.mark.ci
def test_an_option_is_in_every_place_and_in_the_runs_of_its_group(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "srkd", tmp_path / "srkd", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "srkd" / "options" / "compress.py"
    for group, (place, line) in LINES.items():
        before, _, after = file.read_text().partition(f"class {group}(")
        head, mark, tail = after.partition(place)
        file.write_text(f"{before}class {group}({head}{line}{mark}{tail}")
    save_teacher(tmp_path / "teacher.safetensors")
    save_photos(tmp_path / "photos")
    outcome = python("-c", PROGRAM, str(tmp_path), cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert outcome.code == 0, outcome.err
    facts: dict[str, Any] = json.loads(outcome.out.splitlines()[-1])
    assert facts["help"] and facts["meaning of none"] and facts["signature"] == "grain: float | None = None"
    assert "--grain: '-1'" in facts["wrong value"]
    assert facts["run.json"] == facts["read back"] == 2
    assert "leave out --grain" in facts["refused by --resume"]
    assert facts["runs of a comparison"] == [2] * 6 and facts["runs of --then"] == [2, 2]
    assert facts["tint"] == [3] * 7 and facts["tint of --then"] == [3, None], "of the first student alone"
