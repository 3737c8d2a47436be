"""The events of a run: metrics, progress, validation, checkpoints."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate

from compressor.base.choices import Goal
from compressor.base.context import Context
from compressor.base.interrupts import Interrupted
from compressor.data.batches import BatchHashes
from compressor.images.scores import GOAL_WORDS, Scores, both_goals
from compressor.models.networks.base import ImageModel
from compressor.training.guard import Balance, SkippedStep
from compressor.training.loop import Events
from compressor.training.losses import Losses
from compressor.training.pace import Pace
from compressor.training.run_folder import RunFolder
from compressor.training.stage import Stage
from compressor.training.state import State, require_equal_weights
from compressor.training.validation import Reference, Validation

STATUS_SECONDS = 0.5
"""Minimum interval of the status line, in seconds."""
SAVE_SECONDS = 60.0
"""Interval of saved states in seconds, the most work that a crash can cost besides the current step."""


class RunEvents(Events):
    """The listener that writes metrics.jsonl and log.txt, feeds trackers, validates, and saves states and students."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        stages: Sequence[Stage],
        validation: Validation,
        pictures: Sequence[int] = (),
        context: Context,
        done: int = 0,
        batch_hashes: BatchHashes | None = None,
    ) -> None:
        self.folder, self.stages, self.context = folder, stages, context
        self.ends = tuple(accumulate(stage.schedule.steps for stage in stages))
        self.steps = self.ends[-1]
        self.validation, self.batch_hashes = validation, batch_hashes
        self.pictures, self.has_shown_references = pictures, False
        self.log_every = max(1, min(100, self.steps // 100))
        self.saved_at = time.monotonic()
        self.pace, self.status_at = Pace(done, self.ends), -math.inf
        self.balance, self.flagged = Balance(), bool(folder.flags())

    def on_step(self, done: int, rate: float, losses: Losses) -> None:
        self.context.progress("training", done, self.steps)
        self._report_pace(done, losses)
        if not self._is_logged(done):
            return
        numbers = losses.numbers()
        hashes: Mapping[str, str] = {}
        if self.batch_hashes is not None:
            previous = next(step for step in range(done - 1, -1, -1) if step == 0 or self._is_logged(step))
            hashes = self.batch_hashes.take(previous, done)
        self.folder.metrics("train", done, {**numbers, "rate": rate}, hashes)
        stage_began = max(end for end in (0, *self.ends) if end < done)
        message = self.balance.add(done - stage_began, numbers)
        if message is not None and not self.flagged:  # once per run
            self.flagged = True
            self.folder.flag(done, message)
            self.context.note(f"step {done}/{self.steps}: {message}")

    def _report_pace(self, done: int, losses: Losses) -> None:
        self.pace.step(done)
        status, now = self.context.status, time.monotonic()
        if status is not None and now - self.status_at > STATUS_SECONDS:
            # Copy the loss from the device only for a status line.
            status(self.pace.line(float(losses.total.detach())), self.pace.seconds_left)
            self.status_at = now

    def _is_logged(self, done: int) -> bool:
        return done == 1 or done % self.log_every == 0 or done == self.steps

    def on_skip(self, done: int, skipped: SkippedStep) -> None:
        self.context.progress("training", done, self.steps)
        self.folder.log_skip(done, skipped)
        self.context.note(f"step {done}/{self.steps} skipped: {skipped.why}")

    def note(self, line: str) -> None:
        self.folder.log(line)
        self.context.note(line)

    def how_to_continue(self) -> str:
        """Return advice after a failure. Resuming repeats the same steps: it helps only against outside causes."""
        best = self.folder.best
        start = f" --init-from {shlex.quote(str(best))}" if best.is_file() else ""
        return (
            f"{self.folder.describe_safe_state()}; start anew with a lower rate (--rate X{start}) or, "
            f"if the images or the machine were at fault, continue with: {self.folder.resume_command}"
        )

    def after_step(self, done: int, state: State) -> None:
        validates = done % self.stages[state.stage].validate_every == 0 or done in self.ends
        if validates:
            self.validate(done, state)
        stops = self.context.processes.stop_request.must_stop
        if validates or stops or time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.folder.save(state)
            self.saved_at = time.monotonic()
        if stops and done < self.steps:
            raise Interrupted(
                f"interrupted and saved at step {done} of {self.steps}; continue with: {self.folder.resume_command}"
            )

    def validate(self, done: int, state: State) -> None:
        """Score the averaged student; save it if it is the best so far."""
        processes = self.context.processes
        require_equal_weights(state, processes)
        averaged, validation = state.averaged_network(), self.validation
        by_set = validation.score_sets(averaged)
        scores, reference = by_set[validation.name], validation.reference
        if state.role == "teacher":
            self.folder.metrics("validation", done, _numbers("tuned_teacher", scores))
            self.note(f"step {done}/{self.steps}: teacher being tuned {_decibels(scores, 'original')}")
            return
        numbers = _numbers("student", scores) | _numbers(reference.name, reference.bicubic)
        if reference.teacher is not None:
            numbers |= _numbers("teacher", reference.teacher)
        for name, others in by_set.items() if len(by_set) > 1 else ():
            numbers |= _numbers(f"{name}/student", others)
        self.folder.metrics("validation", done, numbers)
        self.note(f"step {done}/{self.steps}: {describe_scores(scores, reference, validation.goal)}")
        self._show_pictures(done, averaged)
        judged = validation.judge(scores)
        if self.stages[state.stage].is_later or judged > state.best_psnr_y:
            state.best_psnr_y = judged
            self.folder.save_best(averaged)

    def _show_pictures(self, done: int, student: ImageModel) -> None:
        """Give the trackers the student's images, and once those that it is compared with."""
        if not self.folder.takes_pictures:
            return
        for number in self.pictures:
            name, validation = self.validation.name_of(number), self.validation
            models: dict[str, ImageModel | None] = {"student": student}
            if not self.has_shown_references:
                models[validation.reference.name] = None
                if validation.teacher is not None:
                    models["teacher"] = validation.teacher
            shown = validation.pictures(number, models)
            if self.has_shown_references:
                shown.pop("original", None)
            self.folder.pictures(done, {f"{name}/{title}": sr_u8 for title, sr_u8 in shown.items()})
        self.has_shown_references = True


def _numbers(network: str, scores: Scores) -> dict[str, float]:
    return {f"{network}_{name}": value for name, value in asdict(scores).items() if value is not None}


def _decibels(scores: Scores, goal: Goal) -> str:
    psnr = scores.by(goal)
    return "-" if psnr is None else f"{psnr:.3f} dB"


def describe_scores(student: Scores, reference: Reference, goal: Goal) -> str:
    """The scores of a student beside the teacher's and those without a network: first what it is judged by."""
    bicubic, teacher = reference.bicubic, reference.teacher
    to_original = f"student {_decibels(student, 'original')}"
    if teacher is not None:
        to_original += f", teacher {_decibels(teacher, 'original')}"
    to_original += f", {reference.name} {_decibels(bicubic, 'original')}"
    if teacher is None:
        return to_original
    to_teacher = f"student {_decibels(student, 'teacher')}, {reference.name} {_decibels(bicubic, 'teacher')}"
    if student.psnr_y is None:
        return f"to the teacher: {to_teacher}"
    both: dict[Goal, str] = {"original": to_original, "teacher": to_teacher}
    return "; ".join(f"{GOAL_WORDS[name]}: {both[name]}" for name in both_goals(goal))
