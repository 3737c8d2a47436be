"""An ended run loses nothing: killed, interrupted or refused, it continues to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from compressor.base.errors import SrkdError
from compressor.base.interrupts import Interrupted, StopRequest, signal_handlers
from compressor.training.run_folder import SavedStates
from compressor.training.state import pack_state, read_state_file
from srkd import compress, resume
from srkd.cli.main import run as srkd_in_process
from tests.support.commands import ROOT
from tests.support.deaths import file_size_limit
from tests.support.run_files import change_run_file, read_json
from tests.support.small_runs import save_photos, save_teacher

SETTINGS = ("schedule.batch=2", "schedule.lr_patch=8", "schedule.validate_every=3", "schedule.rate=1e-3")
STEPS = 40


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return a teacher, photos, and the arguments of a short run without --out."""
    folder = tmp_path_factory.mktemp("inputs")
    options = ["--teacher", str(save_teacher(folder / "teacher.safetensors"))]
    options += ["--data", str(save_photos(folder / "photos")), "--steps", str(STEPS), "--threads", "1"]
    return [*options, *(word for setting in SETTINGS for word in ("--set", setting))]


def started(arguments: list[str], program: str = "", most_bytes: int | None = None) -> subprocess.Popen[str]:
    """Start `srkd compress` in a new process, after `program`, with files limited to `most_bytes`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    limit = "" if most_bytes is None else f"import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({most_bytes},) * 2)\n"
    lines = f"{limit}{program}\nimport sys; from srkd.cli.main import main; main(['compress', *sys.argv[1:]])"
    command = [sys.executable, "-c", lines, *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


KILLED_IN_A_SAVE = """
import os, signal
from compressor.base import files
finished = files.flush_file
def dies(path):
    if path.name.startswith(".state-"):
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
    finished(path)
files.flush_file = dies
"""


def wait_for_lines(process: subprocess.Popen[str], run: Path, lines: int) -> None:
    """Wait until metrics.jsonl has that many lines, or the process has ended."""
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.is_file() and metrics.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.002)


def outcome(run: Path) -> tuple[bytes, bytes, list[str]]:
    """Return the results that must not depend on the number of interruptions."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return (run / "student.safetensors").read_bytes(), (run / "checkpoints/best.safetensors").read_bytes(), lines


def states(run: Path) -> list[Path]:
    """Return the saved states, the oldest first."""
    return SavedStates(run / "checkpoints").paths()


@pytest.mark.ci
def test_killed_then_stopped_by_ctrl_c_then_a_full_disk_then_killed_in_a_save(inputs, tmp_path):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    assert srkd_in_process(["compress", *inputs, "--out", str(undisturbed)]) == 0
    process = started([*inputs, "--out", str(run)])
    wait_for_lines(process, run, 5)
    process.kill()
    process.communicate()

    process = started(["--resume", str(run)])
    wait_for_lines(process, run, 12)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err
    line = err.strip().splitlines()[-1]
    done = torch.load(states(run)[-1], weights_only=True)["done"]
    assert f"saved at step {done} of {STEPS}" in line and f"srkd compress --resume {run}" in line
    contents = {path: path.read_bytes() for path in states(run)}
    newest = states(run)[-1]

    process = started(["--resume", str(run)], most_bytes=newest.stat().st_size - 1)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in err
    line = err.strip().splitlines()[-1]
    assert "cannot write" in line and "File too large" in line
    assert f"the last good state is {newest}" in line and f"continue with: srkd compress --resume {run}" in line
    assert {path: path.read_bytes() for path in states(run)} == contents

    process = started(["--resume", str(run)], program=KILLED_IN_A_SAVE)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert {path: path.read_bytes() for path in states(run)} == contents
    assert list((run / "checkpoints").glob(".state-*.pt"))

    process = started(["--resume", str(run)])
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert f"continuing at step {done} of {STEPS}" in out
    assert outcome(run) == outcome(undisturbed)
    assert len(states(run)) == 3 and not list((run / "checkpoints").glob(".*"))


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_is_noted_and_a_second_stops_at_once(first, second):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    request = StopRequest()
    with signal_handlers(request.handlers):
        assert not request.received
        os.kill(os.getpid(), first)
        assert request.received
        if second == signal.SIGTERM:
            assert signal.getsignal(second) == signal.SIG_DFL
        else:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(second)
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory) -> Path:
    """Return a finished run folder."""
    run = tmp_path_factory.mktemp("whole") / "run"
    compress(inputs[1], data=[inputs[3], save_photos(run.with_name("more"))], steps=4, out=run, settings=SETTINGS)
    return run


