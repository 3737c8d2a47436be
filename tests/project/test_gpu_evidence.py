"""The evidence of a GPU: each part runs once, failed parts run again, and impossible parts are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import parts as parts_module
from benchmarks.gpu_evidence import main, parts
from benchmarks.parts import Part
from tests.support.commands import ROOT


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of parts that were run; `tests` fails the first time."""
    names: list[str] = []

    def ask(part: Part, environment: object) -> dict[str, Any]:
        names.append(part.name)
        failed = part.name == "tests" and names.count("tests") == 1
        return {"part": part.name, "exit_code": int(failed), "seconds": 1.0}

    monkeypatch.setattr(parts_module, "ask", ask)
    return names


def test_an_interrupted_command_goes_on_and_a_failed_part_is_asked_again(
    questions: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--device", "cpu", "--out", str(tmp_path), "--only"]
    assert main([*words, "environment"]) == 0
    assert main([*words, "environment,tests,training-dukd"]) == 1
    assert "not answered: tests" in capsys.readouterr().out
    assert main([*words, "environment,tests,training-dukd"]) == 0
    assert questions == ["environment", "tests", "training-dukd", "tests"]
    assert json.loads((tmp_path / "tests.json").read_text())["exit_code"] == 0


def test_what_is_missing_is_named_and_not_asked(
    questions: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--device", "cpu", "--out", str(tmp_path), "--only", "methods"]) == 0
    assert "methods: left out, it needs --data" in capsys.readouterr().out
    assert questions == []


def test_an_unknown_part_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--only", "everything"])


def test_the_small_form_asks_the_same_questions(tmp_path: Path) -> None:
    full, tiny = (parts("cuda", tiny=small, data=tmp_path, train=None, runs=tmp_path) for small in (False, True))
    assert [(part.name, part.question) for part in full] == [(part.name, part.question) for part in tiny]
    assert 35 < sum(part.minutes for part in full) <= 40


@pytest.mark.ci
@pytest.mark.parametrize("part", [part.name for part in parts("cpu", tiny=True, data=ROOT, train=None, runs=ROOT)])
def test_every_command_works_in_the_small_form(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They must work when somebody has a GPU."""
    done = main(["--tiny", "--device", "cpu", "--out", str(tmp_path), "--only", part])
    assert done == 0, capsys.readouterr().out
