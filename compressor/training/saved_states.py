"""The last few states of a run, by the steps they were saved at.

What there is, the folder tells: nothing is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import SrkdError, Unwritable
from compressor.progress import Announce
from compressor.training.checkpoint_file import Damaged
from compressor.training.state import State

KEPT = 3


@dataclass(frozen=True)
class SavedStates:
    """checkpoints/state-00001000.pt and its like."""

    folder: Path
    kept: int = KEPT

    def paths(self) -> list[Path]:
        """The oldest first."""
        found = {path: re.fullmatch(r"state-(\d+)\.pt", path.name) for path in self.folder.glob("state-*.pt")}
        steps = {path: int(match[1]) for path, match in found.items() if match is not None}
        return sorted(steps, key=lambda path: steps[path])

    def newest(self) -> Path | None:
        return next(reversed(self.paths()), None)

    def save(self, state: State) -> Path:
        """Save, and only then let the oldest go."""
        path = self.folder / f"state-{state.done:08d}.pt"
        state.save(path)
        for old in self.paths()[: -self.kept]:
            try:
                old.unlink(missing_ok=True)
            except OSError as error:
                raise Unwritable(old, error) from error
        return path

    def take_up(self, load: Callable[[Path], None], announce: Announce) -> Path | None:
        """Load the newest state that can be read; None where none was ever saved. Damaged ones are put aside."""
        damaged: dict[Path, Damaged] = {}
        for path in reversed(self.paths()):
            try:
                load(path)
            except Damaged as error:
                damaged[path] = error
                continue
            for bad, why in damaged.items():
                # Under its own name it would count as one of the last few, and push a good one out.
                bad.replace(bad.with_suffix(".damaged"))
                announce(f"{why}; it is put aside, and {path.name} taken instead")
            return path
        if damaged:
            raise SrkdError(
                f"none of the {len(damaged)} saved states can be read ({'; '.join(map(str, damaged.values()))}): "
                "start a new run, with --init-from checkpoints/best.safetensors if that is there"
            )
        return None

    def sweep(self) -> None:
        """Remove what a save left behind when the process was killed in the middle of it."""
        for half in self.folder.glob(".*.*"):
            half.unlink(missing_ok=True)
