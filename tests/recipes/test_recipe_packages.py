"""Recipes of other packages: listed, used, and harmless when they are broken; and the command that shows them."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from compressor.base.errors import SrkdError, UsageError
from recipes import catalogue
from recipes.catalogue import BUILTIN, METHODS, RECIPES, Contribution, MethodEntry
from recipes.config.reading import load_preset
from recipes.config.schema import COMMENT, preset_schema
from srkd.cli.main import run
from tests.support.commands import ROOT, python

EXAMPLE = Path(__file__).resolve().parents[1] / "example_recipes"
PRESETS = ROOT / "recipes" / "presets"


def of(**methods: str) -> Contribution:
    return Contribution({name: MethodEntry(where, "nothing") for name, where in methods.items()})


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that installs packages by name, each with what its entry point leads to."""

    def install(**values: object) -> None:
        points = []
        for package, value in values.items():
            module = types.ModuleType(f"stranger_{package}")
            module.IT = value  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module.__name__, module)
            points.append(metadata.EntryPoint(package, f"{module.__name__}:IT", "srkd.recipes"))
        monkeypatch.setattr(metadata, "entry_points", lambda *, group: points if group == catalogue.GROUP else ())
        for table in (METHODS, RECIPES):
            monkeypatch.setattr(table, "_all", None)
            monkeypatch.setattr(table, "_notes", [])

    return install


def test_a_package_adds_names_says_whose_they_are_and_ours_stay_ours(packages):
    packages(lab=of(logits="nowhere:Logits", echo="nowhere:Echo"))
    assert METHODS.find("logits").where == BUILTIN["logits"].where
    assert catalogue.notes() == ("method logits of lab is refused: srkd has a method of that name",)
    assert METHODS.find("echo").package == "lab"
    with pytest.raises(SrkdError, match="nowhere:Echo of lab"):
        METHODS.find("echo").load()


@pytest.mark.parametrize("order", [("one", "two", "three"), ("three", "two", "one")])
def test_a_name_of_two_packages_means_neither_whatever_their_order(packages, order):
    packages(**{package: of(echo=f"{package}:Echo") for package in order})
    with pytest.raises(UsageError, match="echo is in one and three and two"):
        METHODS.find("echo")


@pytest.mark.parametrize(
    "value, message",
    [("no contribution", "is not a Contribution"), (Contribution(presets="json"), "has no folder presets/")],
)
def test_a_broken_package_is_a_note_and_reported_when_a_name_is_not_found(packages, value, message):
    packages(broken=value, lab=of(echo="nowhere:Echo"))
    (note,) = catalogue.notes()
    assert "broken" in note and message in note
    assert RECIPES.find("logits").package == "srkd" and METHODS.find("echo").package == "lab"
    with pytest.raises(UsageError, match=r"'mine'.*broken"):
        RECIPES.find("mine")


@pytest.mark.parametrize("name", ["Echo", "../x", ""])
def test_names_are_plain_words(packages, name):
    packages(lab=of(**{name: "a:B"}))
    assert "small letters" in catalogue.notes()[0]


@pytest.mark.parametrize("where, needs", [("nowhere", "nothing"), ("a:B", "everything")])
def test_an_entry_is_checked_where_it_is_made(where, needs):
    with pytest.raises(SrkdError):
        MethodEntry(where, needs)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example package with pip into a separate folder."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(EXAMPLE, folder / "source")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(folder / "site")]
    done = python("-m", "pip", "install", *options, source)
    assert done.code == 0, done.err
    return folder / "site"


