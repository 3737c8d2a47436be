"""`run_in_child` in a fork with the same restrictions, which saves the seconds of a new interpreter and its imports.

`run_in_fork` forks this process, which must have no threads. `WarmProcess` is another process, which has imported all
libraries that open untrusted files, and forks for each job: `python -m tests.support.forks`.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NoReturn

from compressor.base.child import ROOT, ChildFailed
from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError
from compressor.base.isolation import MB, ResourceLimits, restrict_process

LIBRARIES = ("onnxruntime", "torch.export", "compressor.teachers.programs", "compressor.runtimes.onnx_runtime")


def run_in_fork(
    function: str,
    job: Mapping[str, object],
    *,
    what: str,
    limits: ResourceLimits,
    environment: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
) -> Any:
    """Do as `run_in_child` with `limits`."""
    with tempfile.TemporaryDirectory(prefix="srkd-") as folder:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work(writer, function, job, limits, {**(environment or {}), "TMPDIR": folder})
        os.close(writer)
        event: dict[str, Any] = {}
        with os.fdopen(reader, "rb") as events:
            while line := events.readline(limits.output_mb * MB):
                event = json.loads(line) if line.endswith(b"\n") else {}
                if "progress" in event:
                    progress(*event["progress"])
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if "result" in event:
        return event["result"]
    if "error" in event:
        raise SrkdError(event["error"])
    if code == -signal.SIGALRM:
        raise ChildFailed(what, f"it took over {limits.seconds:g} s")
    raise ChildFailed(what, f"its process ended with exit code {code}: {event.get('raised')}", crashed=code < 0)


def _work(
    writer: int, function: str, job: Mapping[str, object], limits: ResourceLimits, environment: Mapping[str, str]
) -> NoReturn:
    """Run the function in the fork, and end the fork."""
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limits.seconds)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.environ.update(environment)
        tempfile.tempdir = None

        def write(event: object) -> None:
            os.write(writer, json.dumps(event).encode() + b"\n")

        module, _, name = function.partition(":")
        run = getattr(importlib.import_module(module), name)
        restrict_process(limits, [os.devnull, environment["TMPDIR"]])
        try:
            write({"result": run(lambda *event: write({"progress": event}), **job)})
        except SrkdError as error:
            write({"error": str(error)})
        except Exception as error:
            write({"raised": f"{type(error).__name__}: {error}"})
        code = 0
    finally:
        os._exit(code)


class WarmProcess:
    """A process that forks for each job; it is started by the first one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(
        self,
        function: str,
        job: Mapping[str, object],
        *,
        what: str,
        limits: ResourceLimits,
        environment: Mapping[str, str] | None = None,
        progress: Progress = no_progress,
    ) -> Any:
        """Do as `run_in_child` with `limits`."""
        if self._process is None:
            command = [sys.executable, "-W", "ignore", "-m", __name__]
            path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
            environment_here = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment_here, cwd=ROOT
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        values = {"function": function, "job": job, "what": what, "environment": dict(environment or {})}
        self._process.stdin.write(json.dumps({**values, "limits": asdict(limits)}) + "\n")
        self._process.stdin.flush()
        event: dict[str, Any] = {"progress": None}
        try:
            for line in self._process.stdout:
                event = json.loads(line)
                if "progress" not in event:
                    break
                progress(*event["progress"])
        finally:
            if "progress" in event:  # interrupted, so the next job must not read this one's answer
                self.close()
        if "result" in event:
            return event["result"]
        if "error" in event:
            raise SrkdError(event["error"])
        assert "reason" in event, "the warm process is dead"
        raise ChildFailed(what, event["reason"], crashed=event["crashed"])

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def main() -> None:
    """Import the libraries, then run the job of each line of stdin."""
    for name in LIBRARIES:
        importlib.import_module(name)

    def write(event: object) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    for line in sys.stdin:
        values = json.loads(line)
        values["limits"] = ResourceLimits(**values["limits"])
        try:
            write({"result": run_in_fork(**values, progress=lambda *event: write({"progress": event}))})
        except ChildFailed as error:
            write({"reason": error.reason, "crashed": error.crashed})
        except SrkdError as error:
            write({"error": str(error)})


if __name__ == "__main__":
    main()
