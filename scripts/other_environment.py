"""Run the tests in another environment than .venv: `make test-lowest`, `make test-python VERSION=3.13`.

--lowest: every dependency at the lowest version that pyproject.toml allows; torch stays as constraints.txt has it,
because package indexes keep few CPU builds. --python: another Python with the versions of constraints.txt; where the
index has no CPU build of torch for it, pip takes the build for CUDA, which is gigabytes and runs on a CPU as well. Each
environment stays in build/ for the next call.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = (
    "tests/base",
    "tests/images",
    "tests/models",
    "tests/recipes",
    "tests/export/test_export_onnx.py",
    "tests/export/test_headroom.py",
    "tests/runtimes/test_onnx_runtime.py",
    "tests/srkd",
)
"""Default tests: those of the dependencies; other tests do not depend on these."""
TOOLS = ("hatchling", "hypothesis", "pytest", "pytest-timeout", "pytest-xdist")
MARKS = "not slow and not matrix and not ci and not extras and not browser"
TORCH = "torch"


@dataclass(frozen=True)
class Environment:
    """An environment: its folder in build/, its interpreter, and the requirements that pip installs."""

    name: str
    interpreter: str
    requirements: tuple[str, ...]

    @property
    def python(self) -> Path:
        return ROOT / "build" / self.name / "bin" / "python"


def lowest(pyproject: str) -> dict[str, str]:
    """Return the lowest version of each core dependency."""
    block = re.search(r"^dependencies = \[\n(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)
    assert block is not None
    return dict(re.findall(r'"([\w-]+)>=([\w.]+)', block.group(1)))


def pins(pyproject: str, constraints: str) -> tuple[str, ...]:
    """Return the requirements: the lowest versions, and the torch of constraints.txt."""
    torch = re.search(r"^torch==\S+", constraints, re.MULTILINE)
    assert torch is not None
    return (torch.group(), *(f"{name}=={version}" for name, version in lowest(pyproject).items() if name != TORCH))


def with_lowest_versions() -> Environment:
    texts = ((ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt"))
    return Environment("lowest", sys.executable, pins(*texts))


def with_python(version: str) -> Environment:
    """Return the environment for a Python on this machine, such as 3.13; exit if it is missing."""
    names = lowest((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    constraints = ("-c", str(ROOT / "constraints.txt"))
    return Environment(f"python-{version}", interpreter(version), (*constraints, *names))


def interpreter(version: str) -> str:
    """Return a Python that reports this version: a pyenv shim may exist without an interpreter."""
    here = shutil.which(f"python{version}")
    for place in filter(None, (here, *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))):
        answer = subprocess.run([place, "--version"], capture_output=True, text=True, check=False)
        if answer.returncode == 0 and f" {version}." in answer.stdout:
            return place
    raise SystemExit(f"no Python {version} here: install it, or name one of those that are")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--lowest", action="store_true", help="dependencies at their lowest versions")
    which.add_argument("--python", metavar="VERSION", help="another Python of this machine, such as 3.13")
    parser.add_argument("tests", nargs="*", default=TESTS, help="test files or folders; none: those of dependencies")
    options = parser.parse_args(arguments)
    environment = with_lowest_versions() if options.lowest else with_python(options.python)
    python = str(environment.python)
    if not environment.python.exists():
        subprocess.run([environment.interpreter, "-m", "venv", str(environment.python.parents[1])], check=True)
    for requirements in ((*environment.requirements, *TOOLS), ("--no-deps", "-e", ".")):
        if subprocess.run([python, "-m", "pip", "install", "-q", *requirements], cwd=ROOT, check=False).returncode:
            return 1
    subprocess.run([python, "-m", "pip", "list"], cwd=ROOT, check=True)
    command = [python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", MARKS, *options.tests]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
