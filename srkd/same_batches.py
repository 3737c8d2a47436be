"""Evidence that runs of one seed were trained on the same batches: the hashes in their metrics, row by row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.base.errors import SrkdError

HASHES = ("batches", "first_pixels")


@dataclass(frozen=True)
class SameBatches:
    """What the runs of one seed share: `digest` is over the hashes of `rows` rows of metrics, up to `steps`."""

    seed: int
    digest: str
    rows: int
    steps: int
    runs: tuple[str, ...]


def compare_batches(seed: int, runs: Sequence[Path]) -> SameBatches:
    """The hashes that all runs have, which must be equal; a difference is an error, since a gain would mean nothing.

    A row that one run lacks, because a machine went down before it was on disk, is not compared.
    """
    told = {run.name: batch_hashes(run) for run in runs}
    (first, hashes), *others = told.items()
    shared = sorted(set(hashes).intersection(*(other for _, other in others)))
    for key in shared:
        for name, other in others:
            if other[key] != hashes[key]:
                step, what = key
                raise SrkdError(
                    f"{first} and {name} did not see the same batches up to step {step} "
                    f"({what} {hashes[key]} and {other[key]}): their difference would not be the recipe's"
                )
    if not shared:
        raise SrkdError(f"{', '.join(told)}: no metrics.jsonl row has hashes of batches to compare")
    whole = hashlib.blake2b("".join(hashes[key] for key in shared).encode(), digest_size=16).hexdigest()
    return SameBatches(seed, whole, len({step for step, _ in shared}), shared[-1][0], tuple(told))


def batch_hashes(run: Path) -> Mapping[tuple[int, str], str]:
    """Hashes of a run's metrics by step and kind."""
    found: dict[tuple[int, str], str] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found.update({(row["step"], name): row[name] for name in HASHES if name in row})
    return found
