"""Children in forks with the same restrictions, which saves the seconds of a new interpreter and its imports.

`Fork` forks this process, which must have no threads. `WarmProcess` is another process, which has imported the
libraries of its jobs, and forks for each job with one result: `python -m tests.support.forks LIBRARY...`.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from typing import Any, NoReturn

from compressor.base.child import ROOT, ChildFailed, serve
from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError
from compressor.base.isolation import MB, ResourceLimits, restrict_process
from compressor.base.machine import native_silence

OF_UNTRUSTED_FILES = (
    "onnxruntime",
    "torch.export",
    "compressor.teachers.program_in_child",
    "compressor.runtimes.onnx_runtime",
)


class Fork:
    """A child that is a fork of this process, without its terminal."""

    def __init__(
        self,
        function: str,
        job: Mapping[str, object],
        *,
        what: str,
        limits: ResourceLimits | None,
        environment: Mapping[str, str] | None = None,
        progress: Progress = no_progress,
        files: Sequence[int] = (),
    ) -> None:
        self._what, self._limits, self._progress = what, limits, progress
        (asked, ask), (answered, answer) = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(ask)
            os.close(answered)
            _work(asked, answer, function, limits, environment or {})
        os.close(asked)
        os.close(answer)
        self._asking, self._answers = os.fdopen(ask, "w"), os.fdopen(answered, "rb")
        self._send(job)

    def call(self, name: str, *, timeout_seconds: float | None = None, **arguments: object) -> Any:
        self._send({"call": name, "arguments": arguments})
        return self.result(timeout_seconds)

    def result(self, timeout_seconds: float | None = None) -> Any:
        """Return the next result; the fork ends itself after the seconds of its limits, if they are finite."""
        event: dict[str, Any] = {}
        most = -1 if self._limits is None else self._limits.output_mb * MB
        while line := self._answers.readline(most):
            event = json.loads(line) if line.endswith(b"\n") else {}
            if "progress" not in event:
                break
            self._progress(*event["progress"])
        if "result" in event:
            return event["result"]
        if "error" in event:
            raise SrkdError(event["error"])
        code = self._end()
        if code == -signal.SIGALRM and self._limits is not None:
            raise ChildFailed(self._what, f"it took over {self._limits.seconds:g} s")
        raise ChildFailed(
            self._what, f"its process ended with exit code {code}: {event.get('raised')}", crashed=code < 0
        )

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._end()

    def _end(self) -> int:
        """Wait for the fork, and return its exit code; 0 if that has been done."""
        with suppress(BrokenPipeError):
            self._asking.close()
        self._answers.close()
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        except ChildProcessError:
            return 0

    def _send(self, message: object) -> None:
        with suppress(BrokenPipeError, ValueError):  # it has ended
            self._asking.write(json.dumps(message) + "\n")
            self._asking.flush()


def _work(
    asked: int, answer: int, function: str, limits: ResourceLimits | None, environment: Mapping[str, str]
) -> NoReturn:
    """Do what the parent asks for in the fork, and end it."""
    code = 1
    try:
        events = os.fdopen(answer, "w")
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if limits is not None and math.isfinite(limits.seconds):
            signal.setitimer(signal.ITIMER_REAL, limits.seconds)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.environ.update(environment)
        if limits is not None:
            restrict_process(limits)
        try:
            serve(function, os.fdopen(asked), events)
            code = 0
        except Exception as error:
            events.write(json.dumps({"raised": f"{type(error).__name__}: {error}"}) + "\n")
            events.flush()
    finally:
        os._exit(code)


class WarmProcess:
    """A process that forks for each job; it is started by the first one."""

    def __init__(self, *libraries: str) -> None:
        self._libraries = libraries
        self._process: subprocess.Popen[str] | None = None

    def run(
        self,
        function: str,
        job: Mapping[str, object],
        *,
        what: str,
        limits: ResourceLimits | None,
        environment: Mapping[str, str] | None = None,
        progress: Progress = no_progress,
    ) -> Any:
        """Do as `run_in_child`."""
        if self._process is None:
            command = [sys.executable, "-W", "ignore", "-m", __name__, *self._libraries]
            path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
            environment_here = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment_here, cwd=ROOT
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        values = {"function": function, "job": job, "what": what, "environment": dict(environment or {})}
        self._process.stdin.write(json.dumps({**values, "limits": limits and asdict(limits)}) + "\n")
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
    with native_silence():
        for name in sys.argv[1:]:
            importlib.import_module(name)

    def write(event: object) -> None:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()

    for line in sys.stdin:
        values = json.loads(line)
        values["limits"] = values["limits"] and ResourceLimits(**values["limits"])
        try:
            with closing(Fork(**values, progress=lambda *event: write({"progress": event}))) as child:
                write({"result": child.result()})
        except ChildFailed as error:
            write({"reason": error.reason, "crashed": error.crashed})
        except SrkdError as error:
            write({"error": str(error)})


if __name__ == "__main__":
    main()
