"""What the pictures of the documentation say of srkd is true."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from compressor.assets.shipped import shipped_student
from compressor.runtimes.table import RUNTIMES
from scripts.design_parts import imports, methods
from srkd.cli.main import VERBS
from tests.support.commands import ROOT

PICTURE = ROOT / "docs" / "images" / "overview.svg"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return the lines of text in the picture of srkd."""
    picture = ET.fromstring(PICTURE.read_text(encoding="utf-8"))
    return ["".join(element.itertext()) for element in picture.iter("{http://www.w3.org/2000/svg}text")]


def gmacs(macs: int) -> str:
    """Return multiply-adds of an LR pixel as those of 256×256."""
    return f"{macs * 256**2 / 1e9:.2f}"


def test_the_picture_names_every_runtime_here_but_torch(texts: list[str]) -> None:
    named = {re.sub(r"\W", "", line).lower() for line in texts[texts.index("Formats") + 1 : texts.index("measure")]}
    assert named == {name.removesuffix("runtime") for name in RUNTIMES if not name.startswith(("torch", "magpie"))}


def test_its_figures_are_those_of_a_student_and_its_commands_are_verbs(texts: list[str]) -> None:
    facts = shipped_student(texts[texts.index("Student") + 1])
    of_student = f"{facts.params:,} parameters", f"{gmacs(facts.macs)} GMAC"
    distance = f"{facts.psnr_y_teacher:.2f} dB to its teacher"
    assert texts[texts.index("Student") + 2 :][:3] == [*of_student, distance]
    of_teacher = facts.teacher, "large and slow", "1,213,296 parameters", f"{gmacs(facts.teacher_macs)} GMAC"
    assert texts[texts.index("Teacher") + 1 :][:4] == list(of_teacher)
    commands = {line.split()[1] for line in texts if line.startswith("srkd ")}
    assert commands == {"compress", "export", "profile", "evaluate"} and commands <= set(VERBS)


def test_imports_lie_on_one_side_of_the_diagonal() -> None:
    matrix = imports()
    assert len(matrix.dots) > 40
    assert all(matrix.rows.index(row) < matrix.columns.index(column) for row, column in matrix.dots)


def test_the_picture_of_methods_knows_what_the_catalogue_does() -> None:
    dots = methods().dots
    assert ("csd", "branches") in dots and ("scratch", "the teacher's images") not in dots
    assert {row for row, column in dots if column == "quantisation"} == {"pams", "pact"}
    takers = {row for row, column in dots if column == "the teacher's images"}
    assert takers == {"csd-lite", "logits", "dukd", "dckd", "perceptual"}
