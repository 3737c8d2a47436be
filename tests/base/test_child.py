"""Functions in a child process: result, progress, and every failure in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compressor.base.child import Child, ChildFailed, ResourceLimits, run_in_child
from compressor.base.errors import SrkdError
from tests.support.commands import ROOT, is_gone

pytestmark = pytest.mark.usefixtures("real_children")

PROGRAM = """
import os, signal, sys, time
from compressor.base.errors import SrkdError

def add(progress, *, first, second):
    print("native noise")
    os.write(1, b"more noise")
    for done in range(3):
        progress("adding", done, 2)
    return {"sum": first + second, "variable": os.environ.get("SRKD_TEST")}

def refuse(progress):
    raise SrkdError("the file is damaged")

def raise_other(progress):
    raise ValueError("no such layer")

def crash(progress):
    os.kill(os.getpid(), signal.SIGSEGV)

def be_killed(progress):
    os.kill(os.getpid(), signal.SIGKILL)

def leave(progress):
    sys.exit("no space left")

def report(progress):
    with open(os.path.join(os.environ["HERE"], "pid"), "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)

def hang(progress):
    time.sleep(600)

def eat(progress):
    return len(bytearray(2 * 10**9))

class Counter:
    def __init__(self, progress, *, start):
        if start < 0:
            raise SrkdError("it starts below 0")
        self.progress, self.count = progress, start

    def add(self, number):
        self.progress("adding", self.count, number)
        self.count += number
        return self.count

    def refuse(self):
        raise SrkdError(f"not at {self.count}")

    def crash(self):
        os.kill(os.getpid(), signal.SIGSEGV)

    def hang(self):
        time.sleep(600)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "childwork.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    return "childwork"


def test_a_result_comes_back_and_progress_on_the_way(module: str, capfd: pytest.CaptureFixture[str]) -> None:
    events: list[tuple[object, ...]] = []
    options = {"timeout_seconds": 300, "environment": {"SRKD_TEST": "set"}, "progress": lambda *e: events.append(e)}
    result = run_in_child(f"{module}:add", {"first": 2, "second": 3}, what="adding", **options)
    assert result == {"sum": 5, "variable": "set"}
    assert events == [("adding", 0, 2), ("adding", 1, 2), ("adding", 2, 2)]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raise_other", "working: its process ended with exit code 1: ValueError: no such layer"),
        ("crash", "working: its process crashed (SIGSEGV); srkd itself is unharmed"),
        (
            "be_killed",
            "working: its process was killed (SIGKILL), as the system does where memory runs out; "
            "srkd itself is unharmed",
        ),
        ("leave", "working: its process ended with exit code 1: SystemExit: no space left"),
    ],
)
def test_a_child_without_a_result_is_one_line(module: str, function: str, message: str) -> None:
    with pytest.raises(ChildFailed) as caught:
        run_in_child(f"{module}:{function}", {}, what="working")
    assert str(caught.value) == message and f"working: {caught.value.reason}" == message


@pytest.mark.skipif(sys.platform != "linux", reason="macOS refuses the limit")
def test_memory_over_the_limit_is_one_line(module: str) -> None:
    with pytest.raises(ChildFailed, match="MemoryError"):
        run_in_child(f"{module}:eat", {}, what="working", limits=ResourceLimits(memory_mb=1000))


def test_files_of_the_current_folder_are_no_modules_of_a_child_with_limits(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(SrkdError, match=r"^the file is damaged$"):
        run_in_child(f"{module}:refuse", {}, what="working")
    with pytest.raises(ChildFailed, match="No module named 'childwork'"):
        run_in_child(f"{module}:refuse", {}, what="working", limits=ResourceLimits())


def test_a_child_that_is_kept_answers_calls_and_survives_an_error(module: str) -> None:
    events: list[tuple[object, ...]] = []
    job = {"start": 1}
    with Child(f"{module}:Counter", job, what="counting", progress=lambda *event: events.append(event)) as child:
        assert child.result() is None
        assert [child.call("add", number=2), child.call("add", number=3)] == [3, 6]
        with pytest.raises(SrkdError, match=r"^not at 6$") as refused:
            child.call("refuse")
        assert not isinstance(refused.value, ChildFailed)
        assert child.call("add", number=1) == 7
    assert events == [("adding", 1, 2), ("adding", 3, 3), ("adding", 6, 1)]
    assert is_gone(child._process.pid, seconds=5)


def test_a_kept_child_that_crashes_stays_ended(module: str) -> None:
    with Child(f"{module}:Counter", {"start": 1}, what="counting") as child:
        assert child.result() is None
        for _ in range(2):
            with pytest.raises(ChildFailed, match="counting: ") as caught:
                child.call("crash")
            assert caught.value.crashed


def test_a_call_that_takes_too_long_ends_the_child_and_one_that_cannot_begin_says_why(module: str) -> None:
    with Child(f"{module}:Counter", {"start": 1}, what="counting") as child:
        child.result()
        with pytest.raises(ChildFailed, match=r"counting: it took over 0\.5 s"):
            child.call("hang", timeout_seconds=0.5)
    with Child(f"{module}:Counter", {"start": -1}, what="counting") as child:
        with pytest.raises(SrkdError, match=r"^it starts below 0$"):
            child.result()
        with pytest.raises(ChildFailed):
            child.call("add", number=1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_child_ends_when_its_parent_is_killed(module: str, tmp_path: Path) -> None:
    program = f"from compressor.base.child import run_in_child; run_in_child('{module}:report', {{}}, what='it')"
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "HERE": str(tmp_path)})
    number = tmp_path / "pid"
    while parent.poll() is None and not (number.exists() and number.read_text()):
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert is_gone(int(number.read_text()), seconds=10)


def test_a_child_that_does_not_end_is_ended(module: str) -> None:
    for more in ({"timeout_seconds": 0.5}, {"limits": ResourceLimits(seconds=0.5)}):
        with pytest.raises(ChildFailed, match=r"working: it took over 0\.5 s"):
            run_in_child(f"{module}:hang", {}, what="working", **more)
