"""Run the tests with every dependency at the lowest version that pyproject.toml allows: `make test-lowest`.

torch stays as constraints.txt has it, because package indexes keep few CPU builds. The environment is build/lowest.
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "build" / "lowest"
TESTS = (
    "tests/base",
    "tests/images",
    "tests/models",
    "tests/recipes",
    "tests/export/test_export_onnx.py",
    "tests/srkd",
)
"""What touches the dependencies; the rest is the same code."""
TORCH = "torch"


def lowest(pyproject: str) -> dict[str, str]:
    """Return the lowest version of each core dependency."""
    block = re.search(r"^dependencies = \[\n(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)
    assert block is not None
    return dict(re.findall(r'"([\w-]+)>=([\w.]+)', block.group(1)))


def pins(pyproject: str, constraints: str) -> list[str]:
    """Return requirements: the lowest versions, and the torch of constraints.txt."""
    torch = re.search(r"^torch==\S+", constraints, re.MULTILINE)
    assert torch is not None
    return [torch.group()] + [f"{name}=={version}" for name, version in lowest(pyproject).items() if name != TORCH]


def main(tests: list[str]) -> int:
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    requirements = pins(*((ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "constraints.txt")))
    tools = ["hypothesis", "pytest", "pytest-xdist"]
    install = [str(python), "-m", "pip", "install", "-q", *requirements, *tools]
    if subprocess.run(install, cwd=ROOT, check=False).returncode:
        return 1
    print(", ".join(requirements), flush=True)
    marks = "not slow and not matrix and not extras and not browser"
    command = [str(python), "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", marks, *(tests or TESTS)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
