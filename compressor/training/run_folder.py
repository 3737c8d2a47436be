"""A run folder: run.json, metrics.jsonl, TensorBoard events, log.txt, checkpoints/, student.safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.atomic import append, atomic_path, sync
from compressor.checkpoints.save import save_network
from compressor.errors import SrkdError, Unwritable
from compressor.networks.base import Network
from compressor.training.board import Board
from compressor.training.guard import Skipped
from compressor.training.saved_states import SavedStates
from compressor.training.state import State

FACTS, METRICS, LOG = "run.json", "metrics.jsonl", "log.txt"


class RunFolder:
    """Everything a run leaves behind. An existing run is never written over, only continued."""

    program = "srkd"

    def __init__(self, path: Path, *, resumed: bool = False, part_of: Path | None = None) -> None:
        if resumed:
            require_run(path)
        else:
            require_new(path)
        self.path, self._whole = path, part_of or path
        self.checkpoints = path / "checkpoints"
        self.states, self.best = SavedStates(self.checkpoints), self.checkpoints / "best.safetensors"
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SrkdError(f"cannot write --out {path}: {error.strerror}") from error
        self._board = Board(path)

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """run.json: what was asked, what it became, and at the end what came out."""
        write_facts(self.path, facts)

    def read_facts(self) -> dict[str, Any]:
        """run.json as it stands."""
        return read_facts(self.path)

    def keep(self, network: Network) -> None:
        """The best student so far."""
        save_network(network, self.best, metadata={})

    def save(self, state: State) -> None:
        """Save a state; the lines that tell of its steps are on the disk before it."""
        for name in (METRICS, LOG):
            if (self.path / name).is_file():
                sync(self.path / name)
        self.states.save(state)

    def safe(self) -> str:
        """What is not lost, for the line that ends a run."""
        newest = self.states.newest()
        return "no state was saved yet" if newest is None else f"the last good state is {newest}"

    @property
    def continuing(self) -> str:
        """The command that goes on with this run, or with the plan that it is part of."""
        return f"{self.program} compress --resume {self._whole}"

    @contextmanager
    def nothing_lost(self) -> Iterator[None]:
        """A file that cannot be written ends the run in a line that says what is safe and how to go on."""
        try:
            yield
        except Unwritable as error:
            way = f"{self.safe()}; once that is mended, continue with: {self.continuing}"
            if not (self.path / FACTS).is_file():
                way = f"the run had not begun: once that is mended, remove {self.path} and start it again"
            raise SrkdError(f"{error}; {way}") from error

    def forget_after(self, done: int) -> None:
        """Drop metrics of steps that will be run again, and a line that a crash cut short."""
        kept = []
        path = self.path / METRICS
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                if json.loads(line)["step"] <= done:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def metrics(
        self, kind: str, done: int, numbers: Mapping[str, float], words: Mapping[str, str] | None = None
    ) -> None:
        self._append(METRICS, json.dumps({"kind": kind, "step": done, **numbers, **(words or {})}))
        self._board.scalars(kind, done, numbers)

    def skipped(self, done: int, skipped: Skipped) -> None:
        """A step that changed nothing, in metrics.jsonl and log.txt."""
        loss = skipped.loss if math.isfinite(skipped.loss) else None
        facts = {"terms": skipped.terms, "why": skipped.why, "loss": loss, "in_a_row": skipped.in_a_row}
        self._append(METRICS, json.dumps({"kind": "skipped", "step": done, **facts}))
        self.log(f"step {done} skipped: {skipped.why}")

    def flag(self, done: int, why: str) -> None:
        """What whoever reads the run's result should know, in metrics.jsonl and log.txt."""
        self._append(METRICS, json.dumps({"kind": "flag", "step": done, "why": why}))
        self.log(f"step {done}: {why}")

    def flags(self) -> tuple[str, ...]:
        """What was flagged so far, also before the run was continued."""
        path = self.path / METRICS
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        rows = [json.loads(line) for line in lines if '"kind": "flag"' in line]
        return tuple(f"step {row['step']}: {row['why']}" for row in rows)

    def log(self, line: str) -> None:
        self._append(LOG, line)

    def _append(self, name: str, line: str) -> None:
        append(self.path / name, (line + "\n").encode())


def require_new(path: Path) -> None:
    """Refuse a folder that holds something."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SrkdError(f"--out {path} exists and is not empty: choose another folder or remove it")


def require_run(path: Path) -> None:
    """Refuse to continue what is no run folder."""
    if not (path / FACTS).is_file():
        raise SrkdError(f"--resume {path} is no run folder: it has no {FACTS}")


def write_facts(run: Path, facts: Mapping[str, Any]) -> None:
    """run.json of a folder, whole or not at all."""
    with atomic_path(run / FACTS) as temporary:
        temporary.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_facts(run: Path) -> dict[str, Any]:
    """run.json of a folder."""
    try:
        facts = json.loads((run / FACTS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise SrkdError(f"{run / FACTS} is damaged: {error}") from error
    if not isinstance(facts, dict):
        raise SrkdError(f"{run / FACTS} is damaged: it holds no object")
    return facts
