"""Damaged and hostile files: a clean load or one line, no code run, no memory eaten."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from compressor.base.errors import SrkdError
from compressor.models.checkpoints.load import load_checkpoint
from tests.support.commands import ROOT, python

linux_only = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the limit on memory needs Linux: /proc and RLIMIT_AS"
)
MOST_GROWTH_MB = 300
MOST_SECONDS = 20
"""Most processor seconds for one file; a file made to be slow took hours."""


def try_hostile_files(count: int, seed: int, folder: Path) -> str:
    """Try the files in a separate process, so that a crash fails the test and the memory limit is harmless.

    Return what happened to them, in words.
    """
    words = ("-W", "ignore", "-m", "tests.support.hostile_checkpoints", count, seed, folder)
    done = python(*words, cwd=ROOT, timeout=1800, OMP_NUM_THREADS="1")
    assert done.out, f"the process died with {done.code}: {done.err[-2000:]}"
    report = done.json
    assert report["wrong"] == []
    assert report["loaded"] + report["refused"] == report["tried"] >= count
    assert report["always"] >= 200
    assert report["loaded"] >= 5, "some damage is harmless: were good files opened at all?"
    assert report["growth_mb"] < MOST_GROWTH_MB
    assert report["slowest"][0] < MOST_SECONDS, report["slowest"]
    assert not (folder / "CODE_RAN").exists()
    return (
        f"{report['tried']:,} checkpoints: {report['loaded']:,} opened, {report['refused']:,} refused in one line, "
        f"memory +{report['growth_mb']} MB"
    )


@pytest.mark.ci
@linux_only
def test_seven_hundred_hostile_files(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    record_property("note", try_hostile_files(700, 0, tmp_path))


@linux_only
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_thousands_of_hostile_files(seed: int, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    record_property("note", try_hostile_files(2500, seed, tmp_path))


def test_the_code_runners_do_run_in_an_ordinary_unpickler(tmp_path: Path) -> None:
    """Otherwise the absence of code execution would prove nothing."""
    import pickle

    from tests.support.hostile_files import code_runners

    ran = 0
    for name, bomb in code_runners(tmp_path / "CODE_RAN"):
        if name in ("os.system", "subprocess", "eval", "exec", "open", "touch", "runpy"):
            pickle.loads(pickle.dumps(bomb, 2))
            assert (tmp_path / "CODE_RAN").exists(), name
            (tmp_path / "CODE_RAN").unlink()
            ran += 1
    assert ran == 7


@pytest.mark.parametrize("kind", ["folder", "missing", "pipe", "unreadable", "link to itself"])
def test_what_is_no_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes here")
        os.mkfifo(path)
    elif kind == "unreadable":
        path.write_bytes(b"x")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("root reads everything")
    elif kind == "link to itself":
        path.symlink_to(path)
    with pytest.raises(SrkdError) as raised:
        load_checkpoint(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert len(str(raised.value).splitlines()) == 1


def test_an_archive_that_grows_to_more_than_its_file_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    for name, size in (("a/data.pkl", 2**26), ("a/data/0", 2**28)):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", b"\x80\x02}.")
            archive.writestr(name, bytes(size))
        with pytest.raises(SrkdError, match=r"not a checkpoint|no checkpoint does"):
            load_checkpoint(path)
