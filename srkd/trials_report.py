"""What a plan of runs came to: a row a variant, gains over the baselines, and the evidence beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srkd.gains import Gain, Spread
from srkd.same_batches import SameBatches


@dataclass(frozen=True)
class Outcome:
    """What one trial came to: Y-PSNR in dB on the validation images."""

    run: str
    variant: str
    seed: int
    psnr_y: float
    seconds: float

    @classmethod
    def of(cls, run: str, variant: str, facts: Mapping[str, Any]) -> Outcome:
        """From the run.json of a finished run."""
        result = facts["result"]
        return cls(run, variant, int(facts["seed"]), result["student"]["psnr_y"], result["seconds"])


@dataclass(frozen=True)
class Row:
    """A recipe or a baseline over its seeds."""

    name: str
    psnr_y: tuple[float, ...]
    mean: float
    sd: float | None

    @property
    def spread(self) -> Spread:
        return Spread(self.mean, self.sd)


@dataclass(frozen=True)
class TrialsReport:
    """Rows (the recipe first), what the recipe gains over each baseline, and that the batches were the same."""

    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    gains: tuple[Gain, ...]
    chosen: Outcome
    runs: tuple[Outcome, ...]
    batches: tuple[SameBatches, ...]

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], batches: Sequence[SameBatches]) -> TrialsReport:
        """Outcomes in the order of the plan: seed by seed, the recipe first."""
        figures: dict[str, list[float]] = {}
        for outcome in outcomes:
            figures.setdefault(outcome.variant, []).append(outcome.psnr_y)
        rows = tuple(_row(name, values) for name, values in figures.items())
        own = rows[0]
        return cls(
            seeds=tuple(dict.fromkeys(outcome.seed for outcome in outcomes)),
            rows=rows,
            gains=tuple(Gain.between(row.name, own.psnr_y, row.psnr_y) for row in rows[1:]),
            chosen=max((o for o in outcomes if o.variant == own.name), key=lambda outcome: outcome.psnr_y),
            runs=tuple(outcomes),
            batches=tuple(batches),
        )

    def lines(self) -> tuple[str, ...]:
        """For a person, below the table."""
        return (*(gain.line() for gain in self.gains), *self._about_the_file())

    def _about_the_file(self) -> tuple[str, ...]:
        if len(self.seeds) == 1:
            return ()
        best = f"{self.chosen.psnr_y:.3f} dB, seed {self.chosen.seed}"
        return (
            f"student.safetensors is the best of {len(self.seeds)} seeds by validation ({best}); "
            "the table has mean ± sd over them",
        )


def _row(name: str, values: Sequence[float]) -> Row:
    spread = Spread.of(values)
    return Row(name, tuple(values), spread.mean, spread.sd)
