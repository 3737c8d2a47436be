"""What the pictures of the documentation say of srkd is true."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from benchmarks.evidence import Result, results_folder
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


def test_the_picture_names_every_runtime_but_torch(texts: list[str]) -> None:
    named = {re.sub(r"\W", "", line).lower() for line in texts[texts.index("Formats") + 1 : texts.index("measure")]}
    assert named == {name.removesuffix("runtime") for name in RUNTIMES if not name.startswith("torch")}


def test_its_figures_are_those_of_the_quickstart_and_its_commands_are_verbs(texts: list[str]) -> None:
    rows = Result.read(results_folder() / "quickstart.json").tables["scores"].rows
    for title, network in (("Teacher", "teacher"), ("Student", "logits")):
        (row,) = (row for row in rows if row["network"] == network)
        figures = f"{row['params']:,} parameters", f"{row['gmacs']:.2f} GMAC", f"{row['psnr_y_db']:.3f} dB"
        assert set(figures) <= set(texts[texts.index(title) :][:5])
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
