"""A method inside srkd costs four places: its file, a line of the catalogue, a preset and a page.

A fifth is a row of the tests, if its terms do not scale with the image or read more than images.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from recipes.catalogue import METHODS
from tests.support.commands import ROOT, python
from tests.support.packages import PACKAGES, SOURCES, names_in

WORDS = {"scratch", "inherit", "logits"}
"""Method names with another meaning, too: a student's initial weights, a term, the default recipe."""
OTHER_MEANINGS = {
    "compressor/models/networks/edsr.py": {"csd", "fakd"},
    "compressor/models/networks/rcan.py": {"csd", "fakd"},
    "recipes/methods/csd.py": {"csd"},
    "recipes/terms/contrast.py": {"csd"},
    "compressor/models/quantisation/description.py": {"pact", "pams"},
    "compressor/models/quantisation/quantisers.py": {"pams"},
    "recipes/terms/quantised.py": {"pams"},
}
"""Code bases named like papers: checkpoints, options that follow their code, and quantiser forms mentioned in files."""


def test_no_code_but_its_file_and_the_catalogue_names_a_method() -> None:
    mentions = {}
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        methods = {
            name for name, entry in METHODS.items() if entry.where.startswith(place[:-3].replace("/", ".") + ":")
        }
        methods_named = names_in(path)[0] & METHODS.keys() - WORDS - methods - OTHER_MEANINGS.get(place, set())
        if methods_named and place != "recipes/catalogue.py":
            mentions[place] = methods_named
    assert mentions == {}, "let the method, its options or its preset say what is needed"


PAGE = """# Charbonnier

## When

As a smooth L1.

## Cost

That of [scratch](scratch.md).

| option | default | |
|---|---|---|
| `eps` | 0.001 | ε |

## Our result

None yet ([results](results.md)).
"""


@pytest.fixture(scope="module")
def contributed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tree with tests/example_recipes' method in its places."""
    tree = tmp_path_factory.mktemp("contributed")
    left_out = shutil.ignore_patterns("__pycache__", "node_modules", ".*")
    for name in (*PACKAGES, "tests", "benchmarks", "scripts", "docs"):
        shutil.copytree(ROOT / name, tree / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tree)
    example = ROOT / "tests" / "example_recipes" / "example_recipes"

    def write(place: str, text: str) -> None:
        (tree / place).write_text(text, encoding="utf-8")

    def insert(place: str, before: str, line: str) -> None:
        text = (tree / place).read_text(encoding="utf-8")
        assert text.count(before) == 1
        write(place, text.replace(before, line + before))

    method = (example / "charbonnier.py").read_text(encoding="utf-8")
    preset = (example / "presets" / "charbonnier.yaml").read_text(encoding="utf-8")
    write(
        "recipes/methods/charbonnier.py", method.replace("from srkd import", "from compressor.training.method import")
    )
    insert(
        "recipes/catalogue.py",
        '    "scratch": MethodEntry(',
        '    "charbonnier": MethodEntry("recipes.methods.charbonnier:Charbonnier", "nothing"),\n',
    )
    write("recipes/presets/charbonnier.yaml", preset)
    # A tiny ε: a larger one would not scale with the image range, which a test of every method detects.
    row = '    Row("charbonnier", options={"eps": 1e-9}, teacher=None),\n'
    insert("tests/support/methods_table.py", '    Row("logits"),', row)
    write("docs/methods/charbonnier.md", PAGE)
    return tree


def run(tree: Path, *arguments: str) -> str:
    done = python(*arguments, cwd=tree, timeout=1200, PYTHONPATH=str(tree), OMP_NUM_THREADS="1")
    assert done.code == 0, done.out[-3000:] + done.err[-3000:]
    return done.out


@pytest.mark.ci
def test_these_places_are_enough_for_every_test_of_methods(contributed: Path) -> None:
    files = [f"tests/recipes/test_{name}.py" for name in ("methods", "presets", "recipes", "method_pages", "matrix")]
    files += ["tests/project/test_docs.py", "tests/project/test_docs_site.py"]
    selection = "charbonnier or every_method_has_a_row or explained or preset_is_as_long or measured or index or menu"
    report = run(
        contributed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", selection, "-m", "not slow", "-rN", *files
    )
    assert int(report.split(" passed")[0].split()[-1]) >= 20, report


@pytest.mark.ci
def test_everything_else_is_made_from_them(contributed: Path) -> None:
    """The list, the schema for editors, and of the site the keys of recipes, the picture of methods and the menu."""
    program = """
from pathlib import PurePosixPath
from recipes.catalogue import METHODS
from recipes.config.listing import list_recipes
from recipes.config.schema import preset_schema
from scripts.docs_site import ROOT, menu, with_all_methods
from scripts.rendered import PARTS
print("charbonnier" in [row.name for row in list_recipes().recipes])
print(list(preset_schema(METHODS)["definitions"]["options-charbonnier"]["properties"]) == ["eps"])
for part in ("keys of a recipe", "what methods ask"):
    print("charbonnier" in PARTS[part](PurePosixPath("docs")))
print({"Charbonnier": "methods/charbonnier.md"} in next(
    section["Methods"] for section in with_all_methods(menu((ROOT / "docs" / "README.md").read_text()))
    if "Methods" in section
))
"""
    assert run(contributed, "-c", program).split() == ["True"] * 5
