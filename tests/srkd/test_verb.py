"""SIGTERM and Ctrl-C end a verb, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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
    except (SystemExit, KeyboardInterrupt) as error:  # as native code does with the exception of a callback
        print('converted', flush=True)
        raise RuntimeError(f'a callback failed: {error}')
"""
REPORTED = """
def body():
    try:
        print('busy', flush=True)
        time.sleep(60)
    except (SystemExit, KeyboardInterrupt):
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


@contextmanager
def busy_process(program: Path) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Run a program until it says that it is busy, and yield it with its output; kill it at the end."""
    process = subprocess.Popen(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "busy\n"
        yield process, process.stdout
    finally:
        process.kill()


@pytest.mark.ci
@pytest.mark.parametrize(
    ("body", "last"),
    [(PYTHON, "cleaned"), (CALLBACK, "converted"), (REPORTED, "reported"), (FINALIZER, "continued"), (NATIVE, "busy")],
    ids=["Python", "a callback", "a reported error", "a finalizer", "native code"],
)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it(body: str, last: str, number: signal.Signals, code: int, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(
        "import signal, time, torch\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a program in the background ignores it
        "from compressor.base import interrupts\n"
        "from srkd.terminal.console import Console\n"
        "from srkd.cli.verb import run_or_exit\n"
        "interrupts.GRACE_SECONDS[signal.SIGTERM] = 1.0\n"
        f"{body}\n"
        "try:\n"
        "    run_or_exit(Console(), body)\n"
        "except KeyboardInterrupt:\n"
        "    raise SystemExit(130)\n"
    )
    with busy_process(tmp_path / "endless.py") as (process, output):
        began = time.monotonic()
        process.send_signal(number)
        rest = output.read().split()
        assert process.wait(30) == code and time.monotonic() - began < 20
    assert (rest or ["busy"])[-1] == last and "ignored" not in rest


@pytest.mark.ci
@pytest.mark.parametrize("handled_by", ["nobody", "Python"])
def test_a_second_ctrl_c_ends_training_whose_step_does_not_return(handled_by: str, tmp_path: Path) -> None:
    """The first one is a request to save; it is answered at once, and waits for the step. It comes while native code
    runs, or just before.
    """
    wait = "    while not request.received:\n        time.sleep(0.01)\n" if handled_by == "Python" else ""
    (tmp_path / "training.py").write_text(
        "import signal, time, torch\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from compressor.base.interrupts import StopRequest, catch_signals\n"
        "from srkd.terminal.console import Console\n"
        "from srkd.cli.verb import run_or_exit\n"
        "request = StopRequest(acknowledge=lambda: print('saving', flush=True))\n"
        f"{NATIVE.replace('    endless(1)', wait + '    endless(1)')}\n"
        "def train():\n"
        "    with catch_signals(request):\n"
        "        body()\n"
        "run_or_exit(Console(), train)\n"
    )
    with busy_process(tmp_path / "training.py") as (process, output):
        process.send_signal(signal.SIGINT)
        assert output.readline() == "saving\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
