"""A run folder: run.json, metrics.jsonl, TensorBoard events, log.txt, checkpoints/, student.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from compressor.atomic import atomic_path
from compressor.errors import SrkdError


class RunFolder:
    """Everything a run leaves behind. An existing run is never written over."""

    def __init__(self, path: Path) -> None:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise SrkdError(f"--out {path} exists and is not empty: choose another folder or remove it")
        self.path = path
        self.checkpoints = path / "checkpoints"
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SrkdError(f"cannot write --out {path}: {error.strerror}") from error
        self._board = SummaryWriter(str(path), flush_secs=30)

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """run.json: what was asked, what it became, and at the end what came out."""
        with atomic_path(self.path / "run.json") as temporary:
            temporary.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")

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
