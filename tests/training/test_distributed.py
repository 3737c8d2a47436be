"""Several processes train like one: the same losses, one run folder, and a lost process loses no data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
import torch

from compressor.base.context import QUIET
from compressor.base.errors import SrkdError, UsageError
from compressor.base.processes import Processes, Rank
from compressor.models.checkpoints.save import save_network
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.registry import build
from compressor.training import distributed
from compressor.training.guard import SkippedStep
from compressor.training.run_folder import LOCK, RunFolder, lock_run
from compressor.training.state import State
from recipes.config.reading import load_preset
from recipes.methods.scratch import Scratch
from srkd import compress
from tests.support.commands import ROOT
from tests.support.distributed_run import measure
from tests.support.method_runs import GAME, run_rows
from tests.support.methods_table import ROWS
from tests.support.run_files import change_run_file, read_json, read_metrics
from tests.support.small_runs import save_photos
from tests.support.torchrun import TWO_PROCESSES, run_torchrun, torchrun, workers

TOLERANCE = 1e-4
"""Relative tolerance of losses over thirty steps, as half batches round differently; measured: below 1e-6."""

WORDS = ("kind", "batches", "first_pixels")
SETTINGS = (
    *("schedule.batch=4", "schedule.lr_patch=8", "schedule.validate_every=10"),
    *("schedule.rate=1e-3", "schedule.decay=milestones", "schedule.milestones=[2000, 4000]"),
)
SMALL_SECOND = ("--set", "then.schedule.batch=4", "--set", "then.schedule.lr_patch=8")
STEPS = 60
LOST = 60
"""Seconds within which the others must have ended."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a teacher and photos."""
    folder = tmp_path_factory.mktemp("inputs")
    save_network(build(EDSRSpec(scale=2, width=8, depth=2), seed=0), folder / "teacher.safetensors", metadata={})
    save_photos(folder / "photos")
    return folder


def new_run(inputs: Path, run: Path, steps: int = STEPS) -> list[str]:
    options = ["--teacher", inputs / "teacher.safetensors", "--data", inputs / "photos", "--steps", steps]
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["compress", *map(str, options), *settings, "--out", str(run)]


def in_training(process: subprocess.Popen[str], run: Path, act: Callable[[], object]) -> None:
    """Call `act` after some steps of training."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (run / "metrics.jsonl").is_file() and (run / "metrics.jsonl").read_bytes().count(b"\n") >= 15:
            break
        time.sleep(0.002)
    act()


def error_line(err: str) -> str:
    """Return srkd's only error line; a warning of torch's C++, written in pieces, may share it."""
    lines = [line for line in err.splitlines() if "srkd: " in line]
    assert len(lines) == 1, err
    return lines[0]


def outcome(run: Path) -> tuple[bytes, bytes, list[dict[str, Any]]]:
    """Return the results that must not depend on the number of lost processes."""
    student, best = (run / name for name in ("student.safetensors", "checkpoints/best.safetensors"))
    return student.read_bytes(), best.read_bytes(), read_metrics(run)


def assert_continued(run: Path, undisturbed: Path) -> None:
    """Continue a run, and require the bytes of one that nothing disturbed."""
    out, _ = run_torchrun("-m", "srkd", "compress", "--resume", str(run))
    assert "continuing at step " in out and outcome(run) == outcome(undisturbed)


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    out, err = run_torchrun("-m", "srkd", *new_run(inputs, run), "--json")
    assert json.loads(out)["steps"] == STEPS, "one object, from one process"
    assert err.count(f"step {STEPS}/{STEPS}") == 1, "one process speaks"
    assert not (run / LOCK).exists()
    return run


@pytest.mark.ci
def test_two_processes_have_the_loss_curve_of_one(inputs, undisturbed, tmp_path):
    options = {"data": inputs / "photos", "steps": STEPS, "settings": SETTINGS, "out": tmp_path / "one"}
    one = compress(inputs / "teacher.safetensors", **options)
    single, double = read_metrics(one.run), read_metrics(undisturbed)
    rows = [[(line["kind"], line["step"], line.get("batches")) for line in lines] for lines in (single, double)]
    assert rows[0] == rows[1] and rows[0][0][2], "the same steps, and the same batches by their hashes"
    for mine, other in zip(single, double, strict=True):
        assert {key: value for key, value in mine.items() if key not in WORDS} == pytest.approx(
            {key: value for key, value in other.items() if key not in WORDS}, rel=TOLERANCE
        )
    facts = read_json(undisturbed)
    assert facts["processes"] == 2 and facts["result"]["student"]["psnr_y"] == pytest.approx(one.student.psnr_y)


@pytest.mark.ci
def test_a_plan_of_runs_is_run_and_continued_by_all_processes(inputs, tmp_path):
    """Its runs come one after another; a finished one is not run again, and the others end in the same bytes."""
    plan = tmp_path / "plan"
    words = ("--width", "0.5", "--init", "inherit", "--then", "pams", *SMALL_SECOND)
    run_torchrun("-m", "srkd", *new_run(inputs, plan, steps=4), *words)
    facts = read_json(plan)
    runs = [plan / run["name"] for run in facts["trials"]["runs"]]
    assert len(runs) >= 2 and {read_json(run)["processes"] for run in runs} == {2}
    last = (runs[-1] / "student.safetensors").read_bytes()
    shutil.rmtree(runs[-1])
    change_run_file(plan, lambda contents: contents.pop("result"))
    out, _ = run_torchrun("-m", "srkd", "compress", "--resume", str(plan))
    assert out.count("(finished before)") == len(runs) - 1, "one process speaks"
    assert (runs[-1] / "student.safetensors").read_bytes() == last
    again = read_json(plan)
    assert again["result"]["student"] == facts["result"]["student"] and again["trials"] == facts["trials"]


@pytest.mark.ci
def test_the_processes_of_a_run_share_its_lock(inputs, tmp_path):
    run = tmp_path / "run"
    with lock_run(run, QUIET):
        _, err = run_torchrun("-m", "srkd", *new_run(inputs, run, steps=2), fails=True)
    assert err.count(f"process {os.getpid()} on ") == 1


@pytest.fixture(scope="module")
def both(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what two processes measure."""
    program, out = ROOT / "tests" / "support" / "distributed_run.py", tmp_path_factory.mktemp("both") / "results.json"
    run_torchrun(str(program), str(inputs / "photos"), str(out))
    return json.loads(out.read_text())


