"""A package with an entry point that raises an error: one line with its name, file and line."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from compressor.base.entry_points import EntryPointTable
from recipes.catalogue import METHODS, MethodEntry
from tests.support.commands import ROOT, python
from tests.support.packages import install

METHODS_OF_A_LAB = """
from dataclasses import dataclass

import torch

from compressor.training.method import PlainMethod
from recipes.catalogue import Contribution, MethodEntry

NAMES = ("broken", "misuse")
CONTRIBUTION = Contribution({name: MethodEntry(f"lab_broken:{name.title()}", "nothing") for name in NAMES})


@dataclass(frozen=True)
class Broken(PlainMethod):
    name = "broken"
    weights = {"broken": 1.0}

    def terms(self, step):
        return {"broken": torch.zeros(2, 3) @ torch.zeros(2, 3)}  # the line that fails


@dataclass(frozen=True)
class Misuse(Broken):
    name = "misuse"

    def terms(self, step):
        return {"broken": step.student(images=3)}
"""
LINE = 1 + METHODS_OF_A_LAB[: METHODS_OF_A_LAB.index("# the line")].count("\n")
TRAIN = """
import sys
from srkd.cli.main import run

for name in ("broken", "misuse"):
    words = ["--recipe", f"{sys.argv[1]}/{name}.yaml", "--student", "edsr:width=4,depth=1,scale=2", "--steps", "2"]
    print("ends with", run(["compress", *words, "--out", f"{sys.argv[1]}/{name}"]), file=sys.stderr)
"""
install_method = partial(
    install, module="lab_broken", group="srkd.recipes", entry_points="lab = lab_broken:CONTRIBUTION"
)


@pytest.mark.parametrize(
    ("program", "reason", "line"),
    [
        ("x = 1\n\nprint({}['key'])\n", "KeyError: 'key'", 3),
        ("def one(:\n    pass\n", "SyntaxError", 1),
        ("import sys\nsys.exit('not today')\n", "SystemExit: not today", 2),
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


@pytest.mark.ci
def test_an_error_in_training_is_put_on_the_package_that_raised_it(tmp_path: Path) -> None:
    """An error raised by srkd itself, when a package calls it wrongly, is attributed to srkd."""
    site = install_method(tmp_path / "site", program=METHODS_OF_A_LAB)
    for name in ("broken", "misuse"):
        recipe = f"title: t\nsource: s\nmethods:\n  - name: {name}\nschedule:\n  batch: 1\n  lr_patch: 8\n"
        (tmp_path / f"{name}.yaml").write_text(recipe)
    done = python("-c", TRAIN, tmp_path, PYTHONPATH=os.pathsep.join([str(site), str(ROOT)]))
    broken, misuse, _ = done.err.split("ends with 1\n")
    last = broken.strip().splitlines()[-1]
    assert last.startswith("srkd: the package lab failed: RuntimeError: ") and "Traceback" not in broken
    assert f", at {site / 'lab_broken.py'}:{LINE}; rerun with -v" in last
    assert "srkd: internal error: TypeError" in misuse
