"""The run folder for the processes that do not write it: the leading one does, perhaps on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.networks.base import Network
from compressor.training.guard import Skipped
from compressor.training.run_folder import RunFolder
from compressor.training.saved_states import SavedStates
from compressor.training.state import State


class NoStates(SavedStates):
    """There may be some here, on a disk that machines share: they are the leading process's to read and remove."""

    def paths(self) -> list[Path]:
        return []

    def sweep(self) -> None:
        pass


class FolderElsewhere(RunFolder):
    """Has a run folder's names and writes nothing, so that every process runs the same code."""

    def __init__(self, path: Path) -> None:
        self.path, self._whole, self.checkpoints = path, path, path / "checkpoints"
        self.states, self.best = NoStates(self.checkpoints), self.checkpoints / "best.safetensors"

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        pass

    def keep(self, network: Network) -> None:
        pass

    def save(self, state: State) -> None:
        pass

    def forget_after(self, done: int) -> None:
        pass

    def metrics(
        self, kind: str, done: int, numbers: Mapping[str, float], words: Mapping[str, str] | None = None
    ) -> None:
        pass

    def skipped(self, done: int, skipped: Skipped) -> None:
        pass

    def flag(self, done: int, why: str) -> None:
        pass

    def flags(self) -> tuple[str, ...]:
        return ()

    def log(self, line: str) -> None:
        pass
