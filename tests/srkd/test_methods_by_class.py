"""Methods that no package provides, of a Python file and of a notebook, from the first step to `--resume`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import srkd
from compressor.base.errors import SrkdError, UsageError
from recipes.config.by_class import recipe_of
from recipes.config.reading import absolute_recipe, load_preset, recipe_label, recipe_text
from recipes.methods.logits import Logits
from srkd.cli.main import run as srkd_in_process
from tests.support.commands import srkd as in_shell
from tests.support.deaths import death_after
from tests.support.run_files import assert_read_as_written, read_json
from tests.support.small_runs import SET_SMALL, SMALL
from tests.support.torchrun import run_torchrun

MINE = """
from dataclasses import dataclass
from torch.nn import functional as F
from edge_tools import edges
from srkd import PlainMethod


@dataclass(frozen=True)
class SobelKD(PlainMethod):
    lam: float = 0.1

    @property
    def weights(self):
        return {"pixel": 1.0, "edges": self.lam}

    def terms(self, step):
        sr, target = step.student().sr, step.teacher().sr
        return {"pixel": F.l1_loss(sr, step.hr), "edges": F.l1_loss(edges(sr), edges(target))}


class NoMethod:
    pass
"""
TOOLS = "def edges(image):\n    return image.diff(dim=-1)\n"
NOTEBOOK = MINE.replace("from edge_tools import edges", "edges = lambda image: image.diff(dim=-1)")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a method, with a module beside it."""
    folder = tmp_path / "my (methods)"
    folder.mkdir()
    (folder / "mine.py").write_text(MINE)
    (folder / "edge_tools.py").write_text(TOOLS)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder / "mine.py"
    for name in ("edge_tools", "mine"):
        sys.modules.pop(name, None)


@pytest.fixture
def words(photos: Path, teacher: Path) -> dict[str, Any]:
    """The options of a run that saves its state after each of two steps."""
    settings = (*SMALL, "schedule.validate_every=1", "student.init=inherit")
    return {"teacher": teacher, "data": photos, "width": 0.5, "steps": 2, "threads": 1, "settings": settings}


