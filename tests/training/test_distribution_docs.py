"""The commands of docs/use/many-gpus.md are valid for torchrun's parser and srkd's; the scripts run with stand-ins."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from srkd.cli.verbs.compress import command
from tests.support.commands import ROOT

pytestmark = pytest.mark.ci

PAGE = (ROOT / "docs" / "use" / "many-gpus.md").read_text(encoding="utf-8")


def scripts(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Return a folder of stand-ins: a recording torchrun, a local ssh, and commands of Slurm."""
    programs = {
        # One write a call: the calls of two machines come at the same time, and their lines must not mix.
        "torchrun": f'line=$(printf "%q " "$@"); printf "%s\\n" "$line" >> {tmp_path}/calls',
        "ssh": 'shift; exec bash -c "$*"',
        "srun": 'exec "$@"',
        "scontrol": 'printf "node7\\nnode8\\n"',
    }
    (tmp_path / "bin").mkdir()
    for name, body in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "distil").mkdir()
    return tmp_path


def calls(script: str, desk: Path) -> list[list[str]]:
    """Return the arguments of each torchrun call of a script; torchrun's parser and srkd's both read them."""
    from torch.distributed.run import parse_args

    slurm = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "41"}
    environment = {**os.environ, **slurm, "PATH": os.pathsep.join([str(desk / "bin"), os.environ["PATH"]])}
    (desk / "calls").unlink(missing_ok=True)
    done = subprocess.run(["bash", "-e", "-c", script], cwd=desk, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = [shlex.split(line) for line in (desk / "calls").read_text().splitlines()]
    for words in commands:
        options = parse_args(words)
        assert options.module and options.training_script == "srkd" and options.training_script_args[0] == "compress"
        command.make_context("compress", options.training_script_args[1:])
    return commands


def test_one_machine_and_ssh(desk: Path) -> None:
    one, threads, ssh, again = (calls(script, desk) for script in scripts("sh") if "torchrun" in script)
    assert len(one) == len(threads) == len(again) == 1
    assert again[0][-2:] == ["--resume", "runs/edsr"]
    assert sorted(words[words.index("--node-rank") + 1] for words in ssh) == ["0", "1"]
    assert len({tuple(words[4:]) for words in ssh}) == 1, "but for its rank each machine is told the same"


def test_the_slurm_script_begins_and_then_continues(desk: Path) -> None:
    (script,) = scripts("slurm")
    (command,) = calls(script, desk)
    assert command[-2:] == ["--out", "runs/edsr"] and "node7:29500" in command
    (desk / "runs" / "edsr").mkdir(parents=True)
    (desk / "runs" / "edsr" / "run.json").write_text("{}")
    (continued,) = calls(script, desk)
    assert continued[-2:] == ["--resume", "runs/edsr"]
