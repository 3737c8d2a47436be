"""Rescaled milestones beside the schedule of a short run: `python -m benchmarks short_schedules`.

The published schedule, 1e-4 that falls to a tenth at two and four fifths, is rescaled to a few hundred steps, or
replaced as `--steps` does it. Students of half the embedded teacher's width, cut from it or (scratch) random, the
embedded photos, and for one seed the same batches. Y-PSNR on the embedded validation photos.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.evidence import Benchmark, Cell, Column, Row, Table, save
from compressor.base.choices import Init
from recipes.config.preset import Preset
from recipes.config.reading import load_preset
from srkd import compress
from srkd.record.result import CompressReport
from srkd.record.trials import Gain, Spread

BENCHMARK = Benchmark(
    "Does a short run need another schedule than rescaled milestones?",
    minutes=3,
    small=("--share", "0.01"),
)

STEPS: Mapping[str, int] = {"logits": 200, "scratch": 200, "dukd": 100}
STARTS: Mapping[str, Init] = {"scratch": "random"}
"""Starts of students by recipe; those of other recipes start from a slice of the teacher."""
SHAPE = ("schedule.batch=4", "schedule.lr_patch=24", "schedule.precision=fp32")
FIRST_SEED = 10
COLUMNS = (
    Column("recipe", "recipe"),
    Column("steps", "steps", ",d"),
    Column("rescaled", "rescaled milestones"),
    Column("short", "short schedule"),
    Column("gain", "gain"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the steps, to try the command")
    options = parser.parse_args()
    seeds, rows, bicubic = range(FIRST_SEED, FIRST_SEED + options.seeds), list[Row](), 0.0
    for recipe, full in STEPS.items():
        steps, scores = max(1, round(options.share * full)), dict[str, list[float]]()
        for name, schedule in schedules(recipe, steps).items():
            reports = [trained(recipe, schedule, seed) for seed in seeds]
            scores[name], bicubic = [report.student.psnr_y for report in reports], reports[0].bicubic.psnr_y
        rows.append(row(recipe, steps, scores))
        print(rows[-1], file=sys.stderr, flush=True)
    caption = (
        f"The embedded teacher and photos, students of half its width, 4 patches of 24×24, fp32, {options.seeds} "
        f"seed(s); Y-PSNR in dB on the validation photos, where bicubic has {bicubic:.2f}."
    )
    save("short_schedules", Table(COLUMNS, rows, caption), seeds=seeds)
    return 0


def schedules(recipe: str, steps: int) -> dict[str, tuple[str, ...]]:
    """Return the settings of the rescaled published schedule, and of the schedule that replaces it in a short run."""
    rescaled = load_preset(f"{recipe}-paper").with_steps(steps)
    return {"rescaled": _settings(rescaled), "short": _settings(rescaled.for_short_run())}


def _settings(preset: Preset) -> tuple[str, ...]:
    rule = preset.schedule
    # The steps are a setting too, because --steps would rescale the milestones again.
    keys = {"steps": rule.steps, "rate": rule.rate, "decay": rule.decay, "milestones": list(rule.milestones)}
    return tuple(f"schedule.{key}={value}" for key, value in {**keys, "factor": rule.factor}.items())


def trained(recipe: str, schedule: tuple[str, ...], seed: int) -> CompressReport:
    with tempfile.TemporaryDirectory() as folder:
        return compress(
            recipe=recipe,
            width=0.5,
            init=STARTS.get(recipe, "inherit"),
            seed=seed,
            settings=(*SHAPE, *schedule),
            out=Path(folder, "run"),
            announce=lambda line: None,
        )


def row(recipe: str, steps: int, scores: Mapping[str, list[float]]) -> Row:
    """Return the row of a recipe: the spread over seeds of both schedules, and the scores of each seed."""
    cells: dict[str, Cell] = {"recipe": recipe, "steps": steps}
    cells |= {name: str(Spread.of(values)) for name, values in scores.items()}
    cells["gain"] = Gain.between("rescaled", scores["short"], scores["rescaled"]).line().split(": ", 1)[1]
    for name, values in scores.items():
        cells |= {f"{name}, seed {seed}": value for seed, value in enumerate(values, FIRST_SEED)}
    return cells


if __name__ == "__main__":
    sys.exit(main())