@pytest.mark.ci
def test_two_processes_are_one_with_every_method(both):
    alone = run_rows(Processes())
    for name, tolerance in {**{row.name: row.tolerance for row in ROWS}, GAME: 1e-3}.items():
        one, two = alone[name], both["rows"][name]
        assert two["replicas"] == 1, name
        for mine, other in zip(one["losses"], two["losses"], strict=True):
            assert other == pytest.approx(mine, rel=tolerance), name
        assert two["weights"] == pytest.approx(one["weights"], abs=2e-5), name
    assert "raw/adversarial" in alone[GAME]["losses"][-1]


@pytest.mark.ci
def test_terms_that_couple_a_batch_are_those_of_the_whole_batch(inputs, both):
    alone = measure(inputs / "photos", Processes())
    single, double = alone["trained"], both["trained"]
    assert double["batches"] == single["batches"] and len(set(single["batches"])) == 3
    assert double["replicas"] == 1
    assert single["losses"][-1]["raw/contrast"] < 0.97 * single["losses"][0]["raw/contrast"]
    for mine, other in zip(single["losses"], double["losses"], strict=True):
        assert other == pytest.approx(mine, rel=TOLERANCE)
    assert double["weights"] == pytest.approx(single["weights"], abs=2e-5)
    *grads, loss = alone["gradients"]
    assert grads[2] is None and grads[1] is not None
    for mine, other in zip([*grads, loss], both["gradients"], strict=True):
        assert other == (None if mine is None else pytest.approx(mine, rel=1e-5))
    assert alone["refusals"] == {"same": None, "other": None, "failed": None, "weights": None}
    messages = both["refusals"]
    assert messages["same"] is None and messages["failed"] == "rank 1 of 2: no photos here"
    assert messages["other"].startswith("rank 1 of 2, on ") and messages["other"].endswith(" has other data")
    assert "has other weights than rank 0 after step 0" in messages["weights"]


@pytest.mark.ci
def test_a_killed_process_ends_the_others_and_the_run_goes_on(inputs, undisturbed, tmp_path):
    run = tmp_path / "run"
    with torchrun("-m", "srkd", *new_run(inputs, run)) as process:
        in_training(process, run, lambda: workers(process)[1].kill())
        _, err = process.communicate(timeout=LOST)
        assert process.returncode == 1
    line = error_line(err)
    assert "another process was lost at step " in line and "rank 0 of 2 noticed" in line
    assert f"continue with: torchrun ... -m srkd compress --resume {run}" in line
    assert_continued(run, undisturbed)


def test_sigterm_does_not_replace_the_line_about_a_lost_process(monkeypatch):
    """torchrun sends SIGTERM as soon as it sees that a process has ended, often before the others can print why."""
    answer = RuntimeError("[/gloo/pair.cc:546] Connection closed by peer. More advice")
    monkeypatch.setattr(distributed, "ProcessGroup", GroupWithoutNetwork)
    monkeypatch.setattr(distributed.dist, "all_reduce", Mock(side_effect=answer))
    line = "before the first step .*Connection closed by peer"
    with pytest.raises(SrkdError, match=line), distributed.open_processes(Rank(0, 2)) as group:
        try:
            group.sum_(torch.zeros(1))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)