def test_a_signal_in_the_middle_of_a_step_finishes_and_saves_it(inputs, whole, tmp_path):
    """A cluster sends SIGTERM before it takes the machine away; the run ends with the same bytes."""
    lines: list[str] = []

    def announced() -> list[str]:
        return [line for line in lines if line.startswith("stopping: this step is finished and saved first")]

    def preempted(title: str, done: int, total: int) -> None:
        if title == "training" and done == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            deadline = time.monotonic() + 10
            while not announced() and time.monotonic() < deadline:  # a thread says it, before the step ends
                time.sleep(0.01)

    run, folders = tmp_path / "pre-empted run", read_json(whole)["options"]["data"]
    with pytest.raises(Interrupted, match="saved at step 2 of 4") as caught:
        compress(
            inputs[1], data=folders, steps=4, out=run, settings=SETTINGS, progress=preempted, announce=lines.append
        )
    assert len(announced()) == 1
    assert caught.value.exit_code == 130 and str(caught.value).endswith(f"srkd compress --resume '{run}'")
    assert [path.name for path in states(run)] == ["state-00000002.pt"]
    resume(run)
    assert outcome(run) == outcome(whole)


def test_resume_goes_alone(unfinished, capfd):
    for extra in (["--steps", "9"], ["--out", "elsewhere"], ["--set", "kappa=2"], ["--seed", "3"]):
        assert srkd_in_process(["compress", "--resume", str(unfinished), *extra]) == 2
        assert f"--resume decides the whole run: leave out {extra[0]}" in capfd.readouterr().err
    assert srkd_in_process(["compress", "--resume", str(unfinished), "--dry-run"]) == 2
    assert "--dry-run" in (line := capfd.readouterr().err) and "would change" not in line


def test_a_run_that_cannot_be_continued_is_refused(unfinished, tmp_path):
    with pytest.raises(SrkdError, match="/nothing "):
        resume(tmp_path / "nothing")
    assert resume(unfinished).steps == 4
    with pytest.raises(SrkdError, match=r"/run: .*finished"):
        resume(unfinished)


def test_other_images_are_refused(unfinished):
    change_run_file(unfinished, lambda facts: facts["data"].update(digest="0123"))
    with pytest.raises(SrkdError, match=r"its data .*put it back"):
        resume(unfinished)


@pytest.mark.ci
@pytest.mark.parametrize(
    "unwritable", ["run.json", "log.txt", "metrics.jsonl", "comparison.png", "student.safetensors"]
)
def test_any_file_that_cannot_be_written_ends_in_one_line_and_costs_nothing(unwritable, unfinished):
    target, states_before = unfinished / "student.safetensors", states(unfinished)
    student = target.read_bytes()
    limit = {"run.json": 100, "comparison.png": len(student)}.get(unwritable, 10**6)
    log, metrics = unfinished / "log.txt", unfinished / "metrics.jsonl"
    if unwritable == "student.safetensors":
        target.unlink()
        target.mkdir()
    if unwritable == "log.txt":
        log.unlink()
        log.symlink_to("/dev/full")
    if unwritable == "metrics.jsonl":
        metrics.write_text(metrics.read_text() + '{"kind": "filler", "step": 1}\n' * 4 * 10**4)
    with file_size_limit(limit), pytest.raises(SrkdError) as caught:
        resume(unfinished)
    line = str(caught.value)
    assert line.startswith(f"cannot write {unfinished / unwritable}: ") and "Error" not in line
    assert f"the last good state is {states_before[-1]}; once that is mended, continue with: srkd compress" in line
    if unwritable == "log.txt":
        log.unlink()
    if unwritable == "student.safetensors":
        target.rmdir()
    assert states(unfinished) == states_before
    assert resume(unfinished).student_path.read_bytes() == student


def test_a_disk_that_is_full_from_the_start_is_reported(inputs, tmp_path):
    out = tmp_path / "new"
    with (
        file_size_limit(100),
        pytest.raises(SrkdError, match=rf"run\.json: .*had not begun: .*remove {out} and start it again"),
    ):
        compress(inputs[1], data=inputs[3], steps=4, out=out, settings=SETTINGS, cache_size="0")
    assert not (out / "run.json").exists()


def test_a_resumed_run_counts_the_seconds_before_it(unfinished):
    """Those until its last state was saved."""
    newest = states(unfinished)[-1]
    contents = read_state_file(newest)
    assert 0 < contents["seconds"] < 1000
    newest.write_bytes(pack_state({**contents, "seconds": 1000.0}))
    assert 1000 < resume(unfinished).seconds < 2000


def test_damaged_states_are_skipped_and_reported(unfinished):
    student = (unfinished / "student.safetensors").read_bytes()
    *_, older, newest = states(unfinished)
    newest.write_bytes(newest.read_bytes()[:500])
    lines: list[str] = []
    assert resume(unfinished, announce=lines.append).student_path.read_bytes() == student
    assert any(f"{newest} is damaged" in line and f"{older.name} is used instead" in line for line in lines)
    assert "continuing at step 3 of 4" in lines
    assert newest.with_suffix(".damaged").stat().st_size == 500
