"""docs/images/overview.svg is what scripts/draw_overview.py draws, and says what is true of srkd."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ET
from types import ModuleType

import pytest

from compressor.runtimes.table import RUNTIMES
from srkd.cli import VERBS
from tests.support.commands import ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_overview", ROOT / "scripts" / "draw_overview.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_committed_picture_is_what_the_script_draws(script: ModuleType) -> None:
    assert script.PICTURE.read_text(encoding="utf-8") == script.draw(), "run: python scripts/draw_overview.py"


def test_the_picture_names_every_runtime_but_torch(script: ModuleType) -> None:
    drawn = {re.sub(r"\W", "", name).lower() for name in script.FORMATS}
    assert drawn == {name.removesuffix("runtime") for name in RUNTIMES if not name.startswith("torch")}


def test_its_figures_are_those_of_the_readme_and_its_commands_are_verbs(script: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in (*script.TEACHER_FIGURES, *script.STUDENT_FIGURES):
        assert line.split()[0] in readme
    commands = {line.split()[1] for line in texts(script.draw()) if line.startswith("srkd ")}
    assert commands == {"compress", "export", "profile", "evaluate"} and commands <= set(VERBS)