@pytest.fixture
def beside(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the example package for this process."""
    monkeypatch.syspath_prepend(installed)
    for table in (METHODS, RECIPES):
        monkeypatch.setattr(table, "_all", None)


def ask(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    return (run([*map(str, arguments)]), *capfd.readouterr())


@pytest.mark.ci
@pytest.mark.usefixtures("beside")
def test_an_installed_package_is_listed_trained_and_checked(tmp_path, capfd):
    listed = ask(capfd, "recipes", "ls")[1]
    assert "charbonnier" in listed and "srkd-example-recipes" in listed
    assert ask(capfd, "recipes", "cp", "charbonnier", tmp_path / "mine.yaml")[0] == 0
    schema = (tmp_path / "mine.yaml").read_text().splitlines()[0].removeprefix(f"{COMMENT}file://")
    assert "method-charbonnier" in json.loads(Path(unquote(schema)).read_text())["definitions"]
    student, small = "edsr:width=4,depth=1,scale=2", ["schedule.batch=1", "schedule.lr_patch=8", "eps=0.5"]
    settings = (word for setting in small for word in ("--set", setting))
    words = ("--recipe", "charbonnier", "--student", student, "--steps", 3, "--out", tmp_path / "run")
    code, _, err = ask(capfd, "compress", *words, *settings)
    assert code == 0, err
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["preset"]["methods"] == [{"name": "charbonnier", "options": {"eps": 0.5}}]
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["raw/charbonnier"] >= 0.5  # ε is a lower bound of it, so the option reached the method.


@pytest.mark.ci
@pytest.mark.usefixtures("beside")
def test_its_mistakes_are_reported_like_srkds(tmp_path, capfd):
    file = tmp_path / "my.yaml"
    file.write_text("title: t\nsource: s\nmethods:\n  - name: charbonnier\n    options:\n      eps: 0\n      esp: 1\n")
    code, out, _ = ask(capfd, "recipes", "validate", file)
    assert code == 1 and out.splitlines() == [
        f"{file}:6: methods.0.options.eps=0: expected more than 0",
        f"{file}:7: methods.0.options.esp: unknown key, did you mean eps?",
    ]


def test_ls_imports_no_torch_and_lists_every_preset():
    program = (
        "import sys\nfrom srkd.cli.main import run\ncode = run(['recipes', 'ls'])\n"
        "print(code, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    *table, last = python("-c", program).out.strip().splitlines()
    assert last == "0 False False"
    rule = next(number for number, line in enumerate(table) if line.startswith("─"))
    rows = {line.split()[0]: line for line in table[rule + 1 :] if not line.startswith(" ")}
    assert {path.stem for path in PRESETS.glob("*.yaml")} == set(rows)
    assert "outputs" in rows["logits"] and "250,000" in rows["logits-paper"] and "no teacher" in rows["scratch"]


def test_ls_as_json(capfd):
    outcome = json.loads(ask(capfd, "recipes", "ls", "--json")[1])
    assert outcome["schema"] == "srkd.recipes/1" and outcome["machine"] and outcome["notes"] == []
    logits = next(recipe for recipe in outcome["recipes"] if recipe["name"] == "logits")
    assert (logits["needs"], logits["methods"], logits["steps"]) == ("outputs", ["logits"], 5_000)


def test_show_prints_the_file_and_the_schema(capfd):
    file = PRESETS / "logits.yaml"
    assert ask(capfd, "recipes", "show", "logits")[1] == file.read_text()
    assert json.loads(ask(capfd, "recipes", "show", "logits", "--json")[1])["text"] == file.read_text()
    assert json.loads(ask(capfd, "recipes", "show", "--schema")[1]) == preset_schema(BUILTIN)
    assert "json_schema" in json.loads(ask(capfd, "recipes", "show", "--schema", "--json")[1])


@pytest.mark.parametrize(
    "arguments, message", [(["logit"], "'logits'"), ([], "--schema"), (["logits", "--schema"], "or --schema")]
)
def test_show_says_what_is_wrong(arguments, message, capfd):
    code, out, err = ask(capfd, "recipes", "show", *arguments)
    assert code == 2 and out == "" and message in err and len(err.splitlines()) == 1


def test_cp_gives_a_file_that_works_and_never_writes_over_one(tmp_path, capfd):
    target = tmp_path / "my.yaml"
    assert ask(capfd, "recipes", "cp", "logits", target)[0] == 0
    assert load_preset(str(target)) == load_preset("logits")
    first, *rest = target.read_text().splitlines()
    assert rest == (PRESETS / "logits.yaml").read_text().splitlines()
    schema = Path(unquote(urlsplit(first.removeprefix(COMMENT)).path))
    assert first.startswith(f"{COMMENT}file:///") and json.loads(schema.read_text()) == preset_schema(BUILTIN)
    target.write_text("mine")
    code, _, err = ask(capfd, "recipes", "cp", "scratch", target)
    assert code == 1 and "left as it is" in err and target.read_text() == "mine"
    assert ask(capfd, "recipes", "cp", "scratch", tmp_path)[0] == 0 and (tmp_path / "scratch.yaml").is_file()
    code, _, err = ask(capfd, "recipes", "cp", "scratch", tmp_path / "word")
    assert code == 2 and ".yaml" in err and not (tmp_path / "word").exists()


def test_a_copy_is_made_though_the_schema_cannot_be(tmp_path, capfd, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SRKD_CACHE", str(tmp_path / "file"))
    assert ask(capfd, "recipes", "cp", "logits", tmp_path / "my.yaml")[0] == 0
    first = (tmp_path / "my.yaml").read_text().splitlines()[0]
    assert first.startswith("# no schema for editors: ") and str(tmp_path / "file") in first
    assert load_preset(str(tmp_path / "my.yaml")) == load_preset("logits")


def test_validate_has_a_line_a_mistake_and_exit_1(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logits").mkdir()  # such as a run's folder
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    shutil.copy(PRESETS / "scratch.yaml", good)
    bad.write_text("title: t\nsource: s\nmethods:\n  - name: logits\nschedule:\n  batch: 0\n  rte: 1\n")
    code, out, _ = ask(capfd, "recipes", "validate", good, bad, "logits", "nosuch", tmp_path / "none.yaml")
    lines = out.splitlines()
    assert code == 1 and lines[0] == f"{good}: valid" and lines[3] == "logits: valid"
    assert lines[1:3] == [
        f"{bad}:6: schedule.batch=0: expected at least 1",
        f"{bad}:7: schedule.rte: unknown key, did you mean rate?",
    ]
    assert "nosuch" in lines[4] and "No such file" in lines[5] and len(lines) == 6
    assert ask(capfd, "recipes", "validate", good)[0] == 0
    code, out, _ = ask(capfd, "recipes", "validate", bad, "--json")
    (file,) = json.loads(out)["files"]
    assert code == 1 and file["valid"] is False and [problem["line"] for problem in file["problems"]] == [6, 7]
    assert file["problems"][0]["key"] == "schedule.batch" and file["problems"][0]["value"] == "0"
