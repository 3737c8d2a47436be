"""The report on a student whose weights were copied from another file. Imports no torch, as run.json holds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class InitReport:
    """The report on an initialisation, with the student's parameters by name."""

    path: Path
    sha256: str
    architecture: str
    scale: int
    copied: tuple[str, ...]
    missing: tuple[str, ...]
    """Parameters that are not in the file."""
    misshaped: tuple[str, ...]
    """Parameters that have another shape in the file."""
    unused: tuple[str, ...]
    """Parameters of the file that the student does not have."""
    differences: tuple[str, ...] = ()
    """Lines about spec fields that differ although the weights depend on them."""

    def lines(self) -> tuple[str, ...]:
        """Return lines for the user: what was copied, and what was not."""
        total = len(self.copied) + len(self.missing) + len(self.misshaped)
        lines = [
            f"init-from {self.path} ({self.architecture} x{self.scale}): took {len(self.copied)} of {total} tensors"
        ]
        for what, names in (("not in it", self.missing), ("of another shape", self.misshaped), ("unused", self.unused)):
            if names:
                more = f", … ({len(names)} in all)" if len(names) > 4 else ""
                lines.append(f"init-from: {what}: {', '.join(names[:4])}{more}")
        lines.extend(f"init-from: {difference}" for difference in self.differences)
        return tuple(lines)
