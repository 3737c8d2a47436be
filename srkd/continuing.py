"""Run folders as a command finds them: new, begun, finished; written by one process of several."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.base.errors import SrkdError
from compressor.base.processes import Processes
from compressor.training.run_folder import NullRunFolder, RunFolder, read_facts, require_new, require_run
from compressor.training.speed import ExecutionMode
from srkd.training_run import SAME


def run_folder(path: Path, group: Processes, *, resumed: bool = False) -> RunFolder:
    """The folder that the leading process writes; the others write nothing."""
    folder = group.run_on_all(lambda: RunFolder(path, resumed=resumed) if group.leads else NullRunFolder(path))
    if not group.alone:
        folder.program = "torchrun ... -m srkd"
    return folder


def require_new_folder(path: Path, group: Processes) -> None:
    """Refuse a folder that holds something, where it would be written."""
    group.run_on_all(lambda: require_new(path) if group.leads else None)


def unfinished(run: Path, group: Processes) -> dict[str, Any]:
    """run.json of a run that can be continued; only the leading process need see it."""

    def read() -> dict[str, Any] | None:
        if not group.leads:
            return None
        require_run(run)
        facts = read_facts(run)
        if "result" in facts:
            raise SrkdError(f"--resume {run}: the run is finished; its student is {run / 'student.safetensors'}")
        return facts

    return group.from_leader(group.run_on_all(read))


def begun_anew(group: Processes, out: Path, request: Mapping[str, Any]) -> bool:
    """Whether torchrun has started the processes again and `out` holds the run that was asked for."""
    restarted = max(group.gathered(group.place.restarts)) > 0
    return restarted and group.from_leader(_holds(out, request))


def _holds(out: Path, request: Mapping[str, Any]) -> bool:
    try:
        return bool(read_facts(out)["request"] == json.loads(json.dumps(request)))
    except (OSError, SrkdError, KeyError):
        return False


def pace_of(facts: Mapping[str, Any]) -> ExecutionMode:
    """What a run chose when it began: another choice would not continue to the same bits."""
    try:
        return ExecutionMode(**facts["pace"])
    except (KeyError, TypeError) as error:
        raise SrkdError(f"run.json does not say at which pace the run trained ({error})") from error


def require_same(before: Mapping[str, Any], now: Mapping[str, Any], run: str | Path) -> None:
    """A resumed run must see what the run saw: the same recipe, teacher, student and images."""
    for key in SAME:
        if json.loads(json.dumps(now[key])) != before.get(key):
            raise SrkdError(
                f"--resume {run}: its {key} is not what it was when the run began (run.json has it); "
                "put it back, or start a new run"
            )
