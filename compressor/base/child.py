"""Work in a child process: for native code that may crash, hang or keep memory.

    with Child("export.profile.measured:MeasuredModel", {"path": "student.onnx"}, what="student.onnx") as child:
        facts = child.result()
        milliseconds = child.call("turn", calls=5)

Job, calls and events are JSON messages in a pipe. The child answers {"progress": [title, done, total]} while it works,
then {"result": ...} or {"error": "one line"}. If the job's function is a class, the child keeps the instance, the first
result is None, and each {"call": name, "arguments": {...}} calls one of its methods.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from compressor.base.choices import MOST_LIMITS
from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError, UsageError

ROOT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1
"""linux/prctl.h: the signal that a process gets when its parent ends."""


@dataclass(frozen=True)
class ResourceLimits:
    """Upper limits on the resources of a process that opens an untrusted file."""

    seconds: float = 60.0
    memory_mb: int = 4000
    """Private memory; mapped files, such as libraries, do not count."""

    def scaled(self, factor: float) -> ResourceLimits:
        if not 1 <= factor <= MOST_LIMITS:
            raise UsageError(f"limits={factor!r} is not a factor from 1 to {MOST_LIMITS}")
        return ResourceLimits(self.seconds * factor, round(self.memory_mb * factor))


USUAL_LIMITS = ResourceLimits()


class ChildFailed(SrkdError):
    """The child process ended without a result. `reason` says how it ended, without naming its job."""

    def __init__(self, what: str, reason: str, *, crashed: bool = False) -> None:
        super().__init__(f"{what}: {reason}")
        self.reason, self.crashed = reason, crashed


class Child:
    """A child process that starts its job when it is created, and answers further calls if the job's function is a
    class. It is never restarted: after its end every call raises `ChildFailed`, whose message begins with `what`.
    """

    def __init__(
        self,
        function: str,
        job: Mapping[str, object],
        *,
        what: str,
        environment: Mapping[str, str] | None = None,
        progress: Progress = no_progress,
        limits: ResourceLimits | None = None,
    ) -> None:
        self._what, self._progress = what, progress
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the child lives
        # The packages of srkd can be imported from any folder.
        import_path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        most_memory = [] if limits is None else [str(limits.memory_mb)]
        self._pipe, end = Pipe()
        with end:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter and a function of srkd
                [sys.executable, "-m", __name__, str(end.fileno()), function, *most_memory],
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
                env={**os.environ, "PYTHONPATH": import_path, **(environment or {})},
                pass_fds=[end.fileno()],
            )
        self._send(job)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def call(self, name: str, *, timeout_seconds: float | None = None, **arguments: object) -> Any:
        self._send({"call": name, "arguments": arguments})
        return self.result(timeout_seconds)

    def result(self, timeout_seconds: float | None = None) -> Any:
        """Wait for the answer to the job or to the last call. An SrkdError raised in the child is raised here; a crash,
        an exit or a timeout becomes `ChildFailed`.
        """
        end = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while self._pipe.poll(None if end is None else max(0, end - time.monotonic())):
            try:
                event = json.loads(self._pipe.recv_bytes())
            except (EOFError, OSError) as error:
                code = self._process.wait()
                self._printed.seek(0)
                lines = self._printed.read().decode(errors="replace").strip().splitlines()
                reason = _describe_exit(code) + (f": {lines[-1][:300]}" if lines else "")
                raise ChildFailed(self._what, reason, crashed=code < 0) from error
            if "error" in event:
                raise SrkdError(event["error"])
            if "result" in event:
                return event["result"]
            self._progress(*event["progress"])
        self._process.kill()
        raise ChildFailed(self._what, f"it took over {timeout_seconds:g} s")

    def close(self) -> None:
        """End the child, even if it has not answered yet."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        self._printed.close()

    def _send(self, message: Mapping[str, object]) -> None:
        with suppress(OSError):  # the exit code of a child that is dead already says why
            self._pipe.send_bytes(json.dumps(message).encode())


StartChild: TypeAlias = Callable[..., Child]
"""A way to start a child; its arguments are those of `Child`."""

_start_child: StartChild = Child


@contextmanager
def children_started_by(start: StartChild) -> Iterator[None]:
    global _start_child
    before, _start_child = _start_child, start
    try:
        yield
    finally:
        _start_child = before


def start_child(function: str, job: Mapping[str, object], **options: Any) -> Child:
    """Start a child, as `Child` does unless the program has named another way."""
    return _start_child(function, job, **options)


def run_in_child(
    function: str,
    job: Mapping[str, object],
    *,
    timeout_seconds: float | None = None,
    limits: ResourceLimits | None = None,
    **options: Any,
) -> Any:
    """Return the result of `function` ("module:name"), called with `job` in a child process; errors are those of
    `Child.result`, and the other options those of `Child`.
    """
    with start_child(function, job, limits=limits, **options) as child:
        return child.result(timeout_seconds if limits is None else limits.seconds)


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL), as the system does where memory runs out; srkd itself is unharmed"
    with suppress(ValueError):
        return f"its process crashed ({signal.Signals(-code).name}); srkd itself is unharmed"
    return f"its process crashed (signal {-code}); srkd itself is unharmed"


def main() -> None:
    """Run the child: read the job, run the function, write the events, and answer calls until the pipe is closed.

    The function is called as function(progress, **job). It, or each method of the class, returns JSON values.
    """
    if sys.platform == "linux":  # it ends with its parent, even if that is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _, pipe_number, function_name, *memory_mb = sys.argv
    if memory_mb:
        limit = int(memory_mb[0]) * 10**6
        if not getattr(sys.flags, "safe_path", False):
            del sys.path[0]  # the current folder, whose files may be a stranger's
        # On Linux DATA is private memory; AS would also count address space that libraries reserve and never touch.
        kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
        with suppress(ValueError, OSError):  # macOS refuses it, and a lower limit may already be set
            resource.setrlimit(kind, (limit, limit))
    pipe = Connection(int(pipe_number))

    def send(event: object) -> None:
        pipe.send_bytes(json.dumps(event).encode())

    def answer(work: Callable[[], Any]) -> None:
        try:
            send({"result": work()})
        except SrkdError as error:
            send({"error": str(error)})

    job = json.loads(pipe.recv_bytes())
    module, _, name = function_name.partition(":")
    function = getattr(importlib.import_module(module), name)
    start = partial(function, lambda title, done, total: send({"progress": [title, done, total]}), **job)
    kept: list[Any] = []
    answer((lambda: kept.append(start())) if isinstance(function, type) else start)
    while kept:
        try:
            call = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        answer(partial(getattr(kept[0], call["call"]), **call["arguments"]))


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:  # noqa: BLE001 - the parent reads the last line of it
        sys.excepthook(type(error), error, error.__traceback__)
        sys.stderr.flush()
        os._exit(1)
    # Native libraries may crash while Python shuts down, although the work succeeded.
    sys.stderr.flush()
    os._exit(0)
