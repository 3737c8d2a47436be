"""docs/reference.md is the output of scripts/write_reference.py, and has every option and public function."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import click
import pytest

import srkd
from srkd.cli import VERBS, cli
from tests.support.commands import ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "scripts" / "write_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_page_is_what_the_script_writes(script: ModuleType) -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.write(), "run: python scripts/write_reference.py"


def test_the_page_has_every_option_and_every_function(script: ModuleType) -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None and f"### srkd {verb}\n" in page
        for action in command.commands.values() if isinstance(command, click.Group) else [command]:
            for parameter in action.params:
                assert all(option in page for option in parameter.opts if option.startswith("-"))
    values = {name: getattr(srkd, name) for name in srkd.__all__}
    functions = {name for name, value in values.items() if callable(value) and not isinstance(value, type)}
    assert functions == {*script.PYTHON_ONLY, *(verb for verb in VERBS if verb in srkd.__all__)}
