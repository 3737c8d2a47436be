"""The events of a run: metrics, progress, validation, checkpoints.

Student, teacher and bicubic are scored on the same few images, by the same protocol as all other scores.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

import torch

from compressor.base.context import Context
from compressor.base.interrupts import Interrupted
from compressor.base.processes import Processes
from compressor.data.batches import BatchHashes
from compressor.data.prepare import ValidationImage
from compressor.images.metrics import psnr_y, to_u8
from compressor.images.resize import upscale_bicubic
from compressor.models.networks.base import ImageModel
from compressor.training.guard import Balance, SkippedStep
from compressor.training.losses import Losses
from compressor.training.pace import Pace
from compressor.training.run_folder import RunFolder
from compressor.training.stage import Stage
from compressor.training.state import State, require_equal_weights

STATUS_SECONDS = 0.5
"""Minimum interval of the status line, in seconds."""
SAVE_SECONDS = 60.0
"""Interval of saved states in seconds, the most work that a crash can cost besides the current step."""

Advise: TypeAlias = Callable[[float, int], str | None]
"""Called as advise(seconds per step, steps left) once a long run's speed is known; returns a line or None."""


@dataclass(frozen=True)
class Reference:
    """Reference scores for the student, in dB on the validation images."""

    bicubic: float
    teacher: float | None

    def line(self) -> str:
        teacher = "" if self.teacher is None else f"teacher {self.teacher:.3f} dB, "
        return f"{teacher}bicubic {self.bicubic:.3f} dB"


class RunEvents:
    """The listener that writes metrics.jsonl and log.txt, feeds trackers, validates, and saves states and students."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        stages: Sequence[Stage],
        images: Sequence[ValidationImage],
        reference: Reference,
        context: Context,
        pace: Pace | None = None,
        advise: Advise | None = None,
        batch_hashes: BatchHashes | None = None,
    ) -> None:
        self.folder, self.stages, self.context = folder, stages, context
        self.ends = tuple(accumulate(stage.schedule.steps for stage in stages))
        self.steps = self.ends[-1]
        self.images, self.reference, self.batch_hashes = images, reference, batch_hashes
        self.log_every = max(1, min(100, self.steps // 100))
        self.saved_at = time.monotonic()
        self.pace, self.advise, self.status_at = pace, advise, -math.inf
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
        """Report loss, speed and remaining time, and once the expected duration of the run."""
        pace, status = self.pace, self.context.status
        if pace is None:
            return
        pace.step(done)
        estimate = pace.estimate()
        if estimate is not None:
            self.note(estimate)
            steps = self.steps - done
            advice = self.advise(pace.seconds_left / steps, steps) if self.advise is not None and steps else None
            if advice is not None:
                self.note(advice)
        now = time.monotonic()
        if status is not None and now - self.status_at > STATUS_SECONDS:
            # Copy the loss from the device only for a status line.
            status(pace.line(float(losses.total.detach())), pace.seconds_left)
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
        start = f" --init-from {best}" if best.is_file() else ""
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
        averaged, reference = state.averaged_network(), self.reference
        psnr = mean_psnr_y(averaged, self.images, averaged.spec.scale, processes)
        if state.role == "teacher":
            self.folder.metrics("validation", done, {"tuned_teacher_psnr_y": psnr})
            self.note(f"step {done}/{self.steps}: teacher being tuned {psnr:.3f} dB, {reference.line()}")
            return
        numbers = {"student_psnr_y": psnr, "bicubic_psnr_y": reference.bicubic}
        if reference.teacher is not None:
            numbers["teacher_psnr_y"] = reference.teacher
        self.folder.metrics("validation", done, numbers)
        self.note(f"step {done}/{self.steps}: student {psnr:.3f} dB, {reference.line()}")
        if psnr > state.best_psnr_y:
            state.best_psnr_y = psnr
            self.folder.save_best(averaged)


@torch.no_grad()
def sr_8bit(model: ImageModel | None, lr: torch.Tensor, scale: int) -> torch.Tensor:
    """Return the model's output in fp32, or the bicubic enlargement without a model; rounded to 8 bit, on the CPU."""
    sr = upscale_bicubic(lr, scale) if model is None else model(lr.to(model.device))
    return to_u8(sr.float()).cpu().float() / 255


def mean_psnr_y(
    model: ImageModel | None, images: Sequence[ValidationImage], scale: int, processes: Processes | None = None
) -> float:
    """Return the mean Y-PSNR in dB, border = scale; bicubic's without a model. Processes divide the images."""
    processes = processes or Processes()
    figures = torch.zeros(len(images))
    for index in range(processes.rank.index, len(images), processes.rank.world_size):
        image = images[index]
        figures[index] = psnr_y(sr_8bit(model, image.lr, scale), image.hr, border=scale)
    processes.sum_(figures)
    return float(figures.mean())
