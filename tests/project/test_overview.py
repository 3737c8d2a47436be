"""The pictures in docs/images are those that the scripts draw, and their statements about srkd are true."""

from __future__ import annotations

import importlib.util
import re
import sys
import xml.etree.ElementTree as ET
from types import ModuleType

import pytest

from benchmarks.pages import rendered
from compressor.runtimes.table import RUNTIMES
from scripts.design_parts import imports, methods
from srkd.cli.main import VERBS
from tests.support.commands import ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("draw_overview")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_committed_picture_is_what_the_script_draws(script: ModuleType) -> None:
    assert script.PICTURE.read_text(encoding="utf-8") == script.draw(), "run: python scripts/draw_overview.py"


def test_the_picture_names_every_runtime_but_torch(script: ModuleType) -> None:
    drawn = {re.sub(r"\W", "", name).lower() for name in script.FORMATS}
    assert drawn == {name.removesuffix("runtime") for name in RUNTIMES if not name.startswith("torch")}


def test_its_figures_are_those_of_the_quickstart_and_its_commands_are_verbs(script: ModuleType) -> None:
    shown = rendered("quickstart", "summary", None, ROOT / "docs" / "results")
    for line in (*script.figures("teacher"), *script.figures("logits")):
        assert line.split()[0] in shown
    commands = {line.split()[1] for line in texts(script.draw()) if line.startswith("srkd ")}
    assert commands == {"compress", "export", "profile", "evaluate"} and commands <= set(VERBS)


def test_imports_lie_on_one_side_of_the_diagonal_and_siblings_have_none() -> None:
    matrix = imports()
    assert len(matrix.dots) > 40
    assert all(matrix.rows.index(row) < matrix.columns.index(column) for row, column in matrix.dots)
    siblings = {"recipes", "export", "demo"}
    packages = [{name.partition(".")[0] for name in dot} for dot in matrix.dots]
    assert not [pair for pair in packages if len(pair) == 2 and pair <= siblings]


def test_the_picture_of_methods_knows_what_the_catalogue_does() -> None:
    dots = methods().dots
    assert ("csd", "TrainsJointly") in dots and ("scratch", "the teacher's images") not in dots
    assert {row for row, column in dots if column == "QuantisesStudent"} == {"pams", "pact"}
    assert {row for row, column in dots if column == "the teacher's images"} == {
        "csd-lite",
        "logits",
        "dukd",
        "dckd",
        "perceptual",
    }
