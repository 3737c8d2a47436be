"""Work in a child process: for native code that may crash, hang or keep memory.

    run_in_child("export.convert.to_ncnn:try_run", {"path": "student.param"}, what="ncnn")

    with Child("export.profile.measured:MeasuredModel", {"path": "student.onnx"}, what="student.onnx") as child:
        facts = child.result()
        milliseconds = child.call("turn", calls=5)

The child reads the job as a line of JSON from stdin and writes events to its stdout, one per line: {"progress": [title,
done, total]} while it works, then {"result": ...} or {"error": "one line"}. The result is the function's return value.
If the function is a class, the child keeps the instance, the first result is None, and each further line calls one of
its methods: {"call": name, "arguments": {...}}. Output of native code goes to stderr.

With `limits` the child is also jailed (`isolation.py`) before it imports the function: for untrusted files. It is no
part of the terminal's session, so that Ctrl-C reaches srkd alone, which ends it.

A program that starts many children, such as a test suite, may start them in its own way (`children_started_by`): a new
interpreter takes seconds to import torch.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

from compressor.base.context import Progress, no_progress
from compressor.base.errors import SrkdError
from compressor.base.isolation import MB, ResourceLimits, end_with_parent, restrict_process

ROOT = Path(__file__).resolve().parents[2]

MOST_OF_AN_ERROR = 2000
"""Characters of an error that are shown: the child may have been made to write more."""

Job: TypeAlias = Callable[..., Any]
"""A function or class called as function(progress, **job). It, or each method of the class, returns JSON values."""


class ChildFailed(SrkdError):
    """The child process ended without a result. `reason` says how it ended, without naming its job."""

    def __init__(self, what: str, reason: str, *, crashed: bool = False) -> None:
        super().__init__(f"{what}: {reason}")
        self.reason, self.crashed = reason, crashed


class Worker(Protocol):
    """What a child answers, however it was started."""

    def call(self, name: str, *, timeout_seconds: float | None = None, **arguments: object) -> Any: ...

    def result(self, timeout_seconds: float | None = None) -> Any: ...

    def close(self) -> None: ...


StartChild: TypeAlias = Callable[..., Worker]
"""A way to start a child; its arguments are those of `Child`."""


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
        files: Sequence[int] = (),
    ) -> None:
        """Start the child, which inherits the open `files`."""
        self._what, self._progress = what, progress
        self._most = None if limits is None else limits.output_mb * MB
        self._files = ExitStack()
        self._errors = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - as long as the child lives
        # The packages of srkd can be imported from any folder.
        import_path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        restrictions = [] if limits is None else [json.dumps(asdict(limits))]
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter and a function of srkd
            [sys.executable, "-m", __name__, function, *restrictions],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": import_path, **(environment or {})},
            text=True,
            pass_fds=files,
            start_new_session=limits is not None,
        )
        self._send(job)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, name: str, *, timeout_seconds: float | None = None, **arguments: object) -> Any:
        """Call a method of the object that the child keeps, and return its result."""
        self._send({"call": name, "arguments": arguments})
        return self.result(timeout_seconds)

    def result(self, timeout_seconds: float | None = None) -> Any:
        """Wait for the answer to the job or to the last call. An SrkdError raised in the child is raised here; a crash,
        an exit or a timeout becomes `ChildFailed`.
        """
        timed_out = threading.Event()

        def end() -> None:
            timed_out.set()
            self._process.kill()

        timer = threading.Timer(timeout_seconds or 0, end)
        timer.daemon = True  # on SIGTERM srkd must exit without waiting for the timer
        try:
            if timeout_seconds is not None:
                timer.start()
            event = self._answer()
        except BaseException:
            self._process.kill()
            raise
        finally:
            timer.cancel()
        if "result" in event:
            return event["result"]
        if "error" in event:
            raise SrkdError(str(event["error"])[:MOST_OF_AN_ERROR])
        code = self._process.wait()
        if timed_out.is_set():
            raise ChildFailed(self._what, f"it took over {timeout_seconds:g} s")
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = _describe_exit(code) + (f": {lines[-1][:300]}" if lines else "")
        raise ChildFailed(self._what, reason, crashed=code < 0)

    def close(self) -> None:
        """End the child, even if it has not answered yet."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        self._files.close()

    def _send(self, message: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the exit code of a child that is dead already says why
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        """Report the progress, and return the next result or error; an empty dict if the child died before one.

        A child that writes more than `limits.output_mb` has failed.
        """
        assert self._process.stdout is not None
        most = self._most
        while line := self._process.stdout.readline(-1 if most is None else most + 1):
            if most is not None:
                most -= len(line)
                if most < 0:
                    raise ChildFailed(self._what, "its answer is too long")
            event = _read_event(line)
            if not event.keys().isdisjoint(("result", "error")):
                return event
            if "progress" in event:
                self._progress(*event["progress"])
        return {}


def _read_event(line: str) -> dict[str, Any]:
    """Return an event, or nothing if a crash cut the line short or a hostile file wrote it."""
    try:
        event = json.loads(line)
        if "progress" in event:
            title, done, total = event["progress"]
            return {"progress": (str(title)[:MOST_OF_AN_ERROR], int(done), int(total))}
    except (ValueError, TypeError, OverflowError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


_start_child: StartChild = Child


@contextmanager
def children_started_by(start: StartChild) -> Iterator[None]:
    """Start the children of this program by `start`, which must restrict those with limits as `Child` does."""
    global _start_child
    before, _start_child = _start_child, start
    try:
        yield
    finally:
        _start_child = before


def start_child(
    function: str,
    job: Mapping[str, object],
    *,
    what: str,
    environment: Mapping[str, str] | None = None,
    limits: ResourceLimits | None = None,
    files: Sequence[int] = (),
) -> Worker:
    """Start a child, as `Child` does unless the program has named another way."""
    return _start_child(function, job, what=what, environment=environment, limits=limits, files=files)


def run_in_child(
    function: str,
    job: Mapping[str, object],
    *,
    what: str,
    timeout_seconds: float | None = None,
    environment: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
    limits: ResourceLimits | None = None,
) -> Any:
    """Return the result of `function` ("module:name"), called with `job` in a child process.

    An SrkdError that the function raises is raised here. A crash, an exit or a timeout becomes `ChildFailed`, which
    begins with `what`.
    """
    child = _start_child(function, job, what=what, environment=environment, progress=progress, limits=limits)
    with closing(child):
        return child.result(timeout_seconds if limits is None else limits.seconds)


def _describe_exit(code: int) -> str:
    """Return how a process ended, in words."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL), as the system does where memory runs out; srkd itself is unharmed"
    with suppress(ValueError):
        return f"its process crashed ({signal.Signals(-code).name}); srkd itself is unharmed"
    return f"its process crashed (signal {-code}); srkd itself is unharmed"


def main() -> None:
    """Run the child: read the job, run the function, write the events, and answer calls until stdin ends."""
    end_with_parent()
    # What native code prints must not get between the events.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for text in sys.argv[2:]:
        if not getattr(sys.flags, "safe_path", False):
            del sys.path[0]  # the current folder, whose files are the user's
        restrict_process(ResourceLimits(**json.loads(text)))
    serve(sys.argv[1], sys.stdin, events)


def serve(function_name: str, lines: Iterable[str], events: IO[str]) -> None:
    """Do the job of the first line, and call a kept object as the other lines say; write the events."""
    lines = iter(lines)
    job = json.loads(next(lines))
    module, _, name = function_name.partition(":")
    function: Job = getattr(importlib.import_module(module), name)
    is_kept = isinstance(function, type)
    work = partial(function, lambda title, done, total: _write(events, {"progress": [title, done, total]}), **job)
    instance = _answer(events, work, is_kept=is_kept)
    for line in lines if is_kept and instance is not None else ():
        call = json.loads(line)
        _answer(events, partial(getattr(instance, call["call"]), **call["arguments"]))


def _answer(events: IO[str], work: Callable[[], Any], *, is_kept: bool = False) -> Any:
    """Do the work, write its result or its error, and return the result; None is written for a kept object."""
    try:
        result = work()
    except SrkdError as error:
        _write(events, {"error": str(error)})
        return None
    _write(events, {"result": None if is_kept else result})
    return result


def _write(events: IO[str], event: object) -> None:
    events.write(json.dumps(event) + "\n")
    events.flush()


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
