"""A function in a child process: for native code that may crash, hang or keep memory.

    run_in_child("export.to_ncnn:try_run", {"path": "student.param"}, what="ncnn")

The child reads the job as JSON from stdin and writes events to its stdout, one a line: {"progress": [title, done,
total]} while it works, then {"result": ...} or {"error": "one line"}. Whatever native code prints goes to stderr.

With `limits` the child is also shut in (`isolation.py`) before it imports the function: for files of strangers.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, TypeAlias

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError
from compressor.base.isolation import MB, Limits, end_with_parent, restrict_process

ROOT = Path(__file__).resolve().parents[2]

Job: TypeAlias = Callable[..., Any]
"""Called as function(progress, **job); what it returns must be JSON."""


class ChildFailed(SrkdError):
    """The child process ended without a result. `reason` says how, without what it was doing."""

    def __init__(self, what: str, reason: str, *, crashed: bool = False) -> None:
        super().__init__(f"{what}: {reason}")
        self.reason, self.crashed = reason, crashed


def run_in_child(
    function: str,
    job: Mapping[str, object],
    *,
    what: str,
    timeout_seconds: float | None = None,
    environment: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
    limits: Limits | None = None,
) -> Any:
    """Return the result of `function` ("module:name"), called with `job` in a child process.

    An SrkdError that the function raises is raised here. A crash, an exit or a timeout becomes `ChildFailed`, which
    begins with `what`.
    """
    # The packages of srkd can be imported from any folder.
    import_path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryDirectory(prefix="srkd-") as folder:
        restrictions, scratch = [], {}
        if limits is not None:
            timeout_seconds, scratch = limits.seconds, {"TMPDIR": folder}
            restrictions = [json.dumps({"limits": asdict(limits), "writable": [os.devnull, folder]})]
        process = subprocess.Popen(  # noqa: S603 - this interpreter and a function of srkd
            [sys.executable, "-m", __name__, function, *restrictions],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": import_path, **scratch, **(environment or {})},
            text=True,
        )
        timed_out = threading.Event()

        def end() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(timeout_seconds or 0, end)
        timer.daemon = True  # SIGTERM may come at any line: srkd must not wait for the end of the time then
        try:
            if timeout_seconds is not None:
                timer.start()
            event = _last_event(process, job, progress, None if limits is None else limits.output_mb * MB)
            code = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                process.kill()
                process.wait()
        if "result" in event:
            return event["result"]
        if "error" in event:
            raise SrkdError(str(event["error"]))
        if timed_out.is_set():
            raise ChildFailed(what, f"it took over {timeout_seconds:g} s")
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    raise ChildFailed(what, _describe_exit(code) + (f": {lines[-1][:300]}" if lines else ""), crashed=code < 0)


def _last_event(
    process: subprocess.Popen[str], job: Mapping[str, object], progress: Progress, most: int | None
) -> dict[str, Any]:
    """Send the job, report the progress, and return the last event; empty where the child died before one.

    A child that says more than `most` characters is not listened to any further.
    """
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError), process.stdin as stdin:  # the exit code of a child that is dead already says why
        json.dump(job, stdin)
    last: dict[str, Any] = {}
    with process.stdout as events:
        while line := events.readline(-1 if most is None else most + 1):
            if most is not None:
                most -= len(line)
                if most < 0:
                    process.kill()
                    return {"error": "its answer is too long"}
            with suppress(ValueError):  # a line that a crash cut short
                event = json.loads(line)
                if "progress" in event:
                    progress(*event["progress"])
                else:
                    last = event
    return last


def _describe_exit(code: int) -> str:
    """Return how a process ended, in words."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    with suppress(ValueError):
        return f"its process crashed ({signal.Signals(-code).name}); srkd itself is unharmed"
    return f"its process crashed (signal {-code}); srkd itself is unharmed"


def main() -> None:
    """Read the job, run the function and write the events: the child's part."""
    end_with_parent()
    # What native code prints must not get between the events.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module, _, name = sys.argv[1].partition(":")
    job = json.load(sys.stdin)
    for text in sys.argv[2:]:
        restrictions = json.loads(text)
        restrict_process(Limits(**restrictions["limits"]), restrictions["writable"])
    try:
        function: Job = getattr(importlib.import_module(module), name)
        result = function(lambda title, done, total: _write(events, {"progress": [title, done, total]}), **job)
        _write(events, {"result": result})
    except SrkdError as error:
        _write(events, {"error": str(error)})


def _write(events: IO[str], event: object) -> None:
    events.write(json.dumps(event) + "\n")
    events.flush()


if __name__ == "__main__":
    try:
        main()
    except BaseException:  # noqa: BLE001 - the parent reads the last line of it
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
    # Native libraries may crash while Python takes itself down, after all was well.
    sys.stderr.flush()
    os._exit(0)