@pytest.fixture
def in_notebook(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A function that runs a cell of a notebook and returns its class: `__main__` has no file."""
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)

    def run(text: str) -> Any:
        exec(compile(text, "<cell>", "exec"), vars(main))
        return vars(main)["SobelKD"]

    return run


def sobel_run(recipe: str, out: Path, words: dict[str, Any], **others: Any) -> Path:
    return srkd.compress(recipe=recipe, out=out, **{**words, **others}).run


def last_line(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert srkd_in_process(list(map(str, arguments))) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.ci
def test_a_class_of_a_file_is_a_recipe_with_its_options(mine: Path, words: dict[str, Any], tmp_path: Path) -> None:
    preset = load_preset(f"{mine}:SobelKD", ["SobelKD.lam=0.3"])
    (method,) = preset.build_methods()
    assert (method.name, method.weights) == ("SobelKD", {"pixel": 1.0, "edges": 0.3})
    assert preset.schedule == load_preset("logits").schedule
    by_set = sobel_run(f"{mine}:SobelKD", tmp_path / "set", {**words, "settings": (*words["settings"], "lam=0.3")})
    by_call = sobel_run(f"{mine}:SobelKD( lam = .3 )", tmp_path / "call", words)
    assert (by_set / "student.safetensors").read_bytes() == (by_call / "student.safetensors").read_bytes()
    facts = read_json(by_call)
    assert facts["recipe"] == "SobelKD" and facts["options"]["recipe"] == f"{mine}:SobelKD(lam=0.3)"
    assert facts["code"]["files"].keys() == {str(mine), str(mine.with_name("edge_tools.py"))}
    assert_read_as_written(by_call)


@pytest.mark.ci
def test_verbs_that_read_a_run_do_not_import_its_method(mine: Path, words: dict[str, Any], tmp_path: Path) -> None:
    run = sobel_run(f"{mine}:SobelKD", tmp_path / "run", words)
    mine.write_text("raise SystemExit('imported')")
    srkd.report(run, out=tmp_path / "page.html")
    srkd.compare(run)
    srkd.evaluate(run, data=words["data"])
    assert "mine.py" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("loss", "SobelKD: terms(step) returned tensor("),
        ("{}", "SobelKD: terms(step) returned no loss at all"),
        ("1.0", "returned 1.0, not means by name"),
        ("None", "returned None, not means"),
        ('{"pixel": 1.0}', "returned {'pixel': 1.0}, not means"),
        ('{"pixel": loss.expand(2)}', "returned {'pixel': tensor(["),
        ('{"pixel": loss.detach()}', "the term pixel has no gradient path to the student"),
        ("sys.exit(0)", "mine.py failed: SystemExit: 0, at"),
    ],
)
def test_what_is_no_loss_is_one_line_before_a_folder_is_begun(
    given: str, message: str, mine: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, _, _ = mine.read_text().partition('return {"pixel": F')
    mine.write_text(f"import sys\n{before}loss = F.l1_loss(sr, step.hr)\n        return {given}\n")
    out = tmp_path / "run"
    words = ("--recipe", f"{mine}:SobelKD", "--teacher", teacher, "--out", out, "-q", *SET_SMALL)
    assert message in last_line(capsys, "compress", *words) and not out.exists()


def test_a_mistake_is_one_line(mine: Path) -> None:
    text = mine.read_text()
    for name, changed in {
        "broken": "\n1 / 0\n",
        "logits": text.replace("lam: float = 0.1", 'lam: float = 0.1\n    name: str = "logits"'),
        "unweighted": text.replace("def weights", "def weight"),
        "plain": text.replace("@dataclass(frozen=True)", ""),
    }.items():
        mine.with_name(f"{name}.py").write_text(changed)
    for recipe, expected in (
        ("mine.py", r"name a method of this file.* SobelKD"),
        ("mine.py:SobelKd", "there is no SobelKd; did you mean 'SobelKD'"),
        ("mine.py:NoMethod", "NoMethod is no PlainMethod with terms"),
        ("mine.py:SobelKD(lam=lots)", "is written as"),
        ("mine.py:SobelKD(lam='lots')", "lam='lots': expected a number"),
        ("mine.py:SobelKD(lan=1)", "lan: unknown key, did you mean lam"),
        ("none.py:SobelKD", r"none\.py is no file"),
        ("broken.py:SobelKD", r"broken\.py cannot be imported \(ZeroDivisionError: .*broken\.py:2\)"),
        ("logits.py:SobelKD", "is called 'logits': a method of srkd or of a package has this name"),
        ("unweighted.py:SobelKD", "has no `weights`"),
        ("plain.py:SobelKD", "is not a dataclass"),
    ):
        with pytest.raises(SrkdError, match=expected) as error:
            load_preset(absolute_recipe(str(mine.with_name(recipe))))
        assert "\n" not in str(error.value)


def test_an_error_in_training_names_the_file_and_the_line(
    mine: Path, words: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine.write_text(mine.read_text().replace("        sr, target", "        1 / 0\n        sr, target"))
    assert srkd_in_process(["compress", "--recipe", f"{mine}:SobelKD", "--out", str(tmp_path / "run")]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{mine} failed: ZeroDivisionError" in line and f"at {mine}:17;" in line


def test_a_feature_method_is_asked_for_its_kind(
    mine: Path, words: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = 'step.student(taps=("body_end",)).features["body_end"]'
    target = 'step.teacher(taps=("body_end",)).features["body_end"].mean()'
    text = mine.read_text().replace("edges(sr), edges(target)", f"{features}.mean(), {target}")
    mine.write_text(text)
    with pytest.raises(SrkdError, match=r'SobelKD compares features and declares no kind.* add kind = "feature"'):
        sobel_run(f"{mine}:SobelKD", tmp_path / "run", words)
    mine.write_text(text.replace("    lam: float = 0.1\n", '    lam: float = 0.1\n    kind: str = "feature"\n'))
    assert sobel_run(f"{mine}:SobelKD", tmp_path / "again", words).is_dir()


def test_a_feature_method_without_the_name_of_its_term_trains(
    mine: Path, words: dict[str, Any], tmp_path: Path
) -> None:
    base = "from recipes.terms.features import FeatureMethod\nfrom srkd"
    text = mine.read_text().replace("from srkd", base).replace("SobelKD(PlainMethod)", "SobelKD(FeatureMethod)")
    mine.write_text(text.replace("lam: float = 0.1", 'lam: float = 0.1\n    name: str = "sobel"'))
    lines: list[str] = []
    assert sobel_run(f"{mine}:SobelKD", tmp_path / "run", words, announce=lines.append).is_dir()
    assert any("sobel: features of " in line for line in lines)


def test_a_recipe_file_may_name_a_class_beside_it(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = mine.with_name("both.yaml")
    file.write_text(
        "title: Both\nsource: a test\nblend: 0.5\nmethods:\n  - name: csd-lite\n    options: {phi: teacher}\n"
        "  - name: ./mine.py:SobelKD\n    options: {lam: 0.2}\n"
    )
    preset = load_preset(str(file), ["SobelKD.lam=0.4"])
    assert preset.methods[1].name == f"{mine}:SobelKD" and preset.methods[1].options == {"lam": 0.4}
    assert srkd_in_process(["recipes", "validate", str(file)]) == 0
    copied = mine.with_name("copied.yaml")
    assert srkd_in_process(["recipes", "cp", f"{mine}:SobelKD(lam=0.2)", str(copied)]) == 0
    assert load_preset(str(copied)).methods[0].options == {"lam": 0.2}
    capsys.readouterr()
    assert srkd_in_process(["recipes", "show", f"{mine}:SobelKD"]) == 0
    assert capsys.readouterr().out.strip() == recipe_text(f"{mine}:SobelKD").strip()


def test_a_class_of_a_file_that_is_written_as_in_python(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine.parent)
    with pytest.raises(UsageError, match=r"write \./mine\.py:SobelKD"):
        load_preset("mine:SobelKD")


@pytest.mark.ci
def test_a_changed_module_beside_it_is_refused_before_it_runs(
    mine: Path, words: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with death_after(1):
        sobel_run(f"{mine}:SobelKD", tmp_path / "run", words)
    file = mine.with_name("edge_tools.py")
    text = file.read_text()
    file.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'it-ran')!r}).touch()\n{text}")
    sys.modules.pop("edge_tools", None)
    line = last_line(capsys, "compress", "--resume", tmp_path / "run")
    assert file.name in line and "--accept-changed-code" in line
    assert not (tmp_path / "it-ran").exists()
    assert srkd_in_process(["compress", "--resume", str(tmp_path / "run"), "--accept-changed-code"]) == 0
    assert (tmp_path / "it-ran").exists()
    (entry,) = read_json(tmp_path / "run")["code"]["continued"]
    assert entry["step"] == 1 and file.name in entry["changes"][0]["what"]


# In a notebook.


@pytest.mark.ci
def test_a_method_of_a_notebook_trains_and_goes_on_there(
    in_notebook: Callable[[str], Any], words: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cls = in_notebook(NOTEBOOK)
    whole = srkd.compress(recipe=cls(lam=0.3), out=tmp_path / "whole", **words).run
    with death_after(1):
        srkd.compress(recipe=cls(lam=0.3), out=tmp_path / "run", **words)
    assert read_json(tmp_path / "run")["options"]["recipe"] == "__main__:SobelKD(lam=0.3)"
    with pytest.raises(SrkdError, match=r"its recipe is __main__:SobelKD\(lam=0\.3\), not __main__:SobelKD"):
        srkd.resume(tmp_path / "run", recipe=cls)
    run = srkd.resume(tmp_path / "run", recipe=in_notebook(NOTEBOOK)(lam=0.3)).run
    assert (run / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()


@pytest.mark.ci
def test_the_shell_says_where_such_a_run_goes_on(
    in_notebook: Callable[[str], Any], words: dict[str, Any], tmp_path: Path
) -> None:
    with death_after(1):
        srkd.compress(recipe=in_notebook(NOTEBOOK)(lam=0.3), out=tmp_path / "run", **words)
    outcome = in_shell("compress", "--resume", tmp_path / "run")
    assert outcome.code == 2 and "srkd.resume(RUN, recipe=SobelKD(lam=0.3))" in outcome.err.splitlines()[-1]


@pytest.mark.ci
def test_seeds_and_baselines_train_with_a_method_of_a_notebook(
    in_notebook: Callable[[str], Any], words: dict[str, Any], tmp_path: Path
) -> None:
    plan = srkd.compress(recipe=in_notebook(NOTEBOOK), out=tmp_path / "plan", seeds=2, baselines=("scratch",), **words)
    assert plan.trials is not None and len(plan.trials.runs) == 4
    with pytest.raises(UsageError, match="other processes cannot import SobelKD"):
        srkd.compress(recipe=in_notebook(NOTEBOOK), out=tmp_path / "jobs", seeds=2, jobs=2, **words)


def test_an_instance_of_a_class_of_a_file_is_that_of_the_file(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(mine.parent)
    cls = import_module("mine").SobelKD
    assert recipe_of(cls) == f"{mine}:SobelKD" and recipe_of(cls(lam=0.3)) == f"{mine}:SobelKD(lam=0.3)"
    assert load_preset(recipe_of(cls)).title == "SobelKD of mine.py" and recipe_of(cls) == f"{mine}:SobelKD"
    assert recipe_label(recipe_of(cls(lam=0.3))) == "SobelKD"


def test_what_a_file_cannot_hold_is_refused(in_notebook: Callable[[str], Any]) -> None:
    cls = in_notebook(NOTEBOOK.replace("lam: float", 'name: str = "edges"\n    lam: float'))
    with pytest.raises(UsageError, match="an option is a number"):
        recipe_of(cls(lam=object()))
    with pytest.raises(UsageError, match="a fact about the method"):
        recipe_of(cls(name="other"))
    with pytest.raises(UsageError, match="recipe='logits'"):
        recipe_of(Logits())
    with pytest.raises(UsageError, match="no method"):
        srkd.compress(recipe=json, out="nowhere")  # type: ignore[arg-type]


@pytest.mark.ci
def test_two_processes_train_with_a_class_of_a_file(mine: Path, words: dict[str, Any], tmp_path: Path) -> None:
    options = ["--teacher", words["teacher"], "--data", words["data"], "--width", "0.5", "--steps", "2"]
    settings = [word for setting in words["settings"] for word in ("--set", setting)]
    command = ["-m", "srkd", "compress", "--recipe", f"{mine}:SobelKD(lam=0.3)", *options, *settings]
    run_torchrun(*map(str, command), "--out", str(tmp_path / "two"))
    assert str(mine) in read_json(tmp_path / "two")["code"]["files"]
