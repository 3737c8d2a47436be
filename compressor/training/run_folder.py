"""A run folder: run.json, metrics.jsonl, TensorBoard events, log.txt, checkpoints/, student.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from compressor.atomic import atomic_path
from compressor.errors import SrkdError

FACTS = "run.json"


class RunFolder:
    """Everything a run leaves behind. An existing run is never written over, only continued."""

    def __init__(self, path: Path, *, resumed: bool = False) -> None:
        if not resumed and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise SrkdError(f"--out {path} exists and is not empty: choose another folder or remove it")
        if resumed and not (path / FACTS).is_file():
            raise SrkdError(f"--resume {path} is no run folder: it has no {FACTS}")
        self.path = path
        self.checkpoints = path / "checkpoints"
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SrkdError(f"cannot write --out {path}: {error.strerror}") from error
        self._board = SummaryWriter(str(path), flush_secs=30)

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """run.json: what was asked, what it became, and at the end what came out."""
        with atomic_path(self.path / FACTS) as temporary:
            temporary.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def read_facts(self) -> dict[str, Any]:
        """run.json as it stands."""
        try:
            facts = json.loads((self.path / FACTS).read_text(encoding="utf-8"))
        except ValueError as error:
            raise SrkdError(f"{self.path / FACTS} is damaged: {error}") from error
        if not isinstance(facts, dict):
            raise SrkdError(f"{self.path / FACTS} is damaged: it holds no object")
        return facts

    @property
    def last_state(self) -> Path:
        """Where the newest state is saved."""
        return self.checkpoints / "last.pt"

    def forget_after(self, done: int) -> None:
        """Drop metrics of steps that will be run again, and a line that a crash cut short."""
        kept = []
        path = self.path / "metrics.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                if json.loads(line)["step"] <= done:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def metrics(self, kind: str, done: int, numbers: Mapping[str, float]) -> None:
        self._append("metrics.jsonl", json.dumps({"kind": kind, "step": done, **numbers}))
        for name, value in numbers.items():
            self._board.add_scalar(f"{kind}/{name}", value, done)

    def log(self, line: str) -> None:
        self._append("log.txt", line)

    def _append(self, name: str, line: str) -> None:
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def close(self) -> None:
        self._board.close()
