"""The source of a class: its file, those of its base classes, and those that it imports from its own package."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from compressor.base.sources import class_sources
from tests.support.commands import python

FILES = {
    "__init__": "",
    "method": "from __future__ import annotations\nimport json\nimport torch\nfrom typing import TYPE_CHECKING\n"
    "from . import scale\nfrom .deep.base import Base\nif TYPE_CHECKING:\n    import sourced.typed\n"
    "class Method(Base, torch.nn.Module):\n    def go(self):\n        from sourced import lazy\n",
    "scale": "from sourced.deep import number\n",
    "lazy": "this is no Python",
    "typed": "",
    "unused": "",
    "deep/__init__": "",
    "deep/base": "class Base: pass\n",
    "deep/number": "import sourced.method\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        file = tmp_path / "sourced" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "sourced"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "sourced"


def test_imports_of_its_own_package_belong_to_it(package: Path) -> None:
    sources = class_sources(import_module("sourced.method").Method)
    expected = {"": "__init__", ".method": "method", ".scale": "scale", ".lazy": "lazy", ".deep": "deep/__init__"}
    expected |= {".deep.base": "deep/base", ".deep.number": "deep/number"}
    assert sources == {
        f"sourced{name}": hashlib.sha256((package / f"{file}.py").read_bytes()).hexdigest()
        for name, file in expected.items()
    }


def test_a_file_without_source_is_unknown(package: Path) -> None:
    module = import_module("sourced.deep.base")
    (package / "deep" / "base.py").unlink()
    assert class_sources(module.Base)["sourced.deep.base"] is None


PROGRAM = """
from compressor.base.sources import class_sources
class Own: {body}
print(class_sources(Own))
"""


@pytest.fixture
def printed(tmp_path: Path) -> Callable[[str], str]:
    """What a program prints about the source of its own class."""

    def run(program: str) -> str:
        (tmp_path / "program.py").write_text(program)
        outcome = python(str(tmp_path / "program.py"))
        assert outcome.code == 0, outcome.err
        return outcome.out

    return run


def test_a_class_of_the_started_program_is_known_by_its_own_text(printed: Callable[[str], str]) -> None:
    first, same, other = (
        printed(PROGRAM.format(body=body) + after)
        for body, after in (("x = 1", ""), ("x = 1", "# more"), ("x = 2", ""))
    )
    assert first == same != other and "__main__.Own" in first
    assert "None" in python("-c", PROGRAM.format(body="x = 1")).out
