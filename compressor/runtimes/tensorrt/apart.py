"""Native code that may take its process down, in a process of its own: a crash there is one line here.

Building and the first deserialization of an engine go this way. The other process gets a job as JSON and writes events,
one a line: {"progress": [title, done, total]}, then {"done": {...}} or {"error": "..."}.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError

ROOT = Path(__file__).resolve().parents[3]


def run_apart(task: str, job: Mapping[str, object], doing: str, progress: Progress = no_progress) -> dict[str, Any]:
    """The result of one of the tasks in `child.py`; `doing` says in errors what was tried."""
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, a module of ours, a task of the table
            [sys.executable, "-m", "compressor.runtimes.tensorrt.child", task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=_environment(),
            text=True,
        )
        try:
            outcome = _follow(process, job, progress)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if "done" in outcome:
            return dict(outcome["done"])
        if "error" in outcome:
            raise SrkdError(str(outcome["error"]))
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip().splitlines()
    last = f": {said[-1][:200]}" if said else ""
    raise SrkdError(f"{doing}: {_ended(code)}{last}")


def _follow(process: subprocess.Popen[str], job: Mapping[str, object], progress: Progress) -> dict[str, Any]:
    """Feed the job, pass progress on, and give the last event."""
    feed, events = process.stdin, process.stdout
    assert feed is not None and events is not None
    with suppress(BrokenPipeError), feed:  # it may be dead already; its exit code tells
        json.dump(job, feed)
    outcome: dict[str, Any] = {}
    with events:
        for line in events:
            try:
                event = json.loads(line)
            except ValueError:  # cut off by a crash
                continue
            if "progress" in event:
                progress(*event["progress"])
            else:
                outcome = event
    return outcome


def _ended(code: int) -> str:
    if code >= 0:
        return f"TensorRT's process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"TensorRT crashed ({name}); srkd itself is unharmed"


def _environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
