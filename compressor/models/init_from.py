"""A student that starts from another file's weights: of another scale, or an earlier student of another shape.

Not strict: what has the same name and shape is taken, the rest stays as it was made, and both are told. So DUKD starts
its ×4 students from those of ×2 (options/EDSR: the body and the first convolution of the upsampler are reused).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from compressor.base.errors import SrkdError, UsageError
from compressor.models.checkpoints.load import Loaded, load_checkpoint
from compressor.models.networks.base import Network

LIKENESS = ("img_range", "res_scale", "mean")
"""Fields of a spec that a weight relies on, and that no shape shows."""


@dataclass(frozen=True)
class Taken:
    """What came of one file: parameters of the student by name."""

    path: Path
    sha256: str
    architecture: str
    scale: int
    taken: tuple[str, ...]
    missing: tuple[str, ...]
    """Not in the file."""
    misshaped: tuple[str, ...]
    """In the file, with another shape."""
    unused: tuple[str, ...]
    """The file's, which the student has no place for."""
    unlike: tuple[str, ...] = ()
    """Fields of the spec that differ though weights rely on them."""

    def lines(self) -> tuple[str, ...]:
        """For a person: how much was taken, and what was not."""
        total = len(self.taken) + len(self.missing) + len(self.misshaped)
        said = [f"init-from {self.path} ({self.architecture} x{self.scale}): took {len(self.taken)} of {total} tensors"]
        for what, names in (("not in it", self.missing), ("of another shape", self.misshaped), ("unused", self.unused)):
            if names:
                said.append(f"init-from: {what}: {_first(names)}")
        said.extend(f"init-from: {difference}" for difference in self.unlike)
        return tuple(said)


def start_from(student: Network, path: str | Path) -> Taken:
    """Copy into `student` every parameter of the file's network that has its name and shape."""
    loaded = _load(Path(path), student.spec.scale)
    theirs = dict(loaded.network.named_parameters())
    own = dict(student.named_parameters())
    taken = tuple(name for name in own if name in theirs and theirs[name].shape == own[name].shape)
    if not taken:
        raise UsageError(
            f"--init-from {path}: it is a {loaded.network.spec.arch}, and none of its {len(theirs)} tensors has the "
            f"name and shape of one of the student's ({student.spec.arch})"
        )
    with torch.no_grad():
        for name in taken:
            own[name].copy_(theirs[name])
    return Taken(
        path=loaded.path,
        sha256=loaded.sha256,
        architecture=loaded.network.spec.arch,
        scale=loaded.network.spec.scale,
        taken=taken,
        missing=tuple(name for name in own if name not in theirs),
        misshaped=tuple(name for name in own if name in theirs and name not in set(taken)),
        unused=tuple(name for name in theirs if name not in own),
        unlike=_differences(student, loaded.network),
    )


def _load(path: Path, scale: int) -> Loaded:
    """The file's network: of the student's scale where it holds several, else of whatever scale it is."""
    try:
        return load_checkpoint(path, scale=scale)
    except SrkdError:
        return load_checkpoint(path)


def _differences(student: Network, other: Network) -> tuple[str, ...]:
    ours, theirs = student.spec.to_dict(), other.spec.to_dict()
    return tuple(
        f"{field} is {theirs[field]} in the file and {ours[field]} in the student"
        for field in LIKENESS
        if field in ours and field in theirs and ours[field] != theirs[field]
    )


def _first(names: tuple[str, ...], count: int = 4) -> str:
    shown = ", ".join(names[:count])
    return f"{shown}, … ({len(names)} in all)" if len(names) > count else shown
