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

BODY = """
def body():
    try:
        print('busy', flush=True)
        time.sleep(60)
    finally:
        print('cleaned', flush=True)
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
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_through_its_finally_blocks(number: signal.Signals, code: int, tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a program in the background ignores it
        "from srkd.terminal.console import Console\n"
        "from srkd.cli.verb import run_or_exit\n"
        f"{BODY}\n"
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
    assert rest == ["cleaned"]
