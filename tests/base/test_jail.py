"""The jail of untrusted programs: what a jailed process must not do is refused by the system, whatever code it runs."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compressor.base.child import Child, run_in_child
from compressor.base.isolation import ResourceLimits
from tests.support.commands import ROOT
from tests.support.jail import needs_jail

PROGRAM = """
import ctypes, mmap, os, resource, signal, socket, subprocess, threading, time

def attempts(folder, port):
    secret, libc = os.path.join(folder, "secret"), ctypes.CDLL(None, use_errno=True)
    def call(result):
        if result < 0:
            raise OSError(ctypes.get_errno(), "")
        return result
    def signal_thread():
        call(libc.syscall(200 if os.uname().machine == "x86_64" else 130, os.getppid(), 9))
    yield "create a file", lambda: open(os.path.join(folder, "new"), "w")
    yield "change a file", lambda: open(secret, "a")
    yield "truncate a file", lambda: os.truncate(secret, 0)
    yield "remove a file", lambda: os.unlink(secret)
    yield "rename a file", lambda: os.rename(secret, secret + "2")
    yield "link a file", lambda: os.link(secret, secret + "2")
    yield "create a folder", lambda: os.mkdir(os.path.join(folder, "new"))
    yield "write into shared memory of the system", lambda: open("/dev/shm/srkd-test", "w")
    yield "write beside the program's own files", lambda: open(__file__ + "c", "w")
    yield "read a file", lambda: open(secret).read()
    yield "list a folder", lambda: os.listdir(folder)
    yield "read what a process was started with", lambda: open(f"/proc/{os.getppid()}/environ").read()
    yield "read a process's memory", lambda: open(f"/proc/{os.getppid()}/mem", "rb").read(1)
    yield "make a file readable", lambda: os.chmod(secret, 0o777)
    yield "change its owner", lambda: os.chown(secret, 1, 1)
    yield "change its times", lambda: os.utime(secret)
    yield "change its attributes", lambda: os.setxattr(secret, "user.a", b"b")
    yield "connect", lambda: socket.create_connection(("127.0.0.1", port), timeout=5)
    yield "send a datagram", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))
    yield "talk to a service of this machine", lambda: socket.socket(socket.AF_UNIX)
    yield "run a program", lambda: subprocess.run(["true"])
    yield "become a program", lambda: os.execv("/bin/true", ["true"])
    yield "fork", os.fork
    yield "end srkd", lambda: os.kill(os.getppid(), signal.SIGKILL)
    yield "end a thread of srkd", signal_thread
    yield "stop its own watcher", lambda: os.kill(0, signal.SIGTERM)
    yield "limit srkd's memory", lambda: resource.prlimit(os.getppid(), resource.RLIMIT_AS, (10**6, 10**6))
    yield "lift its own limits", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, 10**9))
    yield "take memory that nothing counts", lambda: mmap.mmap(-1, 10**6)
    yield "take memory of a file without a name", lambda: os.memfd_create("x")
    yield "take memory of System V", lambda: call(libc.shmget(0, 10**6, 0o1600))
    yield "enter another namespace", lambda: call(libc.unshare(0x10000000))
    yield "set the clock", lambda: time.clock_settime(time.CLOCK_REALTIME, time.time())

def attempt(progress, *, folder, port):
    results = {}
    for name, do in attempts(folder, port):
        try:
            results[name] = f"done: {do()}"
        except Exception as error:
            results[name] = f"{type(error).__name__} {getattr(error, 'errno', None)}"
    thread = threading.Thread(target=lambda: results.update({"a thread": "ran"}))
    thread.start()
    thread.join()
    results["memory of its own"] = len(mmap.mmap(-1, 10**6, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    results["a file of Python"] = len(open(os.__file__).read())
    return results

def read(progress, *, path):
    return open(path).read()

def end(progress, *, parent):
    os.abort()
"""

ATTEMPTS = [line.split('"')[1] for line in PROGRAM.splitlines() if line.startswith("    yield")]


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("module")
    (folder / "jailedwork.py").write_text(PROGRAM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
        yield "jailedwork"


@pytest.fixture(scope="module")
def outcome(module: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Attempt everything in a jailed process, with a server on this machine; return what came of it."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "secret").write_text("a secret")
    before = os.stat(folder / "secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        job = {"folder": str(folder), "port": server.getsockname()[1]}
        with Child(f"{module}:attempt", job, what="it", limits=ResourceLimits()) as child:
            results: dict[str, Any] = child.result(60)
    after = os.stat(folder / "secret")
    assert [path.name for path in folder.iterdir()] == ["secret"] and (folder / "secret").read_text() == "a secret"
    assert (before.st_mode, before.st_uid, before.st_mtime_ns) == (after.st_mode, after.st_uid, after.st_mtime_ns)
    return results


@needs_jail
@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_jailed_process_cannot(name: str, outcome: dict[str, Any]) -> None:
    refused = [f"{kind} {number}" for kind in ("PermissionError", "OSError") for number in (errno.EPERM, errno.EACCES)]
    # A hard limit that is not raised is a ValueError in Python.
    assert outcome[name] in [*refused, *(["ValueError None"] if name == "lift its own limits" else [])]


@needs_jail
def test_a_jailed_process_may_compute(outcome: dict[str, Any]) -> None:
    assert outcome["a thread"] == "ran" and outcome["memory of its own"] == 10**6 and outcome["a file of Python"]


@needs_jail
def test_a_jailed_process_reads_the_files_that_it_is_given_and_crashes_as_any(module: str, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_text("for it")
    limits = ResourceLimits(readable=(str(given),))
    with Child(f"{module}:read", {"path": str(given)}, what="it", limits=limits) as child:
        assert child.result(60) == "for it"
    with (
        pytest.raises(Exception, match=r"SIGABRT"),
        Child(f"{module}:end", {"parent": os.getpid()}, what="it", limits=ResourceLimits()) as child,
    ):
        child.result(60)


def test_a_trusted_process_keeps_its_rights(module: str, tmp_path: Path, real_children: None) -> None:
    given = tmp_path / "given"
    given.write_text("for it")
    limits = ResourceLimits(is_jailed=False)
    assert run_in_child(f"{module}:read", {"path": str(given)}, what="it", limits=limits) == "for it"


def test_files_of_the_current_folder_are_no_modules_of_a_child_with_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_children: None
) -> None:
    (tmp_path / "stranger.py").write_text("def run(progress):\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert run_in_child("stranger:run", {}, what="it") == 1
    with pytest.raises(Exception, match="No module named 'stranger'"):
        run_in_child("stranger:run", {}, what="it", limits=ResourceLimits())
