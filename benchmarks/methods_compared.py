"""Every method from the same teacher at the same budget: `python -m benchmarks.methods_compared --data BENCHMARKS`.

BENCHMARKS holds Set5/, Set14/ and B100/ (HR/ and LRbicX4/ in each). The teacher is the embedded EDSR 16/48, the student
EDSR 16/24, cut from it for every method but scratch; all have the same schedule and, for one seed, the same batches.
Every finished run is kept: the command can be stopped and repeated, and `--methods` adds to what is there. Published
deltas stand beside ours as context: other data, other networks, hundreds of times the budget.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import srkd
from compressor.atomic import atomic_path
from compressor.machine import cpu_model
from recipes.catalogue import catalogue
from srkd.compression import compress, resume
from srkd.gains import Gain, Spread

SETS = ("Set5", "Set14", "B100")
SETTINGS = ("batch=8", "lr_patch=24", "rate=1e-3", "decay=cosine", "precision=bf16")
WIDTH = 0.5
"""Narrower and not shorter, because joint training takes no shorter student."""
OPTIONS: Mapping[str, tuple[str, ...]] = dict.fromkeys(("csd", "csd-lite", "clsd"), ("phi=teacher",))
FIRST = ("scratch", "inherit", "logits")


@dataclass(frozen=True)
class Published:
    """Gain over the table's own scratch row, ×4, in dB on Set5, Set14 and B100."""

    gains: tuple[float, float, float]
    source: str


PUBLISHED: Mapping[str, Published] = {
    "logits": Published((0.01, 0.02, 0.00), "DUKD, table 2, EDSR 32/64"),
    "dukd": Published((0.18, 0.12, 0.07), "DUKD, table 2, EDSR 32/64"),
    "fakd": Published((0.036, 0.021, 0.019), "CLSD's table, EDSR 16/64"),
    "lfd": Published((0.005, -0.002, 0.014), "CLSD's table, EDSR 16/64"),
    "ds": Published((0.010, 0.019, 0.011), "CLSD's table, EDSR 16/64"),
    "clsd": Published((-0.003, 0.030, 0.022), "CLSD's table, EDSR 16/64"),
    "csd": Published((0.11, 0.09, 0.08), "CSD, table 1, EDSR+ at width 0.25"),
}


@dataclass(frozen=True)
class Budget:
    """What every run has alike."""

    train: Path | None
    steps: int
    out: Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with Set5, Set14 and B100")
    parser.add_argument("--train", type=Path, help="photographs to train on; none: the embedded ones")
    parser.add_argument("--methods", default=",".join(all_methods()), help="names separated by commas; none: all")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/methods-compared"))
    parser.add_argument("--to", type=Path, help="a Markdown file to write the table to")
    options = parser.parse_args()
    budget, names = Budget(options.train, options.steps, options.out), tuple(options.methods.split(","))
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    # Seed by seed, so that a command that is stopped early has compared every method.
    for seed in range(10, 10 + options.seeds):
        for name in names:
            folder = trained(name, seed, budget)
            scores[name].append(scored(folder, options.data))
    text = "\n".join([*heading(options.out / f"{names[0]}-seed10"), "", *table(scores), "", *ranking(scores)])
    print(text)
    if options.to is not None:
        with atomic_path(options.to) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    return 0


def all_methods() -> tuple[str, ...]:
    """The recipes of srkd that are no published schedules, the baselines first."""
    ours = [name for name, preset in catalogue().presets.items() if preset.package == "srkd" and "-paper" not in name]
    return (*FIRST, *sorted(name for name in ours if name not in FIRST))


def trained(name: str, seed: int, budget: Budget) -> Path:
    """The run folder of a method and seed, trained or taken up where it stopped."""
    folder = budget.out / f"{name}-seed{seed}"
    if (folder / "run.json").is_file():
        if "result" not in json.loads((folder / "run.json").read_text(encoding="utf-8")):
            resume(folder, announce=_say)
        return folder
    _say(f"{name}, seed {seed}")
    compress(
        recipe=name,
        data=budget.train,
        width=WIDTH,
        init="random" if name == "scratch" else "inherit",
        steps=budget.steps,
        seed=seed,
        settings=(*(f"schedule.{setting}" for setting in SETTINGS), *OPTIONS.get(name, ())),
        out=folder,
        announce=_say,
    )
    return folder


def scored(folder: Path, data: Path) -> dict[str, float]:
    """Y-PSNR by set, evaluated once."""
    kept = folder / "benchmarks.json"
    if kept.is_file():
        found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    psnr = {name: srkd.evaluate([folder], data=data / name).models[folder.name][name].psnr_y for name in SETS}
    with atomic_path(kept) as temporary:
        temporary.write_text(json.dumps(psnr), encoding="utf-8")
    return psnr


def heading(folder: Path) -> list[str]:
    told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    rule, student = told["preset"]["schedule"], told["student"]
    return [
        f"Teacher: the embedded EDSR; student EDSR {student['depth']}/{student['width']}, ×{student['scale']}; "
        f"{rule['steps']:,} steps of {rule['batch']} patches of {rule['lr_patch']}×{rule['lr_patch']}, rate "
        f"{rule['rate']:g} falling by a cosine, {rule['precision']}, trained on {told['data']['origin']}; "
        f"{cpu_model()}, {told['machine']['torch_threads']} thread(s), torch {told['machine']['torch']}. "
        "Y-PSNR in dB, mean ± sd."
    ]


def table(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """A row a method: our figures, our gain over scratch, and the published one."""
    rows = [("", *SETS, "gain over scratch", "published"), ("---",) * (3 + len(SETS))]
    for name, runs in scores.items():
        cells = [str(Spread.of([run[one] for run in runs])) for one in SETS]
        gain = "" if name == "scratch" or "scratch" not in scores else _over_scratch(runs, scores["scratch"])
        published = PUBLISHED.get(name)
        told = "" if published is None else f"{_mean(published.gains):+.3f} ({published.source})"
        rows.append((name, *cells, gain, told))
    return ["| " + " | ".join(row) + " |" for row in rows]


def _over_scratch(runs: Sequence[Mapping[str, float]], scratch: Sequence[Mapping[str, float]]) -> str:
    """Mean over the sets, by seed."""
    ours, theirs = ([_mean([run[one] for one in SETS]) for run in each] for each in (runs, scratch))
    return Gain.between("scratch", ours, theirs).line().removeprefix("gain over scratch: ")


def ranking(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Pairs of methods whose published order is not ours."""
    lines = []
    for first, second in combinations([name for name in scores if name in PUBLISHED], 2):
        better, worse = sorted((first, second), key=lambda name: -_mean(PUBLISHED[name].gains))
        ours, theirs = ([_mean([run[one] for one in SETS]) for run in scores[name]] for name in (better, worse))
        if _mean(ours) < _mean(theirs):
            gain = Gain.between(better, theirs, ours).line()
            lines.append(f"- published {better} above {worse}; here {worse}: {gain}")
    return (
        ["Where our order is another than the published one:", *lines] if lines else ["Our order is the published one."]
    )


def _mean(figures: Sequence[float]) -> float:
    return statistics.fmean(figures)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
