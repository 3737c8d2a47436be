"""The extras of pyproject.toml can all be installed together, at the versions of constraints.txt."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.commands import ROOT

pytestmark = pytest.mark.extras


@pytest.mark.parametrize("python", ["3.10", "3.14"])
def test_all_extras_resolve_together(python: str) -> None:
    """So every pair of them does, as `pip install 'srkd[ncnn,litert]' -c constraints.txt`."""
    uv = pytest.importorskip("uv").find_uv_bin()
    command = [uv, "pip", "compile", "--quiet", "--all-extras", "--constraint", "constraints.txt"]
    done = subprocess.run(
        [*command, "--python-version", python, "pyproject.toml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0 and "No solution found" not in done.stderr:
        pytest.skip(f"uv cannot ask the package index: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    assert {"pnnx", "litert-torch", "coremltools"} <= {line.split("==")[0] for line in done.stdout.splitlines()}
