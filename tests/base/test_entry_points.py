"""A package with an entry point that raises an error: one line with its name, file and line."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from compressor.base.entry_points import EntryPointTable
from recipes.catalogue import METHODS, MethodEntry
from tests.support.commands import ROOT, Outcome, srkd
from tests.support.packages import install

METHOD = """
from dataclasses import dataclass

import torch

from compressor.training.method import PlainMethod
from recipes.catalogue import Contribution, MethodEntry

CONTRIBUTION = Contribution({"broken": MethodEntry("lab_broken:Broken", "nothing")})


@dataclass(frozen=True)
class Broken(PlainMethod):
    name = "broken"
    weights = {"broken": 1.0}

    def terms(self, step):
        return {"broken": torch.zeros(2, 3) @ torch.zeros(2, 3)}  # the line that fails
"""
LINE = 1 + METHOD[: METHOD.index("# the line")].count("\n")
install_method = partial(
    install, module="lab_broken", group="srkd.recipes", entry_points="lab = lab_broken:CONTRIBUTION"
)


@pytest.mark.parametrize(
    ("program", "reason", "line"),
    [
        ("x = 1\n\nprint({}['key'])\n", "KeyError: 'key'", 3),
        ("import json\njson.loads('{')\n", "JSONDecodeError", 2),
        ("def one(:\n    pass\n", "SyntaxError", 1),
        ("import sys\nsys.exit('not today')\n", "SystemExit: not today", 2),
        (
            "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\nraise Odd\n",
            "Odd: its message raises another error",
            4,
        ),
    ],
)
def test_a_module_that_cannot_be_imported(
    program: str, reason: str, line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = install_method(tmp_path / "site", program=program)
    monkeypatch.syspath_prepend(str(site))
    table = EntryPointTable("method", [METHODS["logits"]], METHODS.group, METHODS.read)
    (note,) = (note for note in table.notes if "lab" in note)
    assert note.startswith(f"the package lab cannot be used: its entry point lab_broken:CONTRIBUTION gave {reason}")
    assert note.endswith(f", at {site / 'lab_broken.py'}:{line}") and "\n" not in note
    with pytest.raises(
        Exception, match=rf"lab_broken:It of lab cannot be imported \({reason}.*lab_broken\.py:{line}\)"
    ):
        MethodEntry("lab_broken:It", "nothing", package="lab").load()


def train(folder: Path, program: str) -> Outcome:
    """Run srkd compress with the method of a package that contains this program."""
    site, recipe = install_method(folder / "site", program=program), folder / "mine.yaml"
    recipe.write_text("title: t\nsource: s\nmethods:\n  - name: broken\nschedule:\n  batch: 1\n  lr_patch: 8\n")
    options = ("--student", "edsr:width=4,depth=1,scale=2", "--steps", "2", "--out", folder / "run")
    return srkd("compress", "--recipe", recipe, *options, PYTHONPATH=os.pathsep.join([str(site), str(ROOT)]))


@pytest.mark.ci
def test_a_method_that_raises_in_training(tmp_path: Path) -> None:
    done = train(tmp_path, METHOD)
    last = done.err.strip().splitlines()[-1]
    assert done.code == 1 and "Traceback" not in done.err
    assert last.startswith("srkd: the package lab failed: RuntimeError: ")
    assert f", at {tmp_path / 'site' / 'lab_broken.py'}:{LINE}; rerun with -v" in last


@pytest.mark.ci
def test_a_mistake_of_srkd_is_not_put_on_a_package(tmp_path: Path) -> None:
    """An error raised by srkd itself, when a package calls it, is attributed to srkd."""
    done = train(tmp_path, METHOD.replace("torch.zeros(2, 3) @ torch.zeros(2, 3)", "step.student(images=3)"))
    assert done.code == 1 and "srkd: internal error: TypeError" in done.err, done.err
