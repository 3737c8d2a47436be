"""SIGTERM and Ctrl-C end a verb, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.commands import ROOT

ENDLESS = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores it
from srkd.terminal.console import Console
from srkd.cli.verb import run_or_exit

def body():
    try:
        print('busy', flush=True)
        time.sleep(60)
    finally:
        print('cleaned', flush=True)

try:
    run_or_exit(Console(), body)
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.mark.ci
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_through_its_finally_blocks(number: signal.Signals, code: int) -> None:
    environment, pipe = {**os.environ, "PYTHONPATH": str(ROOT)}, subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", ENDLESS], env=environment, stdout=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "busy\n"
        began = time.monotonic()
        process.send_signal(number)
        assert process.communicate()[0].split() == ["cleaned"]
        assert process.returncode == code and time.monotonic() - began < 20
