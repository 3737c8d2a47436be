"""SIGTERM ends a verb, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.commands import ROOT

PYTHON = """
def body():
    try:
        print('busy', flush=True)
        time.sleep(60)
    finally:
        print('cleaned', flush=True)
"""
CALLBACK = """
def body():
    try:
        print('busy', flush=True)
        time.sleep(60)
    except SystemExit as error:  # as native code does with the exception of a callback
        print('converted', flush=True)
        raise RuntimeError(f'a callback failed: {error}')
"""
REPORTED = """
def body():
    try:
        print('busy', flush=True)
        time.sleep(60)
    except SystemExit:
        print('reported', flush=True)
    raise SystemExit(1)
"""
FINALIZER = """
class Resource:
    def __del__(self):  # Python ignores the exception that ends it
        print('busy', flush=True)
        time.sleep(60)

def body():
    resource = Resource()
    del resource
    print('continued', flush=True)
"""
NATIVE = """
@torch.jit.script
def endless(x):
    # type: (int) -> int
    while x >= 0:
        x = (x + 1) % 7
    return x

def body():
    print('busy', flush=True)
    endless(1)
"""


@pytest.mark.ci
@pytest.mark.parametrize(
    ("body", "last"),
    [(PYTHON, "cleaned"), (CALLBACK, "converted"), (REPORTED, "reported"), (FINALIZER, "continued"), (NATIVE, "busy")],
    ids=["Python", "a callback", "a reported error", "a finalizer", "native code"],
)
def test_sigterm_ends_it(body: str, last: str, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(
        "import time, torch\n"
        "from compressor.base import interrupts\n"
        "from srkd.terminal.console import Console\n"
        "from srkd.cli.verb import run_or_exit\n"
        "interrupts.GRACE_SECONDS = 1.0\n"
        f"{body}\n"
        "run_or_exit(Console(), body)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "endless.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "busy\n"
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read().split()
        assert process.wait(30) == 143 and time.monotonic() - began < 20
    finally:
        process.kill()
    assert (rest or ["busy"])[-1] == last
