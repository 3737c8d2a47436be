"""Only one process writes a run folder; a killed one leaves no lock and no partial files; thread counts stay."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from compressor.base.context import QUIET
from compressor.base.errors import SrkdError
from compressor.training.run_folder import LOCK, lock_run
from srkd import compress, resume
from srkd.cli.main import run as srkd_in_process
from tests.support.run_files import change_run_file, read_json
from tests.support.small_runs import SMALL, save_photos, save_teacher


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run folder."""
    folder = tmp_path_factory.mktemp("whole")
    teacher, photos = save_teacher(folder / "teacher.safetensors"), save_photos(folder / "photos")
    compress(teacher, data=photos, steps=4, out=folder / "run", settings=(*SMALL, "schedule.validate_every=2"))
    return folder / "run"


@contextmanager
def held(run: Path) -> Iterator[int]:
    """Hold the lock in another process, which is killed at the end of the block; yield its number."""
    reader, writer = os.pipe()
    holder = os.fork()
    if holder == 0:
        try:
            with lock_run(run, QUIET):
                os.write(writer, b"locked")
                time.sleep(120)
        finally:
            os._exit(0)
    os.close(writer)
    try:
        assert os.read(reader, 6) == b"locked"
        yield holder
    finally:
        os.close(reader)
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)


def test_a_second_process_is_refused_with_host_and_number_until_the_first_is_killed(unfinished, capfd):
    metrics = (unfinished / "metrics.jsonl").read_bytes()
    with held(unfinished) as holder:
        assert srkd_in_process(["compress", "--resume", str(unfinished)]) == 1
        line = capfd.readouterr().err.strip().splitlines()[-1]
        assert f"{unfinished} is being written by process {holder} on {os.uname().nodename}: wait" in line
        assert (unfinished / "metrics.jsonl").read_bytes() == metrics
    assert (unfinished / LOCK).is_file()
    assert resume(unfinished).steps == 4
    assert not (unfinished / LOCK).exists()


def test_two_starts_with_one_out_are_one_run(teacher, photos, tmp_path):
    out = tmp_path / "new"
    with held(out) as holder, pytest.raises(SrkdError, match=rf"process {holder} on "):
        compress(teacher, data=photos, steps=1, out=out, settings=SMALL)
    assert not (out / "run.json").exists()


def test_temporary_files_of_a_killed_process_are_removed_by_the_next_start(unfinished):
    leftovers = [".metrics.ab3_xyz9.jsonl", ".comparison.zzzzzzzz.png", ".student.00000000.safetensors"]
    for name in leftovers:
        (unfinished / name).write_bytes(b"half")
    own = unfinished / ".notes.txt"
    own.write_text("mine")
    resume(unfinished)
    assert [name for name in leftovers if (unfinished / name).exists()] == [] and own.is_file()


def test_a_start_that_was_killed_before_run_json_can_be_repeated(teacher, photos, tmp_path):
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    (out / LOCK).write_text("process 1 on nowhere\n")
    (out / ".run.abcdefgh.json").write_text("{")
    assert compress(teacher, data=photos, steps=1, out=out, settings=SMALL).steps == 1
    assert not (out / ".run.abcdefgh.json").exists()


@pytest.mark.ci
def test_a_resumed_run_computes_with_the_threads_it_began_with(unfinished):
    before = torch.get_num_threads()
    change_run_file(unfinished, lambda facts: facts.update(threads=before + 1))
    lines: list[str] = []
    used: list[int] = []

    def progress(title: str, done: int, total: int) -> None:
        if title == "training":
            used.append(torch.get_num_threads())

    (unfinished / "checkpoints" / "state-00000004.pt").unlink()
    resume(unfinished, announce=lines.append, progress=progress)
    assert f"continuing with {before + 1} threads, as the run began, not {before}" in lines[0]
    assert set(used) == {before + 1} and torch.get_num_threads() == before
    assert read_json(unfinished)["threads"] == before + 1


def test_another_processor_or_torch_is_said_first(unfinished):
    change_run_file(unfinished, lambda facts: facts["machine"].update(cpu="Z80", torch="0.1"))
    lines: list[str] = []
    resume(unfinished, announce=lines.append)
    assert "may differ in its bytes" in lines[0] and "cpu Z80, now " in lines[0] and "torch 0.1, now " in lines[0]