class GroupWithoutNetwork(distributed.ProcessGroup):
    def __init__(self, rank):
        Processes.__init__(self, rank)
        self.position, self.command = lambda: "before the first step", "start again"

    def close(self, *, success):
        pass


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_all_stop_at_the_same_step_when_asked(inputs, undisturbed, tmp_path, number):
    run = tmp_path / "run"
    with torchrun("-m", "srkd", *new_run(inputs, run)) as process:
        in_training(process, run, lambda: process.send_signal(number))
        _, err = process.communicate(timeout=LOST)
    line = error_line(err)
    assert "saved at step " in line and "torchrun ... -m srkd compress --resume" in line
    assert_continued(run, undisturbed)


@pytest.mark.ci
@pytest.mark.slow
def test_torchrun_that_begins_anew_continues_the_run(inputs, undisturbed, tmp_path):
    run = tmp_path / "run"
    with torchrun("-m", "srkd", *new_run(inputs, run), machine=(*TWO_PROCESSES, "--max-restarts", "1")) as process:
        in_training(process, run, lambda: workers(process)[1].kill())
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    assert f"started again by torchrun: continuing {run}" in out
    assert outcome(run) == outcome(undisturbed)


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.parametrize("gone", [0, 1])
def test_two_machines_of_which_one_goes_down(inputs, undisturbed, tmp_path, gone):
    """Two torchruns communicate over TCP; all processes on one of them are killed at once."""
    run = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = ("--master-addr", "127.0.0.1", "--master-port", str(free.getsockname()[1]))
    with ExitStack() as stack:
        machines = [
            stack.enter_context(
                torchrun("-m", "srkd", *new_run(inputs, run), machine=("--nnodes", "2", "--node-rank", rank, *meeting))
            )
            for rank in ("0", "1")
        ]

        def power_cut() -> None:
            for process in (psutil.Process(machines[gone].pid), *workers(machines[gone])):
                process.kill()

        in_training(machines[1 - gone], run, power_cut)
        _, err = machines[1 - gone].communicate(timeout=LOST)
    assert f"rank {1 - gone} of 2 noticed" in err
    assert_continued(run, undisturbed)


def test_a_batch_is_shared_evenly_or_refused():
    shares = [list(Rank(rank, 4).share(8)) for rank in range(4)]
    assert shares == [[0, 1], [2, 3], [4, 5], [6, 7]] and list(Rank().share(3)) == [0, 1, 2]
    with pytest.raises(UsageError, match=r"16 .* 3 processes: .*15 or 18"):
        Rank(0, 3).share(16)
    with pytest.raises(UsageError, match=r"--batch 8,"):
        Rank(0, 8).share(4)


def test_the_rank_comes_from_torchruns_environment():
    environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "2"}
    assert Rank.from_environment(environment) == Rank(5, 8, 1, 2) and not Rank.from_environment(environment).is_leader
    assert Rank.from_environment({}) == Rank() and Rank().is_leader
    with pytest.raises(UsageError, match="RANK='x'"):
        Rank.from_environment({**environment, "RANK": "x"})
    with pytest.raises(UsageError, match="RANK=8"):
        Rank.from_environment({**environment, "RANK": "8"})


def test_only_the_leader_writes(tmp_path):
    """The folder object of another process writes nothing, whichever method is called."""
    network = build(EDSRSpec(scale=2, width=4, depth=1))
    state = State.fresh(network, None, load_preset("scratch").stage([Scratch()]))
    arguments = {
        "log": ("line",),
        "metrics": ("train", 1, {"loss": 1.0}),
        "pictures": (1, {"photo": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}),
        "log_skip": (1, SkippedStep(("raw/pixel",), "not finite", 1.0, 1)),
        "flag": (1, "reason"),
        "write_facts": ({},),
        "save": (state,),
        "save_best": (network,),
        "drop_metrics_after": (1,),
    }
    reading = {"describe_safe_state", "report_unwritable", "flags", "tracking"}
    methods = {name for name, value in vars(RunFolder).items() if callable(value) and not name.startswith("_")}
    assert methods - reading == arguments.keys()
    folder = RunFolder(tmp_path / "run", writes=False, trackers=("tensorboard", "wandb"))
    with folder.tracking():
        for name, values in arguments.items():
            getattr(folder, name)(*values)
    assert list(tmp_path.iterdir()) == [] and folder.flags() == ()
