"""A recipe and its baselines over several seeds: one plan of runs that can die anywhere and be continued.

The folder of a plan holds run.json, a run folder for each trial, and the recipe's best student by validation.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compressor.base.context import Note, Progress, no_note
from compressor.base.errors import SrkdError
from compressor.base.files import atomic_path
from compressor.base.machine import facts as machine_facts
from compressor.base.processes import Interrupted, Interruption, interruption
from compressor.models.cost import Cost
from compressor.training.events import Reference
from compressor.training.run_folder import FACTS, read_facts, write_facts
from srkd.baselines import Variant, require_comparable, variants
from srkd.console import json_value
from srkd.phi_choice import phi_of
from srkd.same_batches import SameBatches, compare_batches
from srkd.training_run import JOINT_TEACHER, CompressReport, Quality
from srkd.trials_report import Outcome, TrialsReport

if TYPE_CHECKING:
    from srkd.compression import Decided
    from srkd.request import Request

TOP_FILES = ("student.safetensors", "comparison.png", JOINT_TEACHER)
"""Of the chosen trial, what there is of them, copied to the top, where every verb that takes a run folder looks."""


class Decide(Protocol):
    """How a request becomes a student and batches; `shared` lends its teacher, images and pace."""

    def __call__(
        self, request: Request, progress: Progress, announce: Note, *, shared: Decided | None = None
    ) -> Decided: ...


class Single(Protocol):
    """How one run is begun or, where its folder has a run.json, continued."""

    def __call__(self, request: Request, run: Path, decided: Decided, progress: Progress, announce: Note) -> object: ...


@dataclass(frozen=True)
class Hands:
    """What does the work of a single run, and who hears of it."""

    decide: Decide
    single: Single
    progress: Progress
    announce: Note


@dataclass(frozen=True)
class TrialOptions:
    """What the user wants beside the run itself."""

    with_baseline: bool = False
    seeds: int = 1

    @property
    def several(self) -> bool:
        return self.with_baseline or self.seeds > 1


@dataclass(frozen=True)
class Trial:
    """One run of the plan."""

    variant: Variant
    request: Request

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.variant.name}-seed{self.request.seed}"


@dataclass(frozen=True)
class Trials:
    """A plan, begun or not."""

    out: Path
    request: Request
    wish: TrialOptions
    own: Decided
    plan: tuple[Trial, ...]
    hands: Hands

    @classmethod
    def of(cls, out: Path, request: Request, wish: TrialOptions, own: Decided, hands: Hands) -> Trials:
        rows = variants(request, own, wish.with_baseline, hands.announce)
        # Seed by seed, so that a plan that is stopped early has pairs to compare.
        seeds = range(request.seed, request.seed + wish.seeds)
        plan = [Trial(row, dataclasses.replace(row.request, seed=seed)) for seed in seeds for row in rows]
        return cls(out, request, wish, own, tuple(plan), hands)

    def go(self) -> CompressReport:
        """Run what has not been run yet; the report is made of what the run folders say."""
        write_facts(self.out, self._facts())
        results: list[dict[str, Any]] = []
        batches: dict[int, SameBatches] = {}
        with interruption() as wish:
            for number, trial in enumerate(self.plan, start=1):
                place = f"run {number} of {len(self.plan)}"
                self._complete(trial, place, results)
                results.append(read_facts(self.out / trial.name))
                seed = trial.request.seed
                peers = [self.out / peer.name for peer in self.plan[:number] if peer.request.seed == seed]
                batches[seed] = compare_batches(seed, peers)
                if number < len(self.plan):
                    self._stop_if(wish, f"interrupted after {place}")
        return self._finish(results, tuple(batches.values()))

    def _complete(self, trial: Trial, place: str, results: list[dict[str, Any]]) -> None:
        """Begin a trial, continue it, or leave it when it is finished."""
        title = f"{place}: {trial.variant.name}, seed {trial.request.seed}"
        before = self._left_by(trial)
        if before is not None and "result" in before:
            self._require_same_ground(before, trial)
            self.hands.announce(f"{title} (finished before)")
            return
        self.hands.announce(title)
        decided = self.hands.decide(trial.request, self.hands.progress, no_note, shared=self.own)
        require_comparable(trial.variant, decided, self.own)
        if results:
            decided = decided._replace(reference=_reference(results[0]["result"]))
        try:
            self.hands.single(trial.request, self.out / trial.name, decided, self._counted(place), self.hands.announce)
        except Interrupted as error:
            raise Interrupted(f"{place}: {error}") from error

    def _counted(self, place: str) -> Progress:
        def progress(title: str, done: int, total: int) -> None:
            self.hands.progress(f"{place}: {title}", done, total)

        return progress

    def _stop_if(self, wish: Interruption, told: str) -> None:
        if wish.asked:
            raise Interrupted(f"{told}; continue with: srkd compress --resume {self.out}")

    def _left_by(self, trial: Trial) -> dict[str, Any] | None:
        """What an earlier process left of a trial; a folder it had only begun to make is made anew."""
        folder = self.out / trial.name
        if (folder / FACTS).is_file():
            return read_facts(folder)
        if folder.is_dir():
            shutil.rmtree(folder)
        return None

    def _require_same_ground(self, before: Mapping[str, Any], trial: Trial) -> None:
        """A finished trial counts only beside others of the same images and teacher."""
        origin = None if self.own.teacher is None else self.own.teacher.origin
        now = {"data": self.own.data.train.digest(), "teacher": None if origin is None else origin.sha256}
        then = {"data": before["data"]["digest"], "teacher": (before["teacher"] or {}).get("sha256")}
        for key, value in now.items():
            if value != then[key]:
                raise SrkdError(
                    f"--resume {self.out}: its {key} is not what it was when {trial.name} ran "
                    "(run.json has it); put it back, or start a new run"
                )

    def _facts(self) -> dict[str, Any]:
        """run.json of the plan: what `--resume` needs."""
        return {
            "schema": "srkd.compress/1",
            "machine": machine_facts(),
            "request": dataclasses.asdict(self.request),
            "pace": self.own.pace.facts(),
            "phi": json_value(phi_of(self.own.methods)),
            "trials": {**dataclasses.asdict(self.wish), "runs": [trial.name for trial in self.plan]},
        }

    def _finish(self, results: list[dict[str, Any]], batches: tuple[SameBatches, ...]) -> CompressReport:
        """The chosen student to the top, and run.json with its facts, so that the folder is one like any other."""
        named = zip(self.plan, results, strict=True)
        outcomes = [Outcome.of(trial.name, trial.variant.name, facts) for trial, facts in named]
        trials = TrialsReport.of(outcomes, batches)
        facts = results[outcomes.index(trials.chosen)]
        for name in filter(lambda name: (self.out / trials.chosen.run / name).is_file(), TOP_FILES):
            with atomic_path(self.out / name) as temporary:
                shutil.copyfile(self.out / trials.chosen.run / name, temporary)
        report = self._report(facts["result"], trials)
        write_facts(self.out, {**facts, **self._facts(), "result": json_value(report)})
        return report

    def _report(self, told: Mapping[str, Any], trials: TrialsReport) -> CompressReport:
        return CompressReport(
            run=self.out,
            student_path=self.out / TOP_FILES[0],
            recipe=told["recipe"],
            steps=told["steps"],
            seconds=sum(outcome.seconds for outcome in trials.runs),
            protocol=told["protocol"],
            images_used=told["images_used"],
            images_skipped=told["images_skipped"],
            student=_quality(told["student"]),
            teacher=None if told["teacher"] is None else _quality(told["teacher"]),
            bicubic=_quality(told["bicubic"]),
            phi=told["phi"],
            flags=tuple(told["flags"]),
            teacher_joint=None if told["teacher_joint"] is None else _quality(told["teacher_joint"]),
            trials=trials,
        )


def trial_options_of(facts: Mapping[str, Any]) -> TrialOptions:
    """What a run.json says was wanted; a single run's says nothing of it."""
    told = facts.get("trials")
    return TrialOptions() if told is None else TrialOptions(bool(told["with_baseline"]), int(told["seeds"]))


def _reference(told: Mapping[str, Any]) -> Reference:
    """Bicubic and teacher as the first trial measured them: the same for all."""
    teacher = told["teacher"]
    return Reference(told["bicubic"]["psnr_y"], None if teacher is None else teacher["psnr_y"])


def _quality(told: Mapping[str, Any]) -> Quality:
    cost: Mapping[str, Any] | None = told["cost"]
    return Quality(told["psnr_y"], None if cost is None else Cost(**{**cost, "lr_size": tuple(cost["lr_size"])}))
