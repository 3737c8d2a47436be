"""Every file is valid in the oldest Python that pyproject.toml allows, and compiles in other installed Pythons.

`make types-all` checks the use of the standard library, by the stubs of the oldest and the newest Python.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("compressor", "recipes", "export", "demo", "srkd", "benchmarks", "scripts", "tests")
FILES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "node_modules" not in path.parts]

COMPILE = """
import sys, warnings
warnings.simplefilter("error")
for line in sys.stdin:
    name = line.rstrip("\\n")
    with open(name, encoding="utf-8") as file:
        compile(file.read(), name, "exec", dont_inherit=True)
print("%d.%d" % sys.version_info[:2])
"""


def python_of(version: str) -> str:
    """Return a Python that reports this version: a pyenv shim may exist without an interpreter."""
    here = shutil.which(f"python{version}")
    for place in filter(None, (here, *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))):
        answer = subprocess.run([place, "--version"], capture_output=True, text=True, check=False)
        if answer.returncode == 0 and f" {version}." in answer.stdout:
            return place
    pytest.skip(f"no Python {version} here")


@pytest.mark.ci
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_every_file_compiles_without_a_warning(version: str) -> None:
    names = "".join(f"{path}\n" for path in FILES)
    words = [python_of(version), "-I", "-c", COMPILE]
    done = subprocess.run(words, input=names, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, version), done.stderr
