"""scripts/environment.sh, the script behind `make`: which environment it uses, and that `where` changes nothing."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def where(**environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    command = ["sh", str(ROOT / "scripts" / "environment.sh"), "where"]
    return subprocess.run(command, env=variables | environment, capture_output=True, text=True, check=False)


def fake_environment(folder: Path, *, torch: bool) -> Path:
    """Create an environment whose fake Python reports that torch is installed, or not."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nexit {0 if torch else 1}\n")
    python.chmod(0o755)
    return folder


@pytest.mark.parametrize(("variable", "torch"), [("VIRTUAL_ENV", True), ("CONDA_PREFIX", False)])
def test_an_active_environment_is_used_if_it_has_torch(tmp_path: Path, variable: str, torch: bool) -> None:
    """Without one, or with one that was deleted, it is that of the clone."""
    own, active = str(ROOT / ".venv"), fake_environment(tmp_path / "active", torch=torch)
    assert where(**{variable: str(active)}).stdout.strip() == (str(active) if torch else own)
    assert where().stdout.strip() == where(**{variable: str(tmp_path / "gone")}).stdout.strip() == own


def test_an_older_python_is_refused_in_one_line(tmp_path: Path) -> None:
    python = tmp_path / "python3.9"
    python.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.1\nexit 1\n')
    python.chmod(0o755)
    variables = {"PATH": os.environ["PATH"], "PYTHON": str(python)}
    script = str(ROOT / "scripts" / "environment.sh")
    done = subprocess.run(["sh", script], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == (
        "environment: srkd needs Python 3.10 or newer and this is Python 3.9.1: "
        "choose another one, as in `make PYTHON=python3.12 test`\n"
    )


@pytest.mark.parametrize("uv_works", [True, False])
def test_packages_are_installed_by_uv_and_by_pip_where_uv_fails(tmp_path: Path, uv_works: bool) -> None:
    log = tmp_path / "log"
    for name, exit_code in (("uv", int(not uv_works)), ("python", 0)):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} $* in $UV_FIND_LINKS" >>"{log}"\nexit {exit_code}\n')
        program.chmod(0o755)
    script, python = str(ROOT / "scripts" / "install.sh"), str(tmp_path / "python")
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PIP_FIND_LINKS": "/wheels"}
    subprocess.run(["sh", script, python, "--no-deps", "click"], env=variables, check=True)
    by_uv, *by_pip = log.read_text().splitlines()
    assert by_uv == f"uv pip install -qq --python {python} --no-deps click in /wheels"
    assert [line.split(" -q ")[0] for line in by_pip] == ([] if uv_works else ["python -m pip install"])


def test_the_lowest_versions_are_those_of_the_core_dependencies() -> None:
    done = subprocess.run(["make", "-n", "test-lowest"], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if "torch==" in line)
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[\n(.*?)^\]", settings, re.MULTILINE | re.DOTALL)
    lowest = re.findall(r'"([\w-]+)>=([\w.]+)', block[1])
    assert len(lowest) > 10
    for name, version in lowest:
        assert name == "torch" or f" {name}=={version} " in line
    (torch,) = re.findall(r"^torch==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert line.count("torch==") == 1 and f" {torch} " in line
